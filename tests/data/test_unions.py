from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from uda.data import CAMVID11, CITYSCAPES19, CITYSCAPES_CATEGORIES, IKA, union_space
from uda.data.pairs import split_coarse
from uda.engine.merging import Merging
from uda.functional import group_log_prob, marginal_cross_entropy_map
from uda.methods.mic import half_source
from uda.methods.supervised import labelled_loss
from uda.types import IGNORE, View


def test_unions_of_camvid_in_cityscapes() -> None:
    space = union_space(CITYSCAPES19, CAMVID11)
    names = CITYSCAPES19.names
    covers = {tuple(names[i] for i in union) for union in space.unions}
    assert ("car", "truck", "bus", "train") in covers
    assert ("rider", "motorcycle", "bicycle") in covers
    mapping = CAMVID11.mapping_to(space)
    assert not mapping.missing
    assert space.unions[mapping.table[CAMVID11.index("car")] - 19] == tuple(
        map(names.index, ("car", "truck", "bus", "train"))
    )
    assert mapping.table[CAMVID11.index("road")] == names.index("road")
    assert CAMVID11.mapping_to(CITYSCAPES19).table[CAMVID11.index("tree")] == IGNORE  # what unions are for


def test_a_class_that_is_no_union_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'building' of 'camvid11'.*'barrier'.*give aliases"):
        union_space(IKA, CAMVID11)
    space = union_space(IKA, (CAMVID11, {"building": "building"}))
    mapping = CAMVID11.mapping_to(space, {"building": "building"})
    assert mapping.table[CAMVID11.index("building")] == IKA.index("building")


def test_marginal_loss_is_the_brute_force_sum_and_plain_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, groups = torch.randn(2, 4, 3, 5), [(0, 2), (3,)]
    labels = torch.randint(0, 6, (2, 3, 5))
    labels[0, 0, 0] = IGNORE
    loss = marginal_cross_entropy_map(logits, labels, groups)
    members = [(0,), (1,), (2,), (3,), (0, 2), (3,)]
    prob = logits.softmax(1)
    for n, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
        label = int(labels[n, y, x])
        expected = 0.0 if label == IGNORE else -float(prob[n, list(members[label]), y, x].sum().log())
        assert abs(float(loss[n, y, x]) - expected) < 1e-5
    fine = labels.masked_fill((labels == 4), 1)
    as_class = fine.masked_fill(fine == 5, 3)
    assert torch.equal(
        marginal_cross_entropy_map(logits, fine, groups),
        F.cross_entropy(logits, as_class, reduction="none", ignore_index=IGNORE),
    )


def test_tiny_probabilities_stay_finite_and_wrong_groups_are_refused() -> None:
    logits = torch.tensor([500.0, -500.0, -500.0]).view(1, 3, 1, 1).requires_grad_()
    value = group_log_prob(logits, [(1, 2)])
    value.sum().backward()
    assert abs(value.item() + 1000 - torch.log(torch.tensor(2.0)).item()) < 1e-2
    assert torch.isfinite(logits.grad).all()
    for groups in ([], [()], [(0, 0)], [(3,)]):
        with pytest.raises(ValueError, match="group"):
            group_log_prob(logits, groups)
    double = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[[4, 0], [255, 5]]])
    assert torch.autograd.gradcheck(lambda x: marginal_cross_entropy_map(x, labels, [(0, 1), (1, 2, 3)]), double)


def test_coarse_labels_stand_apart_and_both_teach() -> None:
    space = SimpleNamespace(num_classes=3, unions=((0, 1),))
    view = split_coarse(View(torch.zeros(1, 3, 1, 3), torch.tensor([[[2, 3, 255]]])), space)
    assert view.labels.tolist() == [[[2, 255, 255]]]
    assert view.all_labels.tolist() == [[[2, 3, 255]]]
    logits = torch.tensor([1.0, 0.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    prob = logits[0, :, 0, 0].softmax(0)
    expected = -(prob[2].log() + (prob[0] + prob[1]).log()) / 2
    torch.testing.assert_close(labelled_loss(logits, view), expected)
    weights = torch.tensor([1.0, 3.0, 4.0])  # of the union: 2
    weighted = -(4 * prob[2].log() + 2 * (prob[0] + prob[1]).log()) / 6
    torch.testing.assert_close(labelled_loss(logits, view, weights), weighted)
    target = View(torch.zeros(2, 3, 1, 3), torch.zeros(2, 1, 3, dtype=torch.int64))
    assert half_source(view, target).all_labels.tolist() == [[[2, 3, 255]], [[0, 0, 0]]]


def test_merging_sums_and_differs_from_the_best_fine_class() -> None:
    merging = Merging.of(CITYSCAPES19, CITYSCAPES_CATEGORIES)
    names = CITYSCAPES_CATEGORIES.names
    logits = torch.randn(2, 19, 4, 4, generator=torch.Generator().manual_seed(0))
    prob = logits.softmax(1)
    summed = torch.stack([prob[:, list(group)].sum(1) for group in merging.groups], 1)
    assert torch.equal(merging.predict(logits), summed.argmax(1))
    table = torch.tensor([next(g for g, group in enumerate(merging.groups) if i in group) for i in range(19)])
    by_argmax = Merging.of(CITYSCAPES19, CITYSCAPES_CATEGORIES, "argmax").predict(logits)
    assert torch.equal(by_argmax, table[logits.argmax(1)])
    assert (by_argmax != summed.argmax(1)).any()
    assert sorted(i for group in merging.groups for i in group) == list(range(19))
    assert merging.groups[names.index("human")] == (11, 12)
    with pytest.raises(ValueError, match=r"'two wheeler' of 'ika' is in no single class"):
        Merging.of(IKA, CITYSCAPES_CATEGORIES)
