from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uda.engine import Trainer, Update
from uda.functional.entropy import kl_divergence_map
from uda.functional.losses import uncertainty_rectified_loss
from uda.functional.windows import cut_window
from uda.methods import MRNet, Supervised
from uda.methods.mrnet import together
from uda.testing.methods import Killed, MethodContract, Recorder, killed_at, one_step, settings, train
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.types import SegOutput, TaskSpec, View


def authors_labels(output1: Tensor, output2: Tensor) -> Tensor:
    """``generate_plabel_cityscapes.py`` (175, 201), of one scale; output1 is the auxiliary classifier's."""
    return F.softmax(0.5 * output1 + output2, dim=1).argmax(1)


def authors_variance(labels: Tensor, pred1: Tensor, pred2: Tensor) -> Tensor:
    """``update_variance`` of ``trainer_ms_variance.py`` (165-186) without class weights."""
    loss = nn.CrossEntropyLoss(ignore_index=255, reduction="none")(pred1, labels)
    kl_distance = nn.KLDivLoss(reduction="none")
    variance = torch.sum(kl_distance(F.log_softmax(pred1, dim=1), F.softmax(pred2, dim=1)), dim=1)
    return torch.mean(loss * torch.exp(-variance)) + torch.mean(variance)


def authors_memory(pred1: Tensor, pred2: Tensor) -> Tensor:
    """``trainer_ms.py`` (227-232)."""
    n, _, h, w = pred1.shape
    kl_loss = nn.KLDivLoss(reduction="sum")
    with torch.no_grad():
        mean_pred = F.softmax(0.5 * pred1 + pred2, dim=1)
    both = kl_loss(F.log_softmax(pred2, dim=1), mean_pred) + kl_loss(F.log_softmax(pred1, dim=1), mean_pred)
    return both / (n * h * w)


class TestMRNet(MethodContract):
    make = lambda self: MRNet()  # noqa: E731
    aux = True
    invalid = ({"weight": -1.0}, {"aux_weight": -0.1}, {"memory_weight": -2.0}, {"start": 1.5})

    def test_the_first_networks_labels_of_whole_images_serve_to_the_end(self) -> None:
        """Of the method alone, without source: the second stage."""
        run = self.train([MRNet(weight=2.0, aux_weight=0.25)], steps=4, trainer=Recorder, dropout=0.0, lr=0.1)
        method, target = run.methods[0], tiny_target().unlabelled()
        torch.manual_seed(0)
        untrained = TinySegmenter(5, aux=True, dropout=0.0).eval()
        with torch.no_grad():
            outputs = [untrained(target[index].image[None] / 255) for index in range(len(target))]
        maps = [authors_labels(output.aux, output.logits)[0] for output in outputs]
        for index, expected in enumerate(maps):
            assert torch.equal(method.maps.whole(index)[0].long(), expected)
        view = run.steps[-1].view("target")
        labels = torch.stack([cut_window(maps[w.sample], w, (32, 64), outside=255) for w in view.windows])
        step = one_step(run, {"target": view})
        output = step.predict("target")
        main = authors_variance(labels, output.logits, output.aux)
        aux = authors_variance(labels, output.aux, output.logits)
        torch.testing.assert_close(method.losses(step), {"rectified": 2 * main, "rectified_auxiliary": 0.25 * aux})

    def test_logits_are_added_not_probabilities(self) -> None:
        """A very sure auxiliary classifier outvotes the main one; probabilities would not let it."""
        main, aux = torch.tensor([0.0, 2.0, 0.0]).view(1, 3, 1, 1), torch.tensor([6.0, 0.0, 0.0]).view(1, 3, 1, 1)
        assert (main.softmax(1) + 0.5 * aux.softmax(1)).argmax() == 1
        assert together(SegOutput(main, main, aux)).flatten().tolist() == [3.0, 2.0, 0.0]

    def test_memory_regularisation_before_start(self) -> None:
        run = self.train([Supervised(), MRNet(start=0.5, memory_weight=0.3)], steps=4, trainer=Recorder)
        tags = [sorted(tag for tag in logs if tag.startswith("loss/MRNet")) for logs in run.logs]
        late = ["loss/MRNet/rectified", "loss/MRNet/rectified_auxiliary"]
        assert tags == [["loss/MRNet/memory"]] * 2 + [late] * 2
        step = one_step(run, index=0)
        output = step.predict("target")
        terms = run.methods[1].losses(step)
        torch.testing.assert_close(terms, {"memory": 0.3 * authors_memory(output.aux, output.logits)})
        terms["memory"].backward()
        gradient = output.logits.grad.clone()
        output.logits.grad = None
        (0.3 * authors_memory(output.aux, output.logits)).backward()
        torch.testing.assert_close(gradient, output.logits.grad)

    def test_stored_labels_are_those_of_the_network_at_start(self) -> None:
        run = self.train([Supervised(), MRNet(start=0.5)], steps=4, lr=0.1)
        torch.manual_seed(0)
        halfway = Trainer(
            TinySegmenter(5, aux=True),
            [Supervised(), MRNet(start=0.5)],
            settings(steps=4, lr=0.1),
            progress=killed_at(2),
        )
        with pytest.raises(Killed):
            halfway.fit(TinyDataset(), tiny_target())
        target = tiny_target()
        assert len(halfway.methods[1].maps) == 0
        assert len(run.methods[1].maps) == len(target)
        for index in range(len(target)):
            output = one_step(halfway).infer(target[index].image[None] / 255)
            assert torch.equal(run.methods[1].maps.whole(index).long(), authors_labels(output.aux, output.logits))

    def test_a_pixel_on_which_the_classifiers_disagree_counts_less(self) -> None:
        logits = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1)
        labels = torch.ones(1, 1, 1, dtype=torch.int64)

        def pull(other: torch.Tensor) -> float:
            mine = logits.clone().requires_grad_()
            v = kl_divergence_map(mine, other).detach().mean()
            loss = uncertainty_rectified_loss(mine, other, labels)
            return ((loss - v) / torch.nn.functional.cross_entropy(mine, labels)).item()

        assert pull(logits) == pytest.approx(1.0)
        assert pull(-logits) < 0.1


def test_needs_two_classifiers() -> None:
    with pytest.raises(ValueError, match="MRNet needs two classifiers"):
        train([MRNet()], steps=1)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_teacher_labels_crops_by_the_sum_of_logits(batch_size: int) -> None:
    run = train([MRNet(weight=2.0, aux_weight=0.25, teacher={})], aux=True, steps=2, batch_size=batch_size)
    step = one_step(run)
    terms = run.methods[0].losses(step)
    output, taught = step.predict("target"), step.teach("target")
    labels = authors_labels(taught.aux, taught.logits)
    main = authors_variance(labels, output.logits, output.aux)
    aux = authors_variance(labels, output.aux, output.logits)
    torch.testing.assert_close(terms, {"rectified": 2 * main, "rectified_auxiliary": 0.25 * aux})


class TestMRNetWithTeacher(MethodContract):
    make = lambda self: MRNet(teacher={"decay": 0.99})  # noqa: E731
    aux = True


def test_a_loop_without_windows_is_told_what_to_do() -> None:
    source, target = TinyDataset(), tiny_target().unlabelled()
    update = Update(TinySegmenter(aux=True), [MRNet()], total_steps=2)
    update.setup(TaskSpec.of(update.model, source.space, source=source, target=target))
    with pytest.raises(ValueError, match=r"give View\(..., windows=...\), as uda.data.Pairs does"):
        update({"target": View(torch.stack([target[index].image for index in range(2)]) / 255)})
