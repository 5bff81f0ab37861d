"""CLIP score by hand."""

import numpy as np
import pytest

from unitok_jax.evaluation.metrics.clip_score import clip_score


def test_cosines_below_zero_count_as_zero():
    images = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    texts = np.array([[0.6, 0.8], [-1.0, 0.0], [0.6, 0.8]])
    assert clip_score(images, texts) == pytest.approx(100 * (0.6 + 0 + 1) / 3)


@pytest.mark.parametrize(
    "images, texts, words",
    [
        (np.ones((2, 3)), np.ones((3, 3)), "must be"),
        (np.ones((0, 3)), np.ones((0, 3)), "must be"),
        (np.ones(3), np.ones(3), "must be"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "not finite"),
    ],
)
def test_features_that_do_not_fit(images, texts, words):
    with pytest.raises(ValueError, match=words):
        clip_score(images, texts)
