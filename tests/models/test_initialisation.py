"""Fresh weights: the distribution of every parameter of both players, from the published recipe."""

import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import tiny
from unitok_jax import trees
from unitok_jax.models import UniTok
from unitok_jax.models.discriminator import DiscriminatorHeads
from unitok_jax.models.projection import make_projection

pytestmark = pytest.mark.slow

TEXT_WIDTH, TEXT_LAYERS, CHUNK = 64, 2, 8  # of the tiny model
SIGMAS = 5  # that a statistic of a sample may be off by
KURTOSIS = {"normal": 3.0, "uniform": 1.8}


class Row(NamedTuple):
    """A line of the table: the parameters that match are distributed so."""

    pattern: str
    kind: str  # normal, uniform or constant
    spread: object  # deviation, limit or value; a number, or a function of our shape


def fan_in(shape):
    """Of kernels (..., in, out): inputs of an output; of depthwise ones (3, 3, 1, D): 9."""
    return np.prod(shape[:-1])


def fan_out(shape):
    return np.prod(shape) / shape[-2]


def he_by_fan_out(shape):
    return (2 / fan_out(shape)) ** 0.5


def half_xavier(shape):
    return 0.5 * (2 / (fan_in(shape) + fan_out(shape))) ** 0.5


TABLE = (
    Row(r"(?!encoder\.pool\.proj\.).*bias", "constant", 0.0),
    Row(r".*\.scale", "constant", 1.0),
    Row(r"logit_scale", "constant", np.log(1 / 0.07)),
    Row(r"encoder\.(stem|stages)\..*(?<!_kxk)\.kernel", "normal", he_by_fan_out),
    Row(r"encoder\.stages\..*_kxk\.kernel", "normal", (2 / 9) ** 0.5),
    Row(r"encoder\.pool\.proj\.(kernel|bias)", "uniform", (9 * 64) ** -0.5),
    Row(r"encoder\.query", "normal", 1e-6),
    # PyTorch's truncated normal of 0.02 is cut at 100 deviations.
    Row(r"(encoder|decoder)\.blocks\..*\.kernel", "normal", 0.02),
    Row(r"(post_)?quant_proj\.(.*\.)?kernel", "normal", 0.02),
    Row(r"projection\.kernel", "normal", 0.02),
    Row(r"decoder\.up_conv.*\.kernel", "normal", half_xavier),
    Row(r"quantizer\.codebook", "uniform", CHUNK**-0.5 / 36),
    Row(r"text_encoder\.token_embedding", "normal", 0.02),
    Row(r"text_encoder\.positional_embedding", "normal", 0.01),
    Row(r"text_encoder\.text_projection", "normal", TEXT_WIDTH**-0.5),
    Row(r"text_encoder\..*\.qkv\.kernel", "normal", TEXT_WIDTH**-0.5),
    Row(r"text_encoder\..*\.c_fc\.kernel", "normal", (2 * TEXT_WIDTH) ** -0.5),
    Row(
        r"text_encoder\..*\.(attn\.proj|c_proj)\.kernel",
        "normal",
        TEXT_WIDTH**-0.5 * (2 * TEXT_LAYERS) ** -0.5,
    ),
    Row(r"heads\.\d\.conv[123]\.kernel", "normal", half_xavier),
)


@pytest.fixture(scope="module")
def fresh():
    """Name -> array of every parameter: the tokenizer's, both projections', the discriminator's."""
    model = tiny.get_config().model
    model.num_query = 8
    model.text.vocab_size, model.text.context_length = 512, 16
    assert (model.text.width, model.text.layers) == (TEXT_WIDTH, TEXT_LAYERS)
    assert model.latent_width == CHUNK * model.num_codebooks
    tokenizer = trees.flatten(_params(UniTok(**model.to_dict(), rngs=nnx.Rngs(0))))
    linear = _params(make_projection("linear", 128, 32, 4, rngs=nnx.Rngs(1)))
    linear = {f"quant_proj.{name}": array for name, array in linear.items()}
    heads = trees.flatten(_params(DiscriminatorHeads(depths=2, rngs=nnx.Rngs(2))))
    assert tokenizer.keys().isdisjoint(linear) and tokenizer.keys().isdisjoint(heads)
    return {k: np.asarray(v, np.float64) for k, v in (tokenizer | linear | heads).items()}


def _params(module):
    return nnx.to_pure_dict(nnx.state(module))


def test_every_parameter_has_one_row_and_every_row_parameters(fresh):
    used = set()
    for name in fresh:
        rows = [row for row in TABLE if re.fullmatch(row.pattern, name)]
        assert len(rows) == 1, (name, rows)
        used.add(rows[0])
    assert used == set(TABLE)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.pattern)
def test_parameters_are_distributed_as_the_recipe_says(fresh, row):
    scaled = []
    for name, array in fresh.items():
        if not re.fullmatch(row.pattern, name):
            continue
        spread = row.spread(array.shape) if callable(row.spread) else row.spread
        if row.kind == "constant":
            np.testing.assert_array_equal(array, np.float32(spread), err_msg=name)
            continue
        if row.kind == "uniform":
            assert 0.95 * spread < np.abs(array).max() <= spread * (1 + 1e-6), name
            spread = spread / 3**0.5
        # Errors of a sample's mean and deviation, in deviations.
        error = ((KURTOSIS[row.kind] - 1) / (4 * array.size)) ** 0.5
        assert abs(array.std() / spread - 1) < SIGMAS * error, (name, array.std() / spread)
        assert abs(array.mean() / spread) < SIGMAS * array.size**-0.5, name
        scaled.append(array.ravel() / spread)
    if row.kind == "constant":
        return
    values = np.concatenate(scaled)
    assert values.size > 1000  # enough to tell a normal from a cut (2.4) and from a uniform one
    assert abs(np.mean(values**4) - KURTOSIS[row.kind]) < SIGMAS * (24 / values.size) ** 0.5 + 0.05


@pytest.mark.parametrize("part", ["encoder", "decoder", "text_encoder"])
def test_blocks_differ(fresh, part):
    first, second = fresh[f"{part}.blocks.block.attn.qkv.kernel"]
    assert np.abs(first - second).min() > 0 and not jnp.isnan(first).any()
