from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from uda.functional.losses import kld_regulariser, symmetric_cross_entropy
from uda.functional.prototypes import (
    class_mean,
    crop_soft_labels,
    pack_soft_labels,
    prototype_consistency,
    prototype_update,
    prototype_weight,
    rectify,
)
from uda.functional.rand_augment import rand_augment, rand_augment_maps
from uda.methods import ProDA, Supervised
from uda.methods.support.prototype_bank import UNKNOWN, PrototypeBank
from uda.testing.methods import MethodContract, Recorder, one_step
from uda.testing.tiny import TinyDataset, TinySegmenter, tiny_target
from uda.types import IGNORE, SegOutput, TaskSpec, View


def drawn_step(run, index: int = 3):
    """One more step of a run on training crops, which know their windows."""
    source, target = TinyDataset(num_classes=run.update.spec.num_classes), tiny_target().unlabelled()
    return one_step(run, run.pairs(source, target)[index])


def whole_soft_labels(network, image: Tensor) -> Tensor:
    """What is kept of a target image: probabilities at the size of the decoder's features, packed."""
    output = network.eval()(image[None] / 255)
    size = output.get("decoder").shape[-2:]
    return pack_soft_labels(F.interpolate(output.logits.softmax(1), size, mode="bilinear")[0])


class TestProDA(MethodContract):
    make = lambda self: ProDA()  # noqa: E731
    invalid = (
        {"weight": -1.0}, {"alpha": -0.1}, {"beta": -1.0}, {"soft_labels": "none"}, {"threshold": 1.5},
        {"temperature": 0.0}, {"consistency": -1.0}, {"regulariser": -0.1}, {"momentum": 2.0}, {"start": -0.5},
        {"images": 0}, {"min_share": 1.5},
    )  # fmt: skip

    @pytest.mark.parametrize("batch_size", [1, 3])
    @pytest.mark.parametrize("features", ["decoder", "bottleneck"])
    def test_terms_follow_the_paper(self, batch_size: int, features: str) -> None:
        tested = ProDA(
            weight=2.0, alpha=0.3, beta=0.7, temperature=1.5, consistency=4.0, regulariser=0.2, threshold=0.21,
            features=features,
        )  # fmt: skip
        run = self.train([tested], steps=2, batch_size=batch_size)
        step = drawn_step(run)
        tested.prepare(step)
        terms = tested.losses(step)
        view, taught, logits = step.view("target"), step.teach("target"), step.predict("target").logits
        assert any(window.flip for window in view.windows) or batch_size == 1

        def distance(output: SegOutput) -> Tensor:
            maps = output.features if features == "bottleneck" else output.get("decoder")
            difference = maps[:, None] - tested.bank.prototypes[None, :, :, None, None]
            return torch.where((tested.bank.counts == 0)[:, None, None], UNKNOWN, difference.norm(dim=2))

        weight = prototype_weight(distance(taught), temperature=1.5)
        packed = [whole_soft_labels(tested.frozen.network, tested._target[w.sample].image) for w in view.windows]
        soft = torch.stack([crop_soft_labels(p, w, (32, 64)) for p, w in zip(packed, view.windows, strict=True)])
        upsampled = F.interpolate(weight, soft.shape[-2:], mode="bilinear")
        labels, _ = rectify(upsampled, soft, threshold=0.21, known=tested.bank.counts > 0)
        assert (labels != IGNORE).any()
        strong = step.view("target_strong").images
        assert torch.equal(strong, rand_augment(view.images, tested._draws))
        moved = rand_augment_maps(distance(taught), tested._draws, outside=-1.0)
        consistency = prototype_consistency(
            distance(step.predict("target_strong")), moved, temperature=1.5, padding=-1.0
        )
        expected = {
            "pseudo_label": 2 * symmetric_cross_entropy(logits, labels, alpha=0.3, beta=0.7),
            "regulariser": 0.2 * kld_regulariser(logits),
            "consistency": 4 * consistency,
        }
        torch.testing.assert_close(terms, expected)

    def test_prototypes_start_as_running_means_and_move_with_the_teacher(self) -> None:
        tested = ProDA(momentum=0.3)
        run = self.train([Supervised(), tested], steps=3)
        step = drawn_step(run)
        step.index = 0
        tested.bank.prototypes.zero_()
        tested.bank.counts.zero_()
        order = step.generator.get_state()
        tested.prepare(step)
        step.generator.set_state(order)
        prototypes, counts = torch.zeros(5, 6), torch.zeros(5)
        for index in torch.randperm(6, generator=step.generator).tolist():
            output = step.infer(tested._target[index].image[None] / 255)
            maps = output.get("decoder"), F.interpolate(output.logits, (16, 32), mode="bilinear")
            # 10 of 129 x 257 cells are less than one of 16 x 32
            prototypes, counts = prototype_update(prototypes, counts, *class_mean(*maps, min_pixels=1), momentum=None)
        assert counts.sum() > 0
        torch.testing.assert_close(tested.bank.prototypes, prototypes)
        assert torch.equal(tested.bank.counts, counts)
        tested.after_step(step)
        taught = step.teach("target")
        maps = taught.get("decoder"), F.interpolate(taught.logits, (16, 32), mode="bilinear")
        moved, _ = prototype_update(prototypes, counts, *class_mean(*maps, min_pixels=1), momentum=0.3, mean_first=1)
        torch.testing.assert_close(tested.bank.prototypes, moved)
        assert not torch.equal(moved, prototypes)

    def test_the_frozen_network_is_the_student_at_start_and_stays(self) -> None:
        class Keeper(Recorder):
            def record(self, update, logs):
                super().record(update, logs)
                if update.index == 2:
                    self.at_start = {key: value.clone() for key, value in self.model.state_dict().items()}

        run = self.train([Supervised(), ProDA(start=0.5)], steps=4, trainer=Keeper)
        frozen = run.methods[1].frozen.network.state_dict()
        assert all(torch.equal(value, run.at_start[key]) for key, value in frozen.items())
        assert any(not torch.equal(value, run.model.state_dict()[key]) for key, value in frozen.items())
        assert ["loss/ProDA/pseudo_label" in logs for logs in run.logs] == [False, False, True, True]

    def test_each_target_image_is_labelled_once_as_a_whole_in_evaluation_mode(self) -> None:
        run = self.train([Supervised(), ProDA()], steps=7)
        frozen = run.methods[1].frozen
        assert sorted(frozen.packed) == list(range(6))
        assert frozen.network.passes == [(False, False)] * 6
        for index, packed in frozen.packed.items():
            assert packed.dtype == torch.uint8
            assert torch.equal(packed, whole_soft_labels(frozen.network, frozen.target[index].image))

    def test_what_was_kept_goes_with_another_networks_weights(self) -> None:
        run = self.train([ProDA()], steps=3)
        frozen = run.methods[0].frozen
        assert frozen.packed
        run.methods[0].load_state_dict(run.methods[0].state_dict())
        assert not frozen.packed
        assert all("packed" not in key for key in run.methods[0].state_dict())

    def test_the_frozen_network_normalises_as_the_target(self) -> None:
        run = self.train([Supervised(), ProDA()], steps=2, batch_norm="per_domain")
        frozen = run.methods[1].frozen
        before = frozen.crops(drawn_step(run))
        frozen.packed = {}
        frozen.network.stem[1].running_mean.add_(5.0)
        assert torch.equal(frozen.crops(drawn_step(run)), before)
        frozen.packed = {}
        frozen.network.stem[1].target_running_mean.add_(5.0)
        assert not torch.equal(frozen.crops(drawn_step(run)), before)

    def test_a_view_without_windows_is_refused(self) -> None:
        tested = ProDA()
        run = self.train([tested], steps=2)
        images = torch.rand(2, 3, 32, 64)
        step = one_step(run, {"source": View(images), "target": View(images)})
        tested.prepare(step)
        with pytest.raises(ValueError, match=r"give View\(\.\.\., windows=\.\.\.\).*or soft_labels='teacher'"):
            tested.losses(step)

    def test_a_network_without_such_features_is_refused(self) -> None:
        spec = TaskSpec.of(TinySegmenter(), TinyDataset().space, target=tiny_target())
        ProDA(features="bottleneck").setup(spec)
        with pytest.raises(ValueError, match=r"features is 'layer4'.*extra tensors: decoder, or 'bottleneck'"):
            ProDA(features="layer4").setup(spec)

    def test_each_ingredient_can_be_switched_off(self) -> None:
        plain = ProDA(rectification=False, soft_labels="teacher", alpha=1.0, beta=0.0, consistency=0.0, regulariser=0.0)
        assert plain.reads == {"target"}
        run = self.train([Supervised(), plain], trainer=Recorder)
        assert plain.frozen is None
        assert {tag for tag in run.logs[-1] if tag.startswith("loss/ProDA")} == {"loss/ProDA/pseudo_label"}
        assert "target_strong" not in run.steps[-1].view_names
        step = one_step(run)
        labels = step.teach("target").logits.argmax(1)
        expected = F.cross_entropy(step.predict("target").logits, labels)
        torch.testing.assert_close(plain.losses(step)["pseudo_label"], expected)

    @pytest.mark.parametrize(("known", "expected"), [((1, 1, 1), 1), ((1, 0, 1), 0), ((1, 1, 0), 1), ((0, 0, 0), 2)])
    def test_prototypes_correct_a_wrong_label(self, known: tuple[int, ...], expected: int) -> None:
        """A soft label in doubt goes to the class whose prototype is near; a class without one keeps its share.

        Soft labels 0.32, 0.28, 0.4; the feature is class 1's prototype, 7.07 away from the others.
        """
        tested = ProDA(soft_labels="teacher", features="bottleneck")
        run = self.train([tested], steps=1, num_classes=3)
        tested.bank.prototypes.copy_(torch.eye(3, 8) * 5)
        tested.bank.counts.copy_(torch.tensor(known))
        features = (torch.eye(8)[1] * 5).view(1, 8, 1, 1)
        logits = torch.tensor([0.32, 0.28, 0.4]).log().view(1, 3, 1, 1).expand(1, 3, 4, 4)
        step = one_step(run)
        step._taught["target"] = taught = SegOutput(logits, features)
        if known == (1, 0, 1):
            # among classes 0 and 2 alone: make 0 the nearer one
            tested.bank.prototypes[0] = features.flatten()
        assert (tested.labels(step, tested.bank.distance(taught)) == expected).all()


