"""Recall of captions and images, against a plain sort of every row."""

import numpy as np
import pytest

from unitok_jax.evaluation.metrics import retrieval
from unitok_jax.evaluation.metrics.retrieval import caption_retrieval


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def brute_force(images, texts, owner, tokens):
    """Every row sorted, the first of equals first, and a look at its first k."""
    captions = [tuple(row) for row in tokens]
    pairs = set(zip(owner.tolist(), captions, strict=True))
    cosines = images.astype(np.float32) @ texts.astype(np.float32).T
    out = {}
    for top in (1, 5, 10):
        suffix = "" if top == 1 else f"_r{top}"
        if top == 1 or len(texts) > top:
            nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
            hits = [any((i, captions[t]) in pairs for t in row) for i, row in enumerate(nearest)]
            out[f"image_to_text{suffix}"] = np.mean(hits)
        if top == 1 or len(images) > top:
            nearest = np.argsort(-cosines, axis=0, kind="stable")[:top].T
            hits = [any((i, captions[t]) in pairs for i in row) for t, row in enumerate(nearest)]
            out[f"text_to_image{suffix}"] = np.mean(hits)
    return out


def random_set(seed, count=40):
    """Images with 0 to 4 captions, some of them alike; small whole numbers, so that many tie."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(count), rng.integers(0, 5, count)))
    tokens = rng.integers(0, 6, (len(owner), 2))
    images, texts = rng.integers(-2, 3, (count, 3)), rng.integers(-2, 3, (len(owner), 3))
    return images.astype(float), texts.astype(float), owner, tokens


@pytest.mark.parametrize("block", [1, 300, 1 << 24])
@pytest.mark.parametrize("seed", range(4))
def test_equals_a_sort(seed, block, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK", block)
    arguments = random_set(seed)
    result = caption_retrieval(*arguments)
    assert result == pytest.approx(brute_force(*arguments)) and len(result) == 6
    assert 0 < result["image_to_text"] < result["image_to_text_r5"] < result["image_to_text_r10"]


@pytest.mark.parametrize("count, keys", [(5, 2), (6, 4), (10, 4), (11, 6)])
def test_no_recall_of_everything(count, keys):
    features, each = np.eye(count), np.arange(count)
    result = caption_retrieval(features, features, each, each[:, None])
    assert len(result) == keys and set(result.values()) == {1.0}


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_a_model_that_tells_nothing_apart_scores_as_guessing_or_worse(value):
    features, each = np.full((20, 4), value), np.arange(20)
    result = caption_retrieval(features, features, each, each[:, None])
    guess = 0 if np.isnan(value) else 1 / 20
    assert result["image_to_text"] == result["text_to_image"] == guess
    assert result["image_to_text_r10"] == result["text_to_image_r10"] == 10 * guess


def test_an_image_without_a_caption_finds_none():
    result = caption_retrieval(np.eye(2), np.eye(2)[:1], np.array([0]), np.array([[1]]))
    assert result == {"image_to_text": 0.5, "text_to_image": 1.0}


def test_no_captions():
    with pytest.raises(ValueError, match="there are 2 and 0"):
        caption_retrieval(np.eye(2), np.zeros((0, 2)), np.zeros(0, int), np.zeros((0, 3), int))
