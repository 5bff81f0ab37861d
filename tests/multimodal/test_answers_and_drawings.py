"""Answers and drawings: cached logits are those of whole passes, and depend on nothing beside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import multimodals
from unitok_jax.models.sampling import Filters
from unitok_jax.multimodal import sampling
from unitok_jax.multimodal.model import abstract_model

pytestmark = pytest.mark.slow

TOKENS, BOI, EOI = multimodals.TOKENS, multimodals.BOI, multimodals.EOI
LIMIT = 8


@pytest.fixture(scope="module")
def params():
    return multimodals.parameters(multimodals.model_keys())


def prompt(rows, length, seed=0):
    """Rows of ids, -1 at the tokens of the one image that a row may have, padded on the left."""
    ids = np.zeros((len(rows), length), np.int32)
    image_at = np.full(ids.shape, -1, np.int32)
    for n, row in enumerate(rows):
        row = np.array(row)
        visual = row < 0
        ids[n, length - len(row) :] = np.where(visual, 0, row)
        image_at[n, length - len(row) :] = np.where(visual, np.cumsum(visual) - 1, -1)
    codes = np.random.default_rng(seed).integers(0, 8, (1, 1, 2, TOKENS)).astype(np.int32)
    valid = np.arange(length) >= length - np.array([len(row) for row in rows])[:, None]
    return sampling.Prompt(ids, image_at, np.repeat(codes, len(rows), 0), valid)


IMAGE = [BOI, *[-1] * TOKENS, EOI]
QUESTIONS = [[1, *IMAGE, 5, 6, 7], [1, 8, *IMAGE], [1, 9], [7]]
CAPTIONS = [[1, 9, 10, 11, BOI], [1, 12, BOI]]
NULL = [1, 5, BOI]


def keys(count, seed=0):
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(count))


@functools.cache
def answering(stops=(), temperature=1.0, **changes):
    graph, _ = abstract_model(multimodals.model_keys(**changes))
    more = dict(filters=Filters(temperature), stops=stops, limit=LIMIT, keep_logits=True)

    @jax.jit
    def run(params, given, keys):
        return sampling.answer(nnx.merge(graph, params), given, keys, **more)

    return lambda *given: jax.device_get(run(*given))


@functools.cache
def drawing(guided=False, released=False, **changes):
    graph, _ = abstract_model(multimodals.model_keys(**changes))

    @jax.jit
    def run(params, given, keys, scale):
        return sampling.draw(
            nnx.merge(graph, params),
            given,
            keys,
            filters=Filters(),
            scale=scale if guided else None,
            released=released,
            keep_logits=True,
        )

    return lambda *given: jax.device_get(run(*given))


SCALE = np.random.default_rng(0).uniform(0, 4, (TOKENS, 2)).astype(np.float32)


def whole_pass(params, given, more_ids, codes=None):
    """Text logits behind the prompt, and those of the codes if an image follows it."""
    graph, _ = abstract_model(multimodals.model_keys())
    count, length = given.ids.shape
    ids = np.concatenate([given.ids, more_ids], axis=1)
    image_at = np.concatenate([given.image_at, np.full(more_ids.shape, -1, np.int32)], axis=1)
    images = given.codes
    if codes is not None:
        image_at[:, length:] = TOKENS + np.arange(TOKENS)
        images = np.concatenate([images, codes[:, None]], axis=1)
    valid = np.concatenate([given.valid, np.ones(more_ids.shape, bool)], axis=1)
    positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0).astype(np.int32)

    @jax.jit
    def run(params):
        model = nnx.merge(graph, params)
        hidden = model.hidden(ids, image_at, images, valid.astype(np.int32), positions)
        hidden = hidden[:, length - 1 : -1]
        if codes is None:
            return model.language.logits(hidden)
        rows = codes.transpose(0, 2, 1).reshape(-1, 2)
        logits = model.head(hidden.reshape(len(rows), -1), rows)
        return logits.reshape(count, TOKENS, 2, -1).transpose(0, 2, 1, 3)

    return np.asarray(run(params))


def test_cached_logits_of_answers_are_those_of_a_whole_pass(params):
    given = prompt(QUESTIONS, 13)
    found = answering()(params, given, keys(4))
    assert not found.stopped.any() and (found.count == LIMIT).all()
    assert len(np.unique(found.ids)) > 5
    np.testing.assert_allclose(
        found.logits, whole_pass(params, given, found.ids), rtol=1e-4, atol=1e-4
    )


def test_an_answer_does_not_depend_on_neighbours_or_padding(params):
    given = prompt(QUESTIONS, 13)
    found = answering()(params, given, keys(4))
    other = prompt(QUESTIONS[::-1], 17)
    again = answering()(params, other, keys(4)[::-1])
    np.testing.assert_array_equal(again.ids[::-1], found.ids)
    assert (answering()(params, given, keys(4, seed=1)).ids != found.ids).mean() > 0.5


def test_answers_end_at_stop_ids(params):
    given = prompt(QUESTIONS, 13)
    ids = answering()(params, given, keys(4)).ids
    stops = (int(ids[0, 3]), int(ids[1, 2]))
    found = answering(stops)(params, given, keys(4))
    for n, row in enumerate(ids):
        ends = np.flatnonzero(np.isin(row, stops))
        count = ends[0] if len(ends) else LIMIT
        assert found.count[n] == count and found.stopped[n] == bool(len(ends))
        np.testing.assert_array_equal(found.ids[n, : count + 1], row[: count + 1])
        assert not found.ids[n, count + 1 :].any()
    assert 0 < found.stopped.sum() and found.count.min() < LIMIT


def test_guided_logits_of_drawings_are_those_of_whole_passes(params):
    """null + scale (given - null), of the scale at that place, with everything before seen."""
    given, null = prompt(CAPTIONS, 6), prompt([NULL] * 2, 6)
    both = jax.tree.map(lambda *x: np.concatenate(x), given, null)
    codes, logits = drawing(guided=True)(params, both, keys(2), SCALE)
    more = np.zeros((2, TOKENS), np.int32)
    here, there = (whole_pass(params, each, more, codes) for each in (given, null))
    assert np.abs(here - there).max() > 0.1
    wanted = there + SCALE.T[:, :, None] * (here - there)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=2e-4)


def test_the_released_way_is_another(params):
    """Only from the second token on: the first is alone in both ways."""
    given = prompt(CAPTIONS, 6)
    codes, logits = drawing()(params, given, keys(2), SCALE)
    more = np.zeros((2, TOKENS), np.int32)
    np.testing.assert_allclose(logits, whole_pass(params, given, more, codes), rtol=1e-4, atol=1e-4)
    others, released = drawing(released=True)(params, given, keys(2), SCALE)
    np.testing.assert_array_equal(codes[..., :2], others[..., :2])
    np.testing.assert_allclose(logits[:, :, :2], released[:, :, :2], atol=1e-5)
    assert np.abs(logits - released)[:, :, 2].max() > 1e-3


def test_a_drawing_does_not_depend_on_neighbours_or_padding(params):
    codes, _ = drawing()(params, prompt(CAPTIONS, 6), keys(2), SCALE)
    again, _ = drawing()(params, prompt(CAPTIONS[::-1], 9), keys(2)[::-1], SCALE)
    np.testing.assert_array_equal(again[::-1], codes)
    other, _ = drawing()(params, prompt(CAPTIONS, 6), keys(2, seed=1), SCALE)
    assert (other != codes).mean() > 0.3


@pytest.mark.parametrize(
    "changes",
    [
        {"projection": "linear", "tied": True, "head_depth": 0},
        {"num_codebooks": 1, "vocab_size": 8, "head_depth": 0, "dtype": "bfloat16"},
        {"depth_head_width": 16},
    ],
)
def test_kinds_of_models_draw_and_answer(changes):
    model = multimodals.model_keys(**changes)
    books, params = model["num_codebooks"], multimodals.parameters(model)
    given = prompt(CAPTIONS, 6)
    given = given._replace(codes=given.codes[:, :, :books])
    codes, _ = drawing(**changes)(params, given, keys(2), SCALE[:, :books])
    assert codes.shape == (2, books, TOKENS) and codes.dtype == np.int32
    assert codes.min() >= 0 and codes.max() < 8 and len(np.unique(codes)) > 2
    ids = answering(**changes)(params, given, keys(2)).ids
    assert ids.shape == (2, LIMIT) and len(np.unique(ids)) > 2
