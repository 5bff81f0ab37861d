"""Precision and recall against ADM's numbers, and by hand."""

import numpy as np
import pytest

from helpers import parity
from unitok_jax.evaluation.metrics import precision_recall as measure
from unitok_jax.evaluation.metrics.precision_recall import precision_recall, radii


def test_parity():
    golden = parity.load("generator")
    found = precision_recall(golden["pr.reference"], golden["pr.samples"], half=False)
    assert found == {"precision": golden["pr.precision"], "recall": golden["pr.recall"]}
    for name, key in (("reference", "reference"), ("samples", "sample")):
        np.testing.assert_allclose(
            radii(golden[f"pr.{name}"], 3, half=False), golden[f"pr.{key}_radii"], rtol=1e-6
        )


def test_by_hand():
    """Points on a line: a sample outside all balls, and one that falls within."""
    reference = np.array([[0.0], [1.0], [3.0], [10.0]])
    np.testing.assert_array_equal(radii(reference, 1), [1, 1, 4, 49])
    found = precision_recall(reference, np.array([[0.5], [30.0], [31.0]]), neighbours=1)
    assert found["precision"] == pytest.approx(1 / 3)
    # Balls of the samples: 0.5 reaches 29.5, the others 1.
    assert found["recall"] == 1.0


def test_identical_sets_are_perfect():
    points = np.random.default_rng(0).normal(size=(50, 4))
    assert precision_recall(points, points) == {"precision": 1.0, "recall": 1.0}


def plain(features, others, dtype):
    """Squared distances, all steps in `dtype` but sums, which are float32's."""
    a, b = features.astype(dtype), others.astype(dtype)
    norms = [(x * x).astype(np.float32).sum(axis=1).astype(dtype) for x in (a, b)]
    products = (a.astype(np.float32) @ b.T.astype(np.float32)).astype(dtype)
    return np.maximum(norms[0][:, None] - 2 * products + norms[1], 0).astype(np.float32)


@pytest.mark.parametrize("scale, dtype", [(1, np.float16), (100, np.float32)])
def test_distances_are_in_half_precision_where_they_are_finite(scale, dtype):
    rng = np.random.default_rng(0)
    points, others = (scale * rng.normal(size=(n, 9)).astype(np.float32) for n in (40, 30))
    wanted = np.sort(plain(points, points, dtype), axis=1)[:, 3]
    np.testing.assert_allclose(radii(points, 3), wanted, rtol=1e-5 if scale > 1 else 0)
    assert (np.abs(radii(points, 3, half=False) / wanted - 1).max() > 1e-4) == (scale == 1)
    reach = np.sort(plain(others, others, dtype), axis=1)[:, 3]
    share = (plain(points, others, dtype) <= reach).any(axis=1).mean()
    assert 0 < share < 1 and precision_recall(others, points)["precision"] == share


def test_blocks_change_nothing(monkeypatch):
    """Rows and columns in blocks that end anywhere, the first of fewer columns than neighbours."""
    rng = np.random.default_rng(0)
    points, others = rng.normal(size=(23, 3)), rng.normal(1, 1, (17, 3))
    whole = radii(points, 3), precision_recall(points, others)
    monkeypatch.setattr(measure, "_BLOCK", 2)
    np.testing.assert_array_equal(radii(points, 3), whole[0])
    assert precision_recall(points, others) == whole[1]


@pytest.mark.parametrize(
    "reference, samples, words",
    [
        (np.zeros((3, 2)), np.zeros((9, 2)), "more than 3 images"),
        (np.zeros((9, 2)), np.zeros((9, 3)), "of one width"),
        (np.zeros(9), np.zeros(9), "of one width"),
    ],
)
def test_sets_that_do_not_fit(reference, samples, words):
    with pytest.raises(ValueError, match=words):
        precision_recall(reference, samples)
