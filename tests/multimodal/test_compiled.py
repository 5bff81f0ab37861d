"""Programs of answers and drawings: results depend on seed, index and prompt alone."""

import jax
import numpy as np
import pytest

from helpers import multimodals
from unitok_jax.models.sampling import Filters
from unitok_jax.multimodal.compiled import STEP, Answering, CompiledModel, Drawing, aligned
from unitok_jax.multimodal.sampling import Prompt

pytestmark = pytest.mark.slow

MODEL = multimodals.model_keys()
BOI, TOKENS = multimodals.BOI, multimodals.TOKENS
ANSWERING = Answering(Filters(), (multimodals.EOS,), 6)
SCALE = np.full((TOKENS, 2), 2.0, np.float32)
INDEX = np.arange(5, dtype=np.uint32)


def prompts(rows):
    """Rows of ids alone, padded on the left."""
    length = max(map(len, rows))
    ids = np.array([[0] * (length - len(row)) + row for row in rows], np.int32)
    valid = np.array([[False] * (length - len(row)) + [True] * len(row) for row in rows])
    codes = np.zeros((len(rows), 1, 2, TOKENS), np.int32)
    return Prompt(ids, np.full_like(ids, -1), codes, valid)


QUESTIONS = prompts([[1, 5 + n, *[7] * n] for n in range(5)])
CAPTIONS = prompts([[1, 8 + n, BOI] for n in range(5)])
NULL = prompts([[1, 5, 6, 7, BOI]] * 5)


def compiled(batch_size, devices):
    params = multimodals.parameters(MODEL)
    return CompiledModel(MODEL, params, batch_size, jax.devices()[:devices], "float32")


@pytest.fixture(scope="module")
def one():
    return compiled(5, 1)


@pytest.fixture(scope="module")
def two():
    """Batches of four rows, two on each device; the second batch is padded."""
    return compiled(4, 2)


def joined(batches):
    return jax.tree.map(lambda *x: np.concatenate(x), *batches)


def test_answers_on_any_devices_in_any_batches(one, two):
    found = joined(one.answer(ANSWERING, 3, INDEX, QUESTIONS))
    assert found.ids.shape == (5, 6) and len(np.unique(found.ids)) > 3
    again = joined(two.answer(ANSWERING, 3, INDEX, QUESTIONS))
    jax.tree.map(np.testing.assert_array_equal, again, found)
    other = joined(two.answer(ANSWERING, 4, INDEX, QUESTIONS))
    assert (other.ids != found.ids).any()


def test_an_answer_is_that_of_its_index(one):
    found = joined(one.answer(ANSWERING, 3, INDEX, QUESTIONS))
    rows = np.array([4, 1])
    some = Prompt(*(x[rows] for x in QUESTIONS))
    again = joined(one.answer(ANSWERING, 3, INDEX[rows], some))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[rows]), again, found)


@pytest.mark.parametrize("guided", [False, True])
def test_drawings_on_any_devices_in_any_batches(one, two, guided):
    settings = Drawing(Filters(0.8, 5), guided, False)
    given = (3, INDEX, CAPTIONS, NULL if guided else None, SCALE)
    found = joined(one.draw(settings, *given))
    assert found.shape == (5, 2, TOKENS) and len(np.unique(found)) > 4
    np.testing.assert_array_equal(joined(two.draw(settings, *given)), found)


def test_lengths_are_rounded_up():
    found = aligned(CAPTIONS)
    assert found.ids.shape == (5, STEP) and aligned(CAPTIONS, STEP + 1).ids.shape == (5, 2 * STEP)
    np.testing.assert_array_equal(found.ids[:, -3:], CAPTIONS.ids)
    assert (found.image_at == -1).all() and (found.valid.sum(1) == 3).all()
