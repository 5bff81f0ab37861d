"""The order of the stream: every sample once per epoch, from any position, for every kind of
source."""

import itertools
import pickle

import numpy as np
import pytest

from unitok_jax.data.health import Tally
from unitok_jax.data.mixture import Mixture
from unitok_jax.data.order import generator, order


class Numbers:
    """A source whose records are their own positions."""

    def __init__(self, length, name="", blocks=None):
        self._length, self._name = length, name
        if blocks is not None:
            self.blocks = np.cumsum(blocks)

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if not 0 <= index < self._length:
            raise IndexError(index)
        return {"name": f"{self._name}{index}", "image": b"", "captions": ()}


SIZES = [3, 0, 7, 1, 5, 5, 9, 2, 4, 6]  # of blocks; one is empty
BLOCKS = Numbers(sum(SIZES), blocks=SIZES)


def take(source, count, seed=0, window=3, start=0):
    positions = order(source, seed, window)
    return [int(positions[position]) for position in range(start, start + count)]


@pytest.mark.parametrize("source", [Numbers(42), BLOCKS], ids=["random access", "blocks"])
class TestOneSource:
    def test_every_sample_once_per_epoch_in_a_new_order(self, source):
        taken = take(source, 3 * 42)
        epochs = [taken[start : start + 42] for start in (0, 42, 84)]
        assert all(sorted(epoch) == list(range(42)) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        assert epochs[0] != list(range(42))

    def test_any_position_by_itself(self, source):
        whole = take(source, 100)
        assert [take(source, 1, start=start)[0] for start in range(100)] == whole

    def test_depends_on_the_seed(self, source):
        assert take(source, 42, seed=1) == take(source, 42, seed=1) != take(source, 42, seed=2)

    def test_pickled(self, source):
        positions = order(source, 0, 3)
        copy = pickle.loads(pickle.dumps(positions))
        assert [copy[i] for i in range(60)] == [positions[i] for i in range(60)]

    def test_far_away(self, source):
        assert 0 <= take(source, 1, start=10**15)[0] < 42


class TestBlocks:
    def block(self, index):
        return int(np.searchsorted(np.cumsum(SIZES), index, side="right"))

    @pytest.mark.parametrize("window", [1, 3, 4, 10, 99])
    def test_a_window_reads_its_blocks_and_no_other(self, window):
        """So a reader that keeps `window` blocks reads each of them once in an epoch."""
        read, kept = 0, []
        for index in take(BLOCKS, 42, window=window):
            if self.block(index) not in kept:
                read += 1
                kept = [*kept, self.block(index)][-window:]
        assert read == sum(size > 0 for size in SIZES)

    def test_samples_of_a_window_are_mixed(self):
        blocks = [self.block(index) for index in take(BLOCKS, 42, window=10)]
        changes = sum(one != other for one, other in itertools.pairwise(blocks))
        assert changes > 20

    def test_samples_of_a_window_come_in_a_new_order(self):
        """With one block, and so one window, nothing else can differ between epochs."""
        source = Numbers(50, blocks=[50])
        epochs = [tuple(take(source, 50, start=50 * epoch)) for epoch in range(4)]
        assert len(set(epochs)) == 4 and all(sorted(e) == list(range(50)) for e in epochs)

    def test_blocks_come_in_a_new_order(self):
        def first_blocks(epoch):
            taken = take(BLOCKS, 42, window=1, start=42 * epoch)
            return list(dict.fromkeys(self.block(index) for index in taken))

        assert first_blocks(0) != first_blocks(1)
        assert sorted(first_blocks(0)) == sorted(first_blocks(1)) == [0, 2, 3, 4, 5, 6, 7, 8, 9]


class TestMixture:
    def test_takes_by_weight_and_each_part_in_epochs(self):
        mixture = Mixture([Numbers(30), Numbers(10), BLOCKS], [6, 3, 1])
        taken = np.array(take(mixture, 1000))
        first, second, third = (
            taken[taken < 30],
            taken[(30 <= taken) & (taken < 40)],
            taken[taken >= 40],
        )
        assert abs(len(first) - 600) <= 2
        assert abs(len(second) - 300) <= 2
        assert abs(len(third) - 100) <= 2
        for part, low, length in ((first, 0, 30), (second, 30, 10), (third, 40, 42)):
            for start in range(0, len(part) - length + 1, length):
                epoch = part[start : start + length]
                assert sorted(epoch) == list(range(low, low + length))

    def test_parts_are_spread_evenly(self):
        taken = np.array(take(Mixture([Numbers(50), Numbers(50)], [3, 1]), 400)) >= 50
        assert all(4 <= window.sum() <= 6 for window in taken.reshape(-1, 20))

    def test_parts_alike_have_different_orders(self):
        taken = np.array(take(Mixture([Numbers(50), Numbers(50)], [1, 1]), 100))
        assert taken[taken < 50].tolist() != (taken[taken >= 50] - 50).tolist()

    def test_any_position_by_itself_and_pickled(self):
        mixture = Mixture([Numbers(5), BLOCKS], [1, 2])
        whole, copy = take(mixture, 100), pickle.loads(pickle.dumps(order(mixture, 0, 3)))
        assert [int(copy[position]) for position in range(99, -1, -1)] == whole[::-1]

    def test_records_and_length(self):
        mixture = Mixture([Numbers(3, "a"), Numbers(2, "b")], [1, 1])
        assert [mixture[i]["name"] for i in range(len(mixture))] == ["a0", "a1", "a2", "b0", "b1"]

    def test_tallies_are_added(self):
        parts = [Numbers(3), Numbers(3), Numbers(3)]
        for part in parts[:2]:
            part.tally = Tally()
            part.tally.add("empty", "x")
        assert Mixture(parts, [1, 1, 1]).tally.counts == {"empty": 2}

    def test_part_too_small_for_its_share(self):
        mixture = Mixture([Numbers(100), Numbers(4)], [1, 1])
        mixture.check_batch(8)
        with pytest.raises(ValueError, match=r"data.mixture\[1\] holds 4 samples.* makes 5 of a"):
            mixture.check_batch(9)


def test_generators_differ_by_seed_and_position():
    draws = {generator(seed, position).random() for seed in range(3) for position in range(50)}
    assert len(draws) == 150
    assert generator(1, 10**15).random() == generator(1, 10**15).random()
