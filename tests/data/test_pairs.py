"""Source/target pairs: a pure function of (seed, step, rank), whatever was loaded before and by whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from uda.data import DataError, Mixture
from uda.data.balance import balanced
from uda.data.pairs import Pairs, RareClasses
from uda.data.transforms import TrainTransform
from uda.types import IGNORE, Sample, View


class Numbers:
    """Labelled samples whose pixels say which one they are."""

    class Space:
        name, names, num_classes = "three", ("a", "b", "c"), 3

    space = Space()

    def __init__(self, count: int, name: str = "numbers") -> None:
        self.count, self.name = count, name

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        label = torch.zeros(8, 8, dtype=torch.int64)
        label[0, :4] = 1 if index % 2 else IGNORE
        if index == 5:
            label[4:, 4:] = 2
        return Sample(torch.full((3, 8, 8), index, dtype=torch.uint8), label, f"{self.name}/{index}")

    def unlabelled(self) -> Images:
        return Images(self)


class Images:
    def __init__(self, full: Numbers) -> None:
        self._pixels = [full[index].image for index in range(len(full))]
        self.name = full.name

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self._pixels[index], None, f"{self.name}/{index}")


class RaisingLabels(Numbers):
    """A target whose labels must not be touched."""

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("a target label was asked for")

    def unlabelled(self) -> Images:
        return Images(Numbers(self.count, self.name))


WHOLE = TrainTransform(crop=(8, 8), scale=(1.0, 1.0), flip=0.0)
RANDOM = TrainTransform(crop=(6, 6), scale=(0.4, 1.0), jitter=0.4)


def pairs(count: int = 12, target: int | None = 9, **more: object) -> Pairs:
    settings = {"batch_size": 2, "seed": 3, "transform": WHOLE, **more}
    return Pairs(Numbers(count), None if target is None else Numbers(target, "target").unlabelled(), **settings)


def drawn(view: View) -> list[int]:
    return [round(float(value) * 255) for value in view.images[:, 0, 0, 0]]


def same(a: dict[str, View], b: dict[str, View]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k].images, b[k].images)
        and a[k].names == b[k].names
        and (a[k].labels is None) == (b[k].labels is None)
        and (a[k].labels is None or torch.equal(a[k].labels, b[k].labels))
        for k in a
    )


def test_views() -> None:
    batch = pairs()[0]
    assert set(batch) == {"source", "target"}
    source, target = batch["source"], batch["target"]
    assert source.images.shape == (2, 3, 8, 8)
    assert source.labels.shape == (2, 8, 8)
    assert source.weight is None
    assert target.labels is None
    assert source.names == tuple(f"numbers/{i}" for i in drawn(source))
    assert target.names == tuple(f"target/{i}" for i in drawn(target))
    assert drawn(source) == pairs().indices(0)
    assert drawn(target) == pairs().indices(0, "target")


def test_no_target() -> None:
    assert set(pairs(target=None)[3]) == {"source"}
    assert pairs(target=None).indices(0, "target") == []


def test_step_is_a_pure_function() -> None:
    first = pairs(transform=RANDOM)
    kept = [first[step] for step in range(10)]
    other = pairs(transform=RANDOM)
    torch.manual_seed(99)
    for step in (7, 2, 9, 0):
        assert same(other[step], kept[step])
    assert not same(pairs(transform=RANDOM, seed=4)[0], kept[0])
    state = torch.get_rng_state()
    first[3]
    assert torch.equal(torch.get_rng_state(), state)


def test_every_epoch_is_another_order_of_all_samples() -> None:
    data = pairs(count=12, target=8)
    for domain, count in (("source", 12), ("target", 8)):
        epochs = [
            [i for step in range(e * count // 2, (e + 1) * count // 2) for i in data.indices(step, domain)]
            for e in range(3)
        ]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_incomplete_batches_are_dropped() -> None:
    data = pairs(count=7, batch_size=3)
    counts = Counter(i for step in range(400) for i in data.indices(step))
    assert all(len(set(data.indices(step))) == 3 for step in range(50))
    assert set(counts) == set(range(7)), "which samples are left out changes from epoch to epoch"


def test_smaller_than_a_batch_repeats() -> None:
    assert sorted(pairs(count=1, batch_size=3).indices(0)) == [0, 0, 0]
    assert set(pairs(count=2, batch_size=3).indices(5)) == {0, 1}


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_one_global_batch(world: int) -> None:
    ranks = [pairs(count=13, batch_size=2, rank=rank, world=world, transform=RANDOM) for rank in range(world)]
    single = pairs(count=13, batch_size=2 * world, transform=RANDOM)
    for step in range(4):
        parts = [data[step] for data in ranks]
        for domain in ("source", "target"):
            names = [name for part in parts for name in part[domain].names]
            assert len(set(names)) == len(names), "ranks overlap"
            assert names == list(single[step][domain].names)
            assert torch.equal(torch.cat([part[domain].images for part in parts]), single[step][domain].images)


def test_source_and_target_are_drawn_independently() -> None:
    data = pairs(count=12, target=12)
    assert any(data.indices(step) != data.indices(step, "target") for step in range(6))


def test_source_and_target_are_augmented_independently() -> None:
    only = Numbers(1)
    data = Pairs(only, only.unlabelled(), TrainTransform(crop=(4, 4), scale=(0.5, 1.0)), batch_size=1)
    views = [data[step] for step in range(8)]
    same = [view["source"].windows[0] == view["target"].windows[0] for view in views]
    assert sum(same) <= 1
    assert len({view["target"].windows[0] for view in views}) > 4


def test_labels_of_the_target_are_never_asked_for() -> None:
    data = Pairs(Numbers(4), RaisingLabels(4), WHOLE, batch_size=2)
    assert not isinstance(data.target, RaisingLabels)
    assert data[0]["target"].labels is None


def test_labels_that_come_with_a_target_are_dropped() -> None:
    class Leaky(Images):
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index)._replace(label=torch.zeros(8, 8, dtype=torch.int64))

    assert Pairs(Numbers(4), Leaky(Numbers(4)), WHOLE, batch_size=2)[0]["target"].labels is None


def test_target_transform() -> None:
    data = pairs(target_transform=TrainTransform(crop=(4, 6)))
    assert data[0]["source"].images.shape[-2:] == (8, 8)
    assert data[0]["target"].images.shape[-2:] == (4, 6)


def test_mixture_weights_fill_the_view() -> None:
    mixed = Mixture([(Numbers(3), 1.0), (Numbers(3, "few"), 0.25)])
    data = Pairs(mixed, None, WHOLE, batch_size=6)
    view = data[0]["source"]
    assert view.weight.shape == (6, 8, 8)
    assert view.weight.dtype == torch.float32
    for name, weight in zip(view.names, view.weight, strict=True):
        assert (weight == (0.25 if name.startswith("few") else 1.0)).all()
    assert Pairs(Mixture([(Numbers(3), 1.0)]), None, WHOLE, batch_size=2)[0]["source"].weight is None


def naive_turns(share: float, draws: int) -> list[tuple[int, int]]:
    """The second part has a draw whenever its due number of draws passes a whole number."""
    turns, first, second = [], 0, 0
    for drawn in range(draws):
        if int((drawn + 1) * share + 1e-9) > second:
            turns.append((1, second))
            second += 1
        else:
            turns.append((0, first))
            first += 1
    return turns


@pytest.mark.parametrize("share", [0.5, 0.25, 0.3, 0.75])
def test_parts_take_turns_by_their_shares(share: float) -> None:
    mixed = Mixture([(Numbers(100), 1.0), (Numbers(2, "few"), 1.0)], shares=[1 - share, share])
    assert [mixed.turn(position) for position in range(60)] == naive_turns(share, 60)


def test_three_parts_get_their_shares_and_every_image_of_a_part_its_turn() -> None:
    mixed = Mixture([(Numbers(6), 1.0), (Numbers(2, "few"), 1.0), (Numbers(3, "some"), 1.0)], shares=[0.5, 0.2, 0.3])
    data = Pairs(mixed, None, WHOLE, batch_size=3, seed=1)
    names = [name for step in range(40) for name in data[step]["source"].names]
    parts = Counter(name.partition("/")[0] for name in names)
    assert parts == {"numbers": 60, "few": 24, "some": 36}
    counts = Counter(names)
    assert {counts[f"few/{at}"] for at in range(2)} == {12}
    assert {counts[f"some/{at}"] for at in range(3)} == {12}
    assert {counts[f"numbers/{at}"] for at in range(6)} == {10}
    assert names[:3] != list(Pairs(mixed, None, WHOLE, batch_size=3, seed=2)[0]["source"].names)


def test_draws_by_shares_depend_on_neither_ranks_nor_workers() -> None:
    mixed = Mixture([(Numbers(7), 1.0), (Numbers(2, "few"), 0.5)], shares=[0.75, 0.25])
    whole = Pairs(mixed, None, RANDOM, batch_size=4, seed=3)
    ranks = [Pairs(mixed, None, RANDOM, batch_size=2, seed=3, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole.loader(5, 9, workers=2), start=5):
        assert same(batch, whole[step])
        assert batch["source"].names == tuple(name for part in ranks for name in part[step]["source"].names)
        assert [mixed[index].name for index in whole.indices(step)] == list(batch["source"].names)
        assert sum(name.startswith("few") for name in batch["source"].names) == 1


def test_a_mixture_by_shares_inside_a_mixture_takes_its_own_turns() -> None:
    inner = Mixture([(Numbers(4, "a"), 1.0), (Numbers(4, "b"), 1.0)], shares=[0.25, 0.75])
    mixed = Mixture([(inner, 1.0), (Numbers(1, "few"), 1.0)], shares=[0.5, 0.5])
    names = [name for step in range(8) for name in Pairs(mixed, None, WHOLE, batch_size=4)[step]["source"].names]
    assert Counter(name[0] for name in names) == {"f": 16, "a": 4, "b": 12}


def test_rare_classes_are_drawn_part_by_part() -> None:
    mixed = Mixture([(Numbers(12), 1.0), (Numbers(2, "few"), 0.5)], shares=[0.5, 0.5])
    data = Pairs(mixed, None, WHOLE, batch_size=4, rare_class=RareClasses(temperature=0.5))
    names = [name for step in range(30) for name in data[step]["source"].names]
    assert Counter(name.partition("/")[0] for name in names) == {"numbers": 60, "few": 60}
    assert (data[0]["source"].weight[1] == 0.5).all()


def test_a_mixture_without_shares_is_drawn_as_before() -> None:
    parts = [(Numbers(7), 1.0), (Numbers(2, "few"), 1.0)]
    mixed = Pairs(Mixture(parts), None, WHOLE, batch_size=3, seed=4)
    assert [mixed.indices(step) for step in range(6)] == [
        Pairs(Numbers(9), None, WHOLE, batch_size=3, seed=4).indices(step) for step in range(6)
    ]
    with pytest.raises(ValueError, match="without shares"):
        Mixture(parts).turn(0)


@pytest.mark.parametrize(
    "shares", [[1.0], [0.5, 0.6], [1.0, 0.0], [-0.5, 1.5], [1e-9, 1.0 - 1e-9], [float("nan"), 0.5]]
)
def test_wrong_shares_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="shares must be one for each of 2 data sets, above 0 and together 1"):
        Mixture([(Numbers(3), 1.0), (Numbers(3), 1.0)], shares=shares)


def test_shares_are_of_the_identity() -> None:
    parts = [(Numbers(3), 1.0), (Numbers(2), 1.0)]
    plain, half, more = (Mixture(parts, shares=shares).identity() for shares in (None, [0.5, 0.5], [0.75, 0.25]))
    assert "share" not in plain["parts"][0]
    assert [part["share"] for part in more["parts"]] == [0.75, 0.25]
    assert half != more


def of_each(data: Pairs, steps: int) -> Counter[str]:
    """How many of the source images that some steps draw are of each data set."""
    return Counter(name.split("/")[0] for step in range(steps) for name in data[step]["source"].names)


def mixture(balance: str) -> Mixture:
    return balanced([(Numbers(10, "large"), 3.0), (Numbers(2, "small"), 1.0)], balance)


@pytest.mark.parametrize(("balance", "large"), [("image", 100), ("domain", 60), ("weight", 90)])
def test_a_balance_says_how_often_each_data_set_is_drawn(balance: str, large: int) -> None:
    data = Pairs(mixture(balance), None, WHOLE, batch_size=4, seed=1)
    assert of_each(data, 30) == {"large": large, "small": 120 - large}
    names = [name for step in range(30) for name in data[step]["source"].names]
    counts = Counter(name for name in names if name.startswith("large"))
    assert len(counts) == 10
    assert max(counts.values()) - min(counts.values()) <= 1, "inside a data set every image is drawn equally often"
    assert names != [name for step in range(30) for name in Pairs(mixture(balance), None, WHOLE, batch_size=4)[step][
        "source"].names]  # fmt: skip
    view = data[0]["source"]
    assert (view.weight is None) == (balance == "weight"), "a weight is of the draws or of the loss, never of both"


def test_every_batch_has_its_share_and_no_slot_a_data_set() -> None:
    data = Pairs(mixture("domain"), None, WHOLE, batch_size=2)
    firsts = [data[step]["source"].names[0].split("/")[0] for step in range(40)]
    assert all(of_each_batch == {"large": 1, "small": 1} for of_each_batch in (
        Counter(name.split("/")[0] for name in data[step]["source"].names) for step in range(40)
    ))  # fmt: skip
    assert 10 < firsts.count("large") < 30
    assert data.indices(3) == [
        int(name.split("/")[1]) + (10 if name.startswith("small") else 0) for name in data[3]["source"].names
    ]


def test_balanced_draws_do_not_depend_on_workers_ranks_or_what_came_before() -> None:
    def made(**more: int) -> Pairs:
        return Pairs(mixture("weight"), None, RANDOM, **{"batch_size": 4, "seed": 5, **more})

    data = made()
    loaded = list(made().loader(3, 7, workers=2))
    assert all(same(batch, data[step]) for step, batch in enumerate(loaded, start=3))
    ranks = [made(batch_size=2, rank=rank, world=2) for rank in (0, 1)]
    for step in (0, 9):
        together = [name for rank in ranks for name in rank[step]["source"].names]
        assert together == list(data[step]["source"].names)


def test_an_empty_data_set_has_no_turns() -> None:
    empty = balanced([(Numbers(2), 1.0), (Numbers(0, "none"), 1.0)], "domain")
    with pytest.raises(ValueError, match="data set none is empty"):
        Pairs(empty, None, WHOLE, batch_size=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_steps_in_order(workers: int) -> None:
    data = pairs(transform=RANDOM)
    state = torch.get_rng_state()
    batches = list(data.loader(4, 9, workers=workers))
    assert torch.equal(torch.get_rng_state(), state), "starting a loader must not draw from the run's random numbers"
    assert len(batches) == 5
    assert all(same(batch, data[step]) for step, batch in enumerate(batches, start=4))
    assert list(data.loader(4, 4)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_through_the_loader_as_they_are(workers: int) -> None:
    class Broken(Numbers):
        def __getitem__(self, index: int) -> Sample:
            raise DataError("frames/7.png: truncated PNG")

    stream: Iterator[object] = Pairs(Broken(4), None, WHOLE, batch_size=1).loader(0, 3, workers=workers)
    with pytest.raises(DataError) as error:
        next(stream)
    assert str(error.value) == "frames/7.png: truncated PNG"


def test_rare_class_sampling_prefers_the_rare() -> None:
    """Class 2 covers 16 pixels of sample 5 alone; at a low temperature nearly all draws go to the rarest class."""
    rare = RareClasses(temperature=0.01, min_share=0.05, crop_share=0.05)
    data = pairs(count=8, target=None, rare_class=rare)
    counts = Counter(i for step in range(40) for i in drawn(data[step]["source"]))
    # class 1 covers 4 x 4 pixels too: it is drawn from the odd samples; class 0 is everywhere and nearly never wanted
    assert counts[5] > 24
    assert not any(counts[i] for i in (0, 2, 4, 6))
    assert same(data[17], pairs(count=8, target=None, rare_class=rare)[17])
    even = pairs(count=8, target=None, rare_class=RareClasses(temperature=1000.0, min_share=0.05))
    assert sum(any(i in (0, 2, 4, 6) for i in drawn(even[step]["source"])) for step in range(24)) > 4


def test_rare_class_sampling_crops_again_until_it_shows() -> None:
    """Class 2 is one corner of sample 5, which many single crops of half the side miss and hardly ten in a row."""
    crop = TrainTransform(crop=(4, 4), scale=(0.5, 0.5), flip=0.0)

    class Corner(Numbers):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample._replace(label=torch.where(sample.label == 1, 0, sample.label))

    def hits(tries: int) -> float:
        rare = RareClasses(min_share=0.1, crop_share=0.3, tries=tries)
        data = Pairs(Corner(8), None, crop, batch_size=1, rare_class=rare)
        shown = [(data[step]["source"].labels == 2).float().mean() > 0.3 for step in range(60)]
        return sum(map(bool, shown)) / 60

    assert hits(1) < 0.5
    assert hits(10) > 0.9


def test_rare_class_sampling_without_any_large_enough_area() -> None:
    data = pairs(count=8, target=None, rare_class=RareClasses(min_share=0.9, crop_share=0.9, tries=2))
    assert len(data[0]["source"].names) == 2


def test_rare_class_sampling_of_unlabelled_pixels_only() -> None:
    class Empty(Numbers):
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index)._replace(label=torch.full((8, 8), IGNORE))

    with pytest.raises(ValueError, match="no labelled pixel"):
        Pairs(Empty(3), None, WHOLE, batch_size=1, rare_class=RareClasses())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"rank": 2, "world": 2}, "rank"),
        ({"count": 0}, "empty"),
    ],
)
def test_wrong_values(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pairs(**settings)
    with pytest.raises(IndexError):
        pairs()[-1]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"min_share": 1.0}, {"crop_share": -0.1}, {"tries": 0}])
def test_wrong_rare_class_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RareClasses(**settings)
