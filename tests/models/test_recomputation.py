"""Recomputation: what each name keeps of a block, and that it changes no gradient."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks.saved import by_part, saved
from configs import tiny
from tests.helpers import arrays
from unitok_jax.generate import limits as generator_limits
from unitok_jax.models import layers, recomputation, text_encoder, vitamin
from unitok_jax.models.pretrained.dinov2 import DinoV2
from unitok_jax.models.pretrained.lpips import Lpips
from unitok_jax.models.unitok import abstract_model

B, N, D, DEPTH = 2, 3, 8, 3
X = jax.random.normal(jax.random.key(0), (B, N, D))


def block(rngs):
    return layers.Block(D, 2, dtype=jnp.float32, stream=jnp.float32, rngs=rngs)


def text_block(rngs):
    return text_encoder.TextBlock(D, 2, DEPTH, gelu="exact", dtype=jnp.float32, rngs=rngs)


def stack(remat, make=block):
    """A function of parameters and inputs, and the parameters."""
    made = layers.Stack(make, DEPTH, rngs=layers.Keys(0), drop_path=0.5, remat=remat)
    graph, params = nnx.split(made)
    key = jax.random.key(1)
    return lambda p, x: nnx.merge(graph, p)(x, key), nnx.to_pure_dict(params)


def kept(remat, make=block):
    """Widths of what each block keeps, beside single numbers of tokens and samples; all shapes."""
    run, params = stack(remat, make)
    shapes = [a.shape[1:] for a in saved(run, params, X) if a.shape[:2] == (DEPTH, B)]
    return sorted(shape[-1] for shape in shapes if shape[:-1] == (B, N) and shape[-1] > 1), shapes


def test_blocks_keep_their_input():
    assert kept("blocks") == ([D], [(B, N, D)])


def test_products_are_kept_and_nothing_else():
    """Beside the input: qkv, the attention's output and the two products within the MLP."""
    widths, shapes = kept("products")
    assert widths == [D, D, 2 * D, 2 * D, 3 * D] and len(shapes) == 5
    widths, shapes = kept("products", text_block)
    assert widths == [D, D, 3 * D, 4 * D] and len(shapes) == 4


def test_without_recomputation_scores_are_kept():
    assert (B, 2, N, N) in kept("none")[1]


@pytest.mark.parametrize("make", [block, text_block])
@pytest.mark.parametrize("remat", ["products", "blocks"])
def test_gradients_of_blocks_are_the_same(remat, make):
    def gradients(remat):
        run, params = stack(remat, make)
        return jax.jit(jax.grad(lambda p, x: jnp.sum(run(p, x) ** 2), (0, 1)))(params, X)

    ours, plain = gradients(remat), gradients("none")
    assert arrays.error(jax.device_get(ours), jax.device_get(plain)) < 1e-6


@pytest.mark.parametrize("remat", ["products", "blocks"])
def test_gradients_of_convolutions_are_the_same(remat):
    made = vitamin.MBConv(
        4, 6, "up", init=layers.linear_init, dtype=jnp.float32, rngs=layers.Keys(0)
    )
    graph, params = nnx.split(made)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 4))

    def gradients(remat):
        def loss(params, x):
            return jnp.sum(layers.call(nnx.merge(graph, params), x, remat) ** 2)

        found = jax.jit(jax.grad(loss, (0, 1)))(nnx.to_pure_dict(params), x)
        return jax.device_get(found)

    assert arrays.error(gradients(remat), gradients("none")) < 1e-5


def test_of_the_stem_the_first_convolution_alone_is_computed_again():
    """It has three channels, and so few operations."""
    stem = vitamin.Stem(D, dtype=jnp.float32, rngs=layers.Keys(0))
    graph, params = nnx.split(stem)

    def convolutions(remat):
        def loss(params, images):
            return jnp.sum(layers.call(nnx.merge(graph, params), images, remat) ** 2)

        program = jax.make_jaxpr(jax.grad(loss))(nnx.to_pure_dict(params), jnp.ones((1, 8, 8, 3)))
        return str(program).count("conv_general_dilated[")

    assert convolutions("products") == convolutions("none") + 1 == 6


def test_more_is_recomputed_from_name_to_name():
    def count(remat):
        graph, params = abstract_model(tiny.get_config().model.to_dict() | {"remat": remat})
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        run = lambda p, x: nnx.merge(graph, p).reconstruct(x)  # noqa: E731
        return str(jax.make_jaxpr(run)(params, images)).count("remat")

    assert [count(remat) for remat in recomputation.TOKENIZER] == [0, 17, 2, 17]


@pytest.mark.parametrize(("make", "inputs"), [(Lpips, 2), (DinoV2, 1)])
def test_frozen_networks_recompute_with_everything_alone(make, inputs):
    def count(remat):
        what = dict(dtype=jnp.float32, remat=recomputation.of_frozen(remat), rngs=layers.Keys(0))
        graph, params = nnx.split(nnx.eval_shape(lambda: make(**what)))
        images = [jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32)] * inputs
        run = lambda p, *images: nnx.merge(graph, p)(*images)  # noqa: E731
        return str(jax.make_jaxpr(run)(nnx.to_pure_dict(params), *images)).count("remat")

    *less, most = [count(remat) for remat in recomputation.TOKENIZER]
    assert not any(less) and most


def test_bytes_that_a_tokenizer_saves():
    """By hand: of the stream float32 D, of products bfloat16 3 D + D + 2 D + 2 D; texts 8 D."""
    config = tiny.get_config()
    config.model.update(size="nano", quant_heads=2, dtype="bfloat16")
    model, size = config.model.to_dict(), config.data.image_size
    found = {remat: by_part(model | {"remat": remat}, 3, size) for remat in recomputation.TOKENIZER}
    text, tokens, width, depth = model["text"], 16, 64, 2
    for part in ("encoder, blocks", "decoder, blocks"):
        assert found["blocks"][part] == depth * 3 * tokens * width * 4
        assert found["products"][part] == depth * 3 * tokens * width * (4 + 2 * 8)
    values = 3 * text["context_length"] * text["width"]
    assert found["products"]["text tower, blocks"] == text["layers"] * values * (4 + 2 * 8)
    # Of the convolutions the inputs: of the stem, and of one and two blocks.
    inputs = 64 * 64 * 3 + 32 * 32 * 16 + 16 * 16 * 16 + 8 * 8 * 32
    assert found["everything"]["encoder, convolutions"] == 3 * inputs * 2
    for part in found["none"]:
        convolutional = part.endswith("convolutions")
        names = ("none", "products", "everything" if convolutional else "blocks")
        sizes = [found[remat][part] for remat in names]
        assert sizes == sorted(set(sizes), reverse=True)
        same = ("none", "blocks") if convolutional else ("blocks", "everything")
        assert len({found[remat][part] for remat in same}) == 1


def test_values_of_older_files():
    """A generator's was a bool; a tokenizer's never was."""
    assert [recomputation.find(value) for value in (True, False)] == ["blocks", "none"]
    with pytest.raises(ValueError, match="^model.remat=True is not one of none, products"):
        recomputation.find(True, recomputation.TOKENIZER)
    with pytest.raises(ValueError, match="^model.remat=1 is not one of"):
        recomputation.find(1)


@pytest.mark.parametrize("value", ["everything", "product", None])
def test_values_of_no_file(value):
    from configs import generate

    model = generate.get_config().model.to_dict() | {"remat": value}
    with pytest.raises(ValueError, match="^model.remat=.* is not one of none, products, blocks"):
        generator_limits.check(model)