class TestProDATeacherLabels(MethodContract):
    make = lambda self: ProDA(soft_labels="teacher", start=0.5)  # noqa: E731
    settings = MappingProxyType({"steps": 2})

    def test_smoke_step_has_finite_scalar_losses(self) -> None:
        run = self.train([Supervised(), self.make()], trainer=Recorder)
        assert [any("ProDA" in tag for tag in logs) for logs in run.logs] == [False, True]

    def test_gradients_reach_their_owners_only(self) -> None:
        run = self.train([self.make()], steps=2)
        assert set(self.terms(run, run.methods[0])) == {"pseudo_label", "regulariser", "consistency"}


class TestPrototypeBank:
    def test_a_class_never_seen_takes_no_part_and_its_first_vector(self) -> None:
        bank = PrototypeBank(3, 2)
        features = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        logits = torch.tensor([0.0, 9.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        output = SegOutput(logits, features)
        assert torch.equal(prototype_weight(bank.distance(output)), torch.full((1, 3, 4, 4), 1 / 3))
        bank.feed(output, 1e-4)
        assert bank.prototypes.tolist() == [[0, 0], [1, 2], [0, 0]]
        assert bank.counts.tolist() == [0, 1, 0]
        weight = prototype_weight(bank.distance(SegOutput(logits, features + 100)), temperature=3.0)
        assert torch.equal(weight, torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4))

    @pytest.mark.parametrize(
        ("min_share", "cells", "known"),
        [(0.05, 5, True), (0.05, 4, False), (0.0, 1, True), (10 / (129 * 257), 1, True), (0.5, 49, False)],
    )
    def test_least_share_of_100_cells(self, min_share: float, cells: int, known: bool) -> None:
        bank = PrototypeBank(2, 1, "decoder", min_share)
        logits = torch.zeros(100)
        logits[:cells] = 1.0
        logits = torch.stack((torch.zeros(100) + 0.5, logits)).view(1, 2, 10, 10)
        bank.feed(SegOutput(logits, torch.ones(1, 9, 2, 2), extra={"decoder": torch.ones(1, 1, 10, 10)}), None)
        assert bank.known.tolist() == [True, known]

    def test_the_default_is_the_published_count_at_the_published_size(self) -> None:
        """10 cells of 1024x2048 pixels at a stride of 8, with ceil_mode."""
        for cells in (9, 10):
            bank = PrototypeBank(2, 1, min_share=ProDA().min_share)
            logits = torch.zeros(1, 2, 129, 257)
            logits[:, 0] = 0.5
            logits[:, 1, 0, :cells] = 1.0
            bank.feed(SegOutput(logits, torch.ones(1, 1, 129, 257)), None)
            assert bank.known.tolist() == [True, cells == 10]

    def test_survives_autocast(self) -> None:
        output = SegOutput(torch.randn(1, 2, 8, 8).bfloat16(), torch.randn(1, 4, 8, 8).bfloat16())
        bank, plain = PrototypeBank(2, 4), PrototypeBank(2, 4)
        with torch.autocast("cpu", torch.bfloat16):
            bank.feed(output, None)
        plain.feed(output, None)
        assert torch.equal(bank.prototypes, plain.prototypes)
        assert bank.prototypes.dtype == torch.float32


@pytest.mark.parametrize("initialised", ["whole", "moved"])
def test_prototypes_make_the_labels_of_a_shifted_classifier_better(initialised: str) -> None:
    """Two clusters of features and a classifier whose boundary lies too near to the first of them.

    It takes a sixth of the first cluster for the second class. The prototypes are means of features by its own wrong
    labels, and all the same lie near the clusters' centres, so that labels weighted by them are right more often.
    """
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(2).repeat_interleave(5000)
    features = torch.randn(10_000, 2, generator=generator)
    features[:, 0] += 4 * truth
    logits = torch.stack((1 - features[:, 0], torch.zeros(10_000)), dim=1)
    maps = [values.t().reshape(1, 2, 100, 100) for values in (features, logits)]
    output = SegOutput(maps[1], torch.ones(1, 1), extra={"decoder": maps[0]})
    bank = PrototypeBank(2, 2, "decoder", 0.0)
    bank.feed(output, None)
    if initialised == "moved":
        for _ in range(50):
            bank.feed(output, 0.9)
    plain = maps[1].softmax(1)
    rectified = plain * prototype_weight(bank.distance(output))

    def accuracy(prob: torch.Tensor) -> float:
        return float((prob.argmax(1).reshape(-1) == truth).float().mean())

    assert accuracy(plain) == pytest.approx(0.92, abs=0.01)
    assert accuracy(rectified) > accuracy(plain) + 0.02
