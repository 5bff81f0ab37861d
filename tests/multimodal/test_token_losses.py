"""Losses of a multimodal model: packed rows, weights of the kinds, and nothing to predict."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import multimodals
from unitok_jax.multimodal import objective
from unitok_jax.multimodal.model import FROZEN, abstract_model
from unitok_jax.multimodal.rows import NO_LABEL

pytestmark = pytest.mark.slow

MODEL = multimodals.model_keys()


@functools.cache
def program(chunk=64, **changes):
    """(parameters, batch) -> (sums, losses, gradients, hidden), compiled."""
    graph, _ = abstract_model(MODEL | changes)

    @jax.jit
    def run(params, batch):
        def loss(params):
            sums = objective.sums(nnx.merge(graph, params), batch, chunk)
            losses = objective.losses(sums, objective.Weights(5e-5))
            return losses.total, (sums, losses)

        grads, (sums, losses) = jax.grad(loss, has_aux=True)(params)
        hidden = nnx.merge(graph, params).hidden(*(batch[key] for key in objective.INPUTS))
        return sums, losses, grads, hidden

    return lambda *given: jax.device_get(run(*given))


@pytest.fixture(scope="module")
def params():
    return multimodals.parameters(MODEL)


def apart():
    """Each sample in a row of its own."""
    return multimodals.batch([[sample] for sample in multimodals.samples()], 40, 4)


def packed():
    """The same samples in one row; the other is padding."""
    return multimodals.batch([multimodals.samples()[::-1], []], 60, 4)


def equal(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), ours, theirs)


def test_packed_samples_do_not_see_each_other(params):
    one, other = program()(params, apart()), program()(params, packed())
    equal(one[:3], other[:3])
    at = 0
    for ids, _, _ in multimodals.samples()[::-1]:
        number = next(n for n, s in enumerate(multimodals.samples()) if s[0] == ids)
        equal(other[3][0, at : at + len(ids)], one[3][number, : len(ids)])
        at += len(ids)


def test_every_id_and_every_code_weighs_the_same(params):
    """Not every row, kind or device: parts of a batch are added before anything is divided."""
    whole = apart()
    sums, losses, *_ = program()(params, whole)
    halves = [
        program()(params, {k: v[rows] for k, v in whole.items()})[0]
        for rows in (slice(0, 2), slice(2, 4))
    ]
    equal(jax.tree.map(jnp.add, *halves), sums)
    ids = [np.array(ids) >= 0 for ids, _, _ in multimodals.samples()]
    assert sums.ids == sum(map(np.sum, ids)) - len(ids)  # all but the first of each
    assert sums.image_tokens == 2 * multimodals.TOKENS
    codes = 2 * sums.image_tokens
    total = (sums.text + sums.codes.sum() + 5e-5 * sums.square) / (sums.ids + codes)
    assert sums.predictions == sums.ids + codes
    assert losses.total == pytest.approx(float(total), rel=1e-6)
    equal(losses.per_codebook, sums.codes / sums.image_tokens)


def test_an_id_may_weigh_more_than_a_code(params):
    sums, plain, *_ = program()(params, apart())
    weights = objective.Weights(5e-5, text=3.0)
    losses = objective.losses(sums, weights)
    codes = 2 * sums.image_tokens
    total = (3 * sums.text + sums.codes.sum() + 5e-5 * sums.square) / (3 * sums.ids + codes)
    assert losses.total == pytest.approx(float(total), rel=1e-6) != plain.total
    equal(losses._replace(total=plain.total), plain)  # what is told stays a mean of each


def test_losses_of_kinds(params):
    """Each is that of a batch whose other samples are not there; together they are the whole."""
    given, numbers = apart(), [0, 5, 0, 3]
    given["kinds"] = np.where(given["segments"], np.array(numbers)[:, None], 1)
    sums, losses, *_ = program()(params, given)
    equal(sums.kinds.sum(), sums.text + sums.codes.sum())
    assert sums.of_kinds.sum() == sums.predictions and sums.kinds[[1, 2, 4]].tolist() == [0] * 3
    for kind in (0, 3, 5):
        rows = np.array(numbers) == kind
        alone = {
            key: np.where(rows.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for key, v in given.items()
        }
        alone["labels"] = np.where(rows[:, None], given["labels"], NO_LABEL)
        found = program()(params, alone)[0]
        assert sums.of_kinds[kind] == found.predictions
        equal(sums.kinds[kind], found.text + found.codes.sum())
        equal(losses.per_kind[kind], sums.kinds[kind] / found.predictions)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_change_nothing(params, chunk):
    equal(program(chunk)(params, apart()), program()(params, apart()))


@pytest.mark.parametrize("without", ["text", "image", "both"])
def test_nothing_to_predict_is_a_loss_of_zero(params, without):
    given = apart()
    if without != "image":
        given["labels"] = np.full_like(given["labels"], NO_LABEL)
    if without != "text":
        given["drawn"] = np.zeros_like(given["drawn"])
    _, losses, grads, _ = program()(params, given)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((losses, grads)))
    assert (losses.text == 0) == (without != "image")
    assert (losses.image == losses.z == 0) == (without != "text")
    moved = any(leaf.any() for leaf in jax.tree.leaves(grads))
    assert (losses.total > 0) == moved == (without != "both")


def test_codes_that_are_read_are_no_labels(params):
    """The image behind the text of a drawn one is a label, and that of a question none."""
    given = apart()
    given["labels"] = np.full_like(given["labels"], NO_LABEL)
    before = program()(params, given)[1].total
    given["codes"] = given["codes"].copy()
    given["codes"][1] = (given["codes"][1] + 1) % 8  # of the row that asks about its image
    assert program()(params, given)[1].total == before
    given["codes"][0] = (given["codes"][0] + 1) % 8
    assert program()(params, given)[1].total != before


def test_codebooks_have_no_gradient(params):
    grads = program()(params, apart())[2]
    assert FROZEN == ("image.quantizer.*",)
    assert not grads["image"]["quantizer"]["codebook"].any()
    assert all(leaf.any() for leaf in jax.tree.leaves(grads["image"]["projection"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"projection": "linear", "tied": True},
        {"head_depth": 0, "qk_norm": True},
        {"num_codebooks": 1, "vocab_size": 8, "head_depth": 0, "qkv_bias": True},
        {"dtype": "bfloat16", "remat": "blocks", "depth_head_width": 16},
    ],
)
def test_kinds_of_models(changes):
    model = MODEL | changes
    given = apart()
    given["codes"] = given["codes"][:, :, : model["num_codebooks"]]
    _, losses, grads, hidden = program(**changes)(multimodals.parameters(model), given)
    assert np.isfinite(losses.total) and losses.per_codebook.shape == (model["num_codebooks"],)
    assert hidden.dtype == model["dtype"]
    frozen = grads["image"].pop("quantizer")
    assert not frozen["codebook"].any()
    assert all(leaf.any() for leaf in jax.tree.leaves(grads))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(grads))
