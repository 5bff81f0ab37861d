"""Precision and recall against ADM's numbers, and by hand."""

import numpy as np
import pytest

from helpers import parity
from unitok_jax.evaluation.metrics.precision_recall import precision_recall, radii


def test_parity():
    golden = parity.load("generator")
    found = precision_recall(golden["pr.reference"], golden["pr.samples"])
    assert found == {"precision": golden["pr.precision"], "recall": golden["pr.recall"]}
    for name, key in (("reference", "reference"), ("samples", "sample")):
        np.testing.assert_allclose(
            radii(golden[f"pr.{name}"], 3), golden[f"pr.{key}_radii"], rtol=1e-6
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
