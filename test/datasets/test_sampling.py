from itertools import chain

import numpy as np
import pytest
from torch.utils.data import DataLoader

from anybev.datasets.cbgs import CBGSDataset
from anybev.datasets.sample import SampleKey
from anybev.datasets.sampling import EpochSampler, sample_rng


def _indices(**arguments):
    return [key.index for key in EpochSampler(**arguments)]


def test_generators_depend_on_every_part_of_the_key():
    draw = lambda *key, attempt=0: sample_rng(key[0], SampleKey(*key[1:]), attempt).random()  # noqa: E731
    keys = [(s, e, i, a) for s in range(3) for e in range(3) for i in range(3) for a in range(3)]
    drawn = [draw(s, e, i, attempt=a) for s, e, i, a in keys]
    assert len(set(drawn)) == len(keys)
    assert draw(1, 2, 0, attempt=1) == drawn[keys.index((1, 2, 0, 1))]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 24])
@pytest.mark.parametrize("world_size", [1, 3, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_are_disjoint_and_complete(length, world_size, shuffle):
    common = {"length": length, "world_size": world_size, "shuffle": shuffle, "seed": 5}
    exact = [_indices(rank=r, pad=False, **common) for r in range(world_size)]
    assert sorted(chain(*exact)) == list(range(length))
    padded = [_indices(rank=r, **common) for r in range(world_size)]
    assert {len(p) for p in padded} == {-(-length // world_size)}
    assert set(chain(*padded)) == set(range(length))


def test_whole_batches_are_left_when_the_rest_is_dropped():
    common = {"length": 23, "world_size": 2, "batch_size": 3, "drop_last": True}
    ranks = [_indices(rank=r, **common) for r in range(2)]
    assert [len(r) for r in ranks] == [9, 9]
    assert len(set(chain(*ranks))) == 18
    sampler = EpochSampler(23, world_size=2, batch_size=3, drop_last=True)
    assert len(sampler) == 9


def test_order_depends_on_seed_and_epoch():
    sampler = EpochSampler(50, seed=1)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert [k.index for k in second] != [k.index for k in first]
    assert {k.epoch for k in second} == {1}
    assert [k.index for k in EpochSampler(50, seed=2)] != [k.index for k in first]
    assert _indices(length=4, shuffle=False) == [0, 1, 2, 3]


def test_a_saved_position_resumes_inside_the_epoch():
    sampler = EpochSampler(20, seed=1, batch_size=4)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.advance(4)
    sampler.advance(4)
    state = sampler.state_dict()

    resumed = EpochSampler(20, seed=1, batch_size=4)
    resumed.load_state_dict(state)
    resumed.set_epoch(3)
    assert list(resumed) == whole[8:]
    assert len(resumed) == 20
    resumed.set_epoch(4)
    assert len(list(resumed)) == 20


def test_fetching_ahead_does_not_move_the_position():
    sampler = EpochSampler(20)
    iterator = iter(sampler)
    for _ in range(9):
        next(iterator)
    assert sampler.state_dict()["done"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2), ("length", 21), ("shuffle", False), ("drop_last", True), ("pad", False)],
)
def test_a_position_of_another_order_is_refused(name, value):
    saved = EpochSampler(20, seed=1)
    other = EpochSampler(**{"length": 20, "seed": 1, name: value})
    match = rf"{name} must be {getattr(saved, name)} as in the saved run, got {value}"
    with pytest.raises(ValueError, match=match):
        other.load_state_dict(saved.state_dict())


@pytest.mark.parametrize(
    ("world_size", "batch_size", "fix"),
    [(1, 4, "batch_size=8"), (2, 8, "batch_size=4"), (3, 1, "a number of ranks that divides 8")],
)
def test_a_position_of_another_global_batch_is_refused(world_size, batch_size, fix):
    state = EpochSampler(40, world_size=4, batch_size=2).state_dict()
    other = EpochSampler(40, world_size=world_size, batch_size=batch_size)
    match = rf"must be 4 x 2 = 8 as in the saved run, got .* = {world_size * batch_size}; try {fix}"
    with pytest.raises(ValueError, match=match):
        other.load_state_dict(state)


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_position_carries_over_to_another_number_of_ranks(drop_last):
    def ranks(world_size, batch_size, state=None):
        made = []
        for rank in range(world_size):
            split = {"rank": rank, "world_size": world_size, "batch_size": batch_size}
            made.append(EpochSampler(45, seed=3, drop_last=drop_last, **split))
            if state is not None:
                made[-1].load_state_dict(state)
        return made

    def steps(samplers):
        """Samples of each step of all ranks, as sets."""
        taken = [[key.index for key in sampler] for sampler in samplers]
        size = samplers[0].batch_size
        return [
            {index for one in taken for index in one[start : start + size]}
            for start in range(0, len(taken[0]), size)
        ]

    splits = [(1, 8), (2, 4), (8, 1)]
    whole = {split: steps(ranks(*split)) for split in splits}
    count = 45 // 8 if drop_last else 6
    for samples in whole.values():
        assert samples[:5] == whole[1, 8][:5]
        assert len(samples) == count
    for before in splits:
        sampler = ranks(*before)[0]
        for _ in range(3):
            sampler.advance(before[1])
        for after in splits:
            assert steps(ranks(*after, sampler.state_dict())) == whole[after][3:]
        sampler.advance(len(sampler) - sampler.done)
        for after in splits:
            resumed = ranks(*after, sampler.state_dict())
            assert steps(resumed) == []
            assert resumed[0].done == len(resumed[0])


@pytest.mark.parametrize(
    ("options", "repeated", "dropped", "steps"),
    [
        ({"drop_last": True}, 0, 3, 5),
        ({}, 1, 0, 6),
        ({"pad": False}, 0, 0, 6),
        ({"drop_last": True, "pad": False}, 0, 3, 5),
    ],
)
def test_what_does_not_divide_is_counted(options, repeated, dropped, steps):
    ranks = [
        EpochSampler(23, rank=rank, world_size=2, batch_size=2, **options) for rank in range(2)
    ]
    taken = [key.index for sampler in ranks for key in sampler]
    assert len(taken) - len(set(taken)) == repeated
    assert 23 - len(set(taken)) == dropped
    assert {(s.repeated, s.dropped, s.steps) for s in ranks} == {(repeated, dropped, steps)}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"length": 5, "batch_size": 0}, "batch_size must be at least 1"),
        ({"length": 5, "world_size": 2, "rank": 2}, r"rank must be in 0\.\.1, got 2"),
        ({"length": 5, "seed": -1}, "seed must be 0 or more"),
        (
            {"length": 5, "batch_size": 6, "drop_last": True},
            r"length must be at least one batch of all ranks \(6\), got 5",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        EpochSampler(**arguments)


def test_one_cannot_advance_past_the_epoch():
    with pytest.raises(ValueError, match=r"samples must stay within the epoch's 5, got 0 \+ 6"):
        EpochSampler(5).advance(6)


def test_classes_get_an_equal_share(tiny):
    # The car is in five frames; the pedestrian stays in one.
    for i in (1, 2, 3, 5):
        del tiny.frame(i)["instances"][1]
    tiny.classes = ("car", "pedestrian")
    dataset = tiny.dataset()
    balanced = CBGSDataset(dataset, seed=0)
    # (5 + 1) entries, half of them for each class: 3 draws of the car's frames, 3 of frame 0.
    assert len(balanced) == 6
    assert (balanced.frame_indices[3:] == 0).all()
    assert set(balanced.frame_indices[:3]) <= {0, 1, 2, 3, 5}


def test_the_balanced_list_follows_the_seed(tiny):
    dataset = tiny.dataset(seed=4)
    lists = [CBGSDataset(dataset, seed).frame_indices for seed in (0, 0, 1, 4, None)]
    np.testing.assert_array_equal(lists[0], lists[1])
    assert not np.array_equal(lists[0], lists[2])
    np.testing.assert_array_equal(lists[3], lists[4])


def test_repeats_of_a_frame_have_keys_of_their_own(tiny):
    balanced = CBGSDataset(tiny.dataset(sweeps=1))
    keys = [SampleKey(2, i) for i in range(len(balanced))]
    samples = [balanced[key] for key in keys]
    assert [s.key for s in samples] == keys
    assert [s.index for s in samples] == balanced.frame_indices.tolist()
    with pytest.raises(IndexError, match="CBGSDataset: index must be in"):
        balanced[len(balanced)]
    assert balanced[0].key == SampleKey(0, 0)
    assert (balanced.bad_samples(), balanced.dropped_points()) == ([], {})


def test_balancing_needs_objects(tiny):
    for frame in tiny.infos["data_list"]:
        frame["instances"] = []
    with pytest.raises(ValueError, match="must hold objects of the classes, got none"):
        CBGSDataset(tiny.dataset())


def test_loaders_take_the_sampler(tiny):
    dataset = tiny.dataset()
    sampler = EpochSampler(len(dataset), seed=3)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, collate_fn=lambda batch: batch)
    keys = [sample.key for batch in loader for sample in batch]
    assert keys == list(sampler)
