"""What differs between the published DeepLabV2s: the classifier's dilations, and which batch norms are trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from uda.models import DeepLabV2
from uda.models.deeplabv2 import AsppHead, DilatedResNet

SMALL = {"weights": None, "blocks": (1, 2, 1, 1), "width": 4}


class ClassifierModule(nn.Module):
    """AdaptSegNet's class of that name (DACS' and MaxSquare's too), or ADVENT's, in which the return is outdented."""

    def __init__(self, inplanes: int, num_classes: int, *, early: bool) -> None:
        super().__init__()
        self.early = early
        self.conv2d_list = nn.ModuleList()
        for dilation, padding in zip([6, 12, 18, 24], [6, 12, 18, 24], strict=True):
            self.conv2d_list.append(
                nn.Conv2d(inplanes, num_classes, 3, stride=1, padding=padding, dilation=dilation, bias=True)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2d_list[0](x)
        for i in range(len(self.conv2d_list) - 1):
            out += self.conv2d_list[i + 1](x)
            if self.early:
                return out
        return out


@pytest.mark.parametrize(("early", "dilations"), [(True, (6, 12)), (False, (6, 12, 18, 24))])
def test_dilations_are_the_authors(early: bool, dilations: tuple[int, ...]) -> None:
    theirs = ClassifierModule(8, 3, early=early)
    features = torch.rand(2, 8, 33, 40)
    ours = AsppHead(8, 3, dilations)
    left_over = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not left_over.missing_keys
    torch.testing.assert_close(ours(features), theirs(features))
    other = AsppHead(8, 3, (6, 12, 18, 24) if early else (6, 12))
    other.load_state_dict(theirs.state_dict(), strict=False)
    assert not torch.allclose(other(features), theirs(features), atol=1e-3)


def test_both_classifiers_have_the_dilations() -> None:
    model = DeepLabV2(3, dilations=[6, 12], **SMALL)
    for head in (model.head, model.aux_head):
        assert [conv.dilation for conv in head.conv2d_list] == [(6, 6), (12, 12)]
    default = DeepLabV2(3, **SMALL)
    assert [conv.dilation[0] for conv in default.head.conv2d_list] == [6, 12, 18, 24]


def test_pretrained_weights_load_whatever_the_options(tmp_path) -> None:
    encoder = DilatedResNet(SMALL["blocks"], SMALL["width"])
    torch.save(encoder.state_dict(), tmp_path / "resnet.pth")
    options = {**SMALL, "weights": str(tmp_path / "resnet.pth")}
    for changes in ({"dilations": (6, 12)}, {"frozen_affine": "none"}, {"frozen_affine": "stem"}):
        model = DeepLabV2(3, **options, **changes)
        for name, value in model.encoder.state_dict().items():
            assert torch.equal(value, encoder.state_dict()[name]), name


@pytest.mark.parametrize("frozen_affine", ["all", "stem", "none"])
def test_frozen_affine(frozen_affine: str) -> None:
    """No batch norm, all but the stem's, or each of them has a gradient; running statistics move in all."""
    model = DeepLabV2(3, frozen_affine=frozen_affine, **SMALL)
    model(torch.rand(2, 3, 32, 32)).logits.sum().backward()
    for name, module in model.encoder.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            trained = frozen_affine == "none" or (frozen_affine == "stem" and name != "bn1")
            for parameter in (module.weight, module.bias):
                assert parameter.requires_grad == trained, name
                assert (parameter.grad is not None) == trained, name
            assert module.running_mean.any(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dilations": ()}, r"dilations is \(\), must be whole numbers >= 1"),
        ({"dilations": (6, 0)}, r"dilations is \(6, 0\), must be"),
        ({"frozen_affine": "layer1"}, "frozen_affine is 'layer1', must be one of 'all', 'stem', 'none'"),
    ],
)
def test_wrong_options(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLabV2(3, **SMALL, **changes)
