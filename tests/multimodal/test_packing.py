"""Packed rows: nothing is lost, cut or mixed, and the room is used."""

import numpy as np
import pytest

from unitok_jax.multimodal.packing import fill, pack
from unitok_jax.multimodal.rows import NO_LABEL, Sample, expand

IMAGE = -200


def sample(first, length, images=0, drawn=()):
    """Ids first, first + 1, ...; the images stand behind the first id, all is learnt but they."""
    ids = [first] + [IMAGE] * images + [first + 1 + n for n in range(length - 1 - 3 * images)]
    marks = [number != IMAGE for number in ids]
    for place, learnt in enumerate(drawn):
        marks[1 + place] = learnt
    codes = [np.full((2, 3), first + n) for n in range(images)]
    return expand(ids, marks, codes, 0)


def sizes(*lengths):
    empty = np.zeros(0, bool)
    return [
        Sample(*[np.zeros(length, np.int32)] * 3, np.zeros((0, 2, 3)), empty) for length in lengths
    ]


class TestPlaces:
    def test_all_that_fit(self):
        assert pack(sizes(6, 4, 5, 5), 2, 10, 1) == [[0, 1], [2, 3]]

    def test_the_end_is_left_out_and_no_hole_is_filled_by_what_comes_later(self):
        assert pack(sizes(8, 8, 7, 2), 2, 10, 1) == [[0], [1]]
        assert pack(sizes(8, 8, 2, 7), 2, 10, 1) == [[0, 2], [1]]

    def test_images_count_too(self):
        with_images = [sample(10, 7, 1), sample(20, 7, 1), sample(30, 7, 1)]
        assert pack(with_images, 1, 30, 2) == [[0, 1]]

    def test_nothing(self):
        assert pack([], 3, 10, 1) == [[], [], []]

    @pytest.mark.parametrize("seed", range(5))
    def test_random_sizes(self, seed):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 60, 40)
        placed = pack(sizes(*lengths), 8, 100, 1)
        taken = sorted(sum(placed, []))
        assert taken == list(range(len(taken)))
        assert all(sum(lengths[n] for n in row) <= 100 for row in placed)
        assert sum(lengths[taken]) > 0.9 * 800

    def test_samples_of_any_length_are_as_likely_to_be_left_out(self):
        """Filling holes with later samples would leave out the long ones alone."""
        rng, taken, left = np.random.default_rng(0), [], []
        for _ in range(300):
            lengths = rng.integers(1, 60, 40)
            count = len(sum(pack(sizes(*lengths), 8, 100, 1), []))
            taken += lengths[:count].tolist()
            left += lengths[count:].tolist()
        error = np.std(left) / len(left) ** 0.5
        # The first that is left out is the one that did not fit: longer than others by chance.
        assert abs(np.mean(left) - np.mean(taken)) < 4 + 3 * error


def test_a_row():
    two = [sample(10, 6, 1, [True]), sample(20, 9, 2, [False, True])]
    two[1] = two[1]._replace(kind=4)
    row = fill(two, length=18, images=4, image_shape=(2, 3), pad=0)
    assert row["ids"].tolist() == [10, 0, 0, 0, 11, 12, 20, *[0] * 6, 21, 22, 0, 0, 0]
    assert row["segments"].tolist() == [1] * 6 + [2] * 9 + [0] * 3
    assert row["positions"].tolist() == [*range(6), *range(9), 0, 0, 0]
    # The second segment's images follow the first's among the row's codes.
    places = [-1, 0, 1, 2, -1, -1, -1, 3, 4, 5, 6, 7, 8, *[-1] * 5]
    assert row["image_at"].tolist() == places
    assert row["kinds"].tolist() == [0] * 6 + [4] * 9 + [0] * 3
    assert row["drawn"].tolist() == [True, False, True, False]
    np.testing.assert_array_equal(row["codes"][:, 0, 0], [10, 20, 21, 0])
    labels = [NO_LABEL] * 4 + [11, 12] + [NO_LABEL] * 7 + [21, 22] + [NO_LABEL] * 3
    assert row["labels"].tolist() == labels
    assert {key: value.dtype for key, value in row.items()} == {
        **dict.fromkeys(
            ("ids", "image_at", "codes", "labels", "segments", "positions", "kinds"),
            np.dtype("int32"),
        ),
        "drawn": np.dtype("bool"),
    }
