from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from uda.data.label_spaces import CAMVID11, CITYSCAPES19, LABEL_SPACES, LabelSpace
from uda.engine import evaluate
from uda.models import Segmenter, adapt, add_target_norms, build_model, load, save
from uda.models.batch_norm import normalising
from uda.models.pretrained import DESCRIPTION, WEIGHTS, ModelError
from uda.types import Sample

NETWORKS: dict[str, dict[str, Any]] = {
    "segmenter": {"decoder": "FPN", "weights": None, "aux": True, "mean": [0.4, 0.5, 0.6]},
    "daformer": {"encoder": "mit_b0", "weights": None},
    "deeplabv2_resnet101": {"weights": None, "blocks": [1, 1, 1, 1], "width": 8, "bgr": True},
    "hrda": {"base": "segmenter", "weights": None, "crop": [32, 32], "decoder": "FPN"},
}
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def worn(model: nn.Module) -> nn.Module:
    """With weights and statistics that no fresh network has."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point() and value.ndim == 1:
                value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    model = worn(build_model(name, 11, **NETWORKS[name]))
    back = load(save(model, tmp_path / "deep" / "model", CAMVID11))
    assert not back.training
    assert back.space == CAMVID11
    with torch.no_grad():
        torch.testing.assert_close(back(IMAGES).logits, model(IMAGES).logits, rtol=0, atol=0)
    assert sorted(path.name for path in (tmp_path / "deep/model").iterdir()) == [DESCRIPTION, WEIGHTS]


def test_a_network_that_no_name_built_and_the_ecosystems_methods(tmp_path: Path) -> None:
    model = Segmenter(19, decoder="FPN", weights=None)
    model.save_pretrained(tmp_path)
    back = Segmenter.from_pretrained(tmp_path)
    assert back.state_dict().keys() == model.state_dict().keys()
    assert not hasattr(back, "space")
    from uda.models import DeepLabV2

    with pytest.raises(ModelError, match=r"holds a Segmenter, no DeepLabV2; uda.models.load takes any"):
        DeepLabV2.from_pretrained(tmp_path)
    # the file itself names the folder too
    assert isinstance(load(tmp_path / WEIGHTS), Segmenter)


def test_an_own_network_takes_its_weights(tmp_path: Path) -> None:
    def own() -> nn.Module:
        body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1))
        return adapt(body, num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3, feature_layer="1")

    model = worn(own())
    save(model, tmp_path)
    with pytest.raises(ModelError, match=re.escape("build it and give load(.., into=it)")):
        load(tmp_path)
    back = load(tmp_path, into=own())
    torch.testing.assert_close(back(IMAGES).logits, model(IMAGES).logits)


def test_per_domain_statistics_are_kept_apart_and_the_targets_are_in_place(tmp_path: Path) -> None:
    model = Segmenter(5, decoder="FPN", weights=None).eval()
    add_target_norms(model)
    with normalising(model, "target"):
        worn(model)
        target = model(IMAGES).logits
        save(model, tmp_path)  # whatever is in place at the time
    source = model(IMAGES).logits
    assert (target - source).abs().max() > 0.01
    back = load(tmp_path)
    torch.testing.assert_close(back(IMAGES).logits, target, rtol=0, atol=0)
    with normalising(back, "source"):
        torch.testing.assert_close(back(IMAGES).logits, source, rtol=0, atol=0)


@pytest.mark.parametrize("name", LABEL_SPACES)
def test_label_spaces_come_back_from_json(name: str) -> None:
    space = LABEL_SPACES[name]
    assert LabelSpace.from_description(json.loads(json.dumps(space.describe()))) == space


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(ModelError, match=f"^{folder}: no such folder"):
        load(folder)
    folder.mkdir()
    with pytest.raises(ModelError, match=f"^{folder}: no trained network"):
        load(folder)
    model = Segmenter(5, decoder="FPN", weights=None)
    with pytest.raises(ValueError, match="'cityscapes19' has 19 classes, the model 5"):
        save(model, folder, CITYSCAPES19)
    save(model, folder)
    with pytest.raises(ModelError, match="has no teacher"):
        load(folder, network="teacher")
    with pytest.raises(ModelError, match="must be 'student' or 'teacher'"):
        load(folder, network="other")  # type: ignore[arg-type]
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:1000])
    with pytest.raises(ModelError, match=f"{folder / WEIGHTS}: damaged"):
        load(folder)
    save(Segmenter(5, decoder="FPN", weights=None, aux=True), tmp_path / "other")
    (folder / WEIGHTS).write_bytes((tmp_path / "other" / WEIGHTS).read_bytes())
    with pytest.raises(ModelError, match=f"{folder / WEIGHTS}: weights of another network: .*aux_head"):
        load(folder)
    (folder / WEIGHTS).unlink()
    for content in ([1], {"step": 3}):
        torch.save(content, folder / "checkpoint.pt")
        with pytest.raises(ModelError, match=f"{folder / 'checkpoint.pt'}: holds no network"):
            load(folder)
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(ModelError, match=r"neither model.safetensors nor checkpoint.pt"):
        load(folder)
    for content, message in (("{", "damaged"), ("[]", "damaged"), ('{"format": 99, "num_classes": 5}', "newer")):
        (folder / DESCRIPTION).write_text(content)
        with pytest.raises(ModelError, match=f"{folder / DESCRIPTION}: .*{message}"):
            load(folder)


class Labelled:
    """Two images whose labels are of class ``c`` in column ``c``."""

    name = "columns"

    def __init__(self, space: LabelSpace) -> None:
        self.space = space

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        label = torch.arange(self.space.num_classes).repeat(8, 1)
        return Sample(torch.zeros(3, 8, self.space.num_classes, dtype=torch.uint8), label, str(index))

    def unlabelled(self) -> Any:
        raise NotImplementedError


class Columns(nn.Module):
    """Predicts class ``c`` of its own classes in column ``c``."""

    def __init__(self, space: LabelSpace | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        if space is not None:
            self.space = space  # type: ignore[assignment]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        width = images.shape[-1]
        return torch.eye(width).view(1, width, 1, width).expand(len(images), -1, images.shape[-2], -1)


def test_classes_are_compared_by_name() -> None:
    space = CAMVID11
    backwards = LabelSpace("backwards", space.classes[::-1])
    assert evaluate(Columns(space), Labelled(space)).miou() == 1
    assert evaluate(Columns(None), Labelled(backwards)).miou() == 1  # which classes it has, it does not say
    mapped = evaluate(Columns(space), Labelled(backwards))
    assert mapped.class_names == space.names
    # column c is the model's class c and the data set's class 10 - c, right in the middle alone
    assert mapped.miou() == pytest.approx(1 / 11)
    fewer = LabelSpace("fewer", space.classes[3:])
    with pytest.raises(ValueError, match=r"columns: the model was trained without 'sky', 'building', 'pole'"):
        evaluate(Columns(fewer), Labelled(space))
