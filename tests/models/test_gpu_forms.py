"""Forms that programs for NVIDIA GPUs take, read from their lowering, which needs no GPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unitok_jax.models import convolutions, layers, vitamin
from unitok_jax.models.pretrained import dinov2, vit
from unitok_jax.models.pretrained.lpips import Lpips
from unitok_jax.planning import flops

BATCH = 7  # unlike every other dimension
NANO, LARGE = vitamin.SIZES["nano"], vitamin.SIZES["large"]


def images(*size):
    return jax.ShapeDtypeStruct((BATCH, *size), jnp.bfloat16)


def lowered(function, *args, platform="cuda"):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def count(text, operation):
    return len(re.findall(rf"stablehlo\.{operation}\b", text))


def transposed_images(text):
    """Counts transpositions of arrays whose first axis is the batch."""
    return len(re.findall(rf"stablehlo\.transpose .*-> tensor<{BATCH}x", text))


def uneven_paddings(text):
    """Counts convolutions with unlike paddings of two sides: XLA copies their input for cuDNN."""
    windows = re.findall(r"window = \{[^}]*?pad = \[(\[.*?\])\]", text)
    sides = [re.findall(r"\[(-?\d+), (-?\d+)\]", window) for window in windows]
    return sum(any(low != high for low, high in pairs) for pairs in sides)


def with_gradients(function):
    """Returns a function of value and gradients of all arguments, for cotangents of ones."""

    def both(*args):
        value, pull = jax.vjp(function, *args)
        return value, pull(jnp.ones(value.shape, value.dtype))

    return both


def applied(make, run=lambda module, *inputs: module(*inputs)):
    """Returns `run` of a module as a function of parameters and inputs, and the parameters."""
    graph, params = nnx.split(nnx.eval_shape(make))
    return lambda params, *inputs: run(nnx.merge(graph, params), *inputs), params


def network(kind, size=NANO):
    kwargs = dict(num_query=0, drop_path=0.0, remat="none", dtype=jnp.bfloat16, stream=jnp.float32)
    return lambda: kind(size, **kwargs, rngs=layers.Keys(0))


def in_turn(x, blocks):
    return functools.reduce(lambda x, block: block(x), blocks, x)


@pytest.mark.parametrize("width", [4, 256])
def test_upsampling_is_one_convolution_and_two_in_its_gradient(width):
    kernel = jax.ShapeDtypeStruct((3, 3, width, 8), jnp.float32)
    upsample = convolutions.upsample_conv3x3
    for function, calls in ((upsample, 1), (with_gradients(upsample), 3)):
        on_gpu = lowered(function, images(4, 5, width), kernel)
        assert (count(on_gpu, "convolution"), uneven_paddings(on_gpu)) == (calls, 0)
        on_tpu = lowered(function, images(4, 5, width), kernel, platform="tpu")
        assert count(on_tpu, "convolution") == 4 * calls
        assert uneven_paddings(on_tpu) > 0


@pytest.mark.slow
def test_work_of_the_large_decoder():
    """The table of docs/explanation/precision_and_convolutions.md."""
    apply, params = applied(network(vitamin.Decoder, LARGE), lambda model, x: model(x, (16, 16)))
    tokens = jax.ShapeDtypeStruct((32, 256, LARGE.width), jnp.float32)
    traced = jax.jit(with_gradients(apply)).trace(params, tokens)
    for platform, *wanted in (("tpu", 93, 81, 72, 1037), ("cuda", 39, 27, 0, 1049)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        kinds = {re.sub(r"%[\w#]+", "", line) for line in lines}
        gflop = round(flops.of_jaxpr(traced.jaxpr.jaxpr, platform) / 32e9)
        assert [len(lines), len(kinds), uneven_paddings(text), gflop] == wanted


def test_depthwise_convolutions_are_the_librarys():
    function = with_gradients(convolutions.depthwise_conv3x3)
    kernel = jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.bfloat16)
    assert count(lowered(function, images(4, 4, 8), kernel), "convolution") == 3
    assert count(lowered(function, images(4, 4, 8), kernel, platform="cpu"), "convolution") == 0


class TestPatchEmbed:
    @staticmethod
    def make():
        return vit.PatchEmbed(dinov2.SMALL, dtype=jnp.float32, rngs=layers.Keys(0))

    def test_one_product_and_two_in_its_gradient(self):
        apply, params = applied(self.make)
        text = lowered(with_gradients(apply), params, images(28, 42, 3))
        assert (count(text, "convolution"), count(text, "dot_general")) == (0, 3)
        text = lowered(with_gradients(apply), params, images(28, 42, 3), platform="tpu")
        assert (count(text, "convolution"), count(text, "dot_general")) == (3, 0)

    def test_product_is_the_convolution(self):
        model = self.make()
        model.proj.bias[...] = jnp.arange(dinov2.WIDTH) / dinov2.WIDTH
        graph, params = nnx.split(model)
        x = jax.random.normal(jax.random.key(1), (2, 28, 42, 3))

        def sines(form, params, x):
            return jnp.sin(form(nnx.merge(graph, params), x))

        forms = (lambda model, x: model._product(x), lambda model, x: model.proj(x))
        ours, theirs = (with_gradients(functools.partial(sines, form))(params, x) for form in forms)
        for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


class TestImagesKeepTheirLayout:
    """Images are NHWC from one convolution to the next, forward and backward."""

    def test_encoder(self):
        def run(model, x):
            return model.pool(in_turn(model.stem(x), [b for stage in model.stages for b in stage]))

        apply, params = applied(network(vitamin.Encoder), run)
        assert uneven_paddings(lowered(apply, params, images(32, 32, 3))) == 0
        assert transposed_images(lowered(with_gradients(apply), params, images(32, 32, 3))) == 0

    def test_decoder_but_for_the_shuffle_of_each_upsampling(self):
        def run(model, x):
            blocks = [model.up_conv1, *model.up_conv2, *model.up_conv3, model.up_conv4]
            return model.to_rgb(in_turn(x, blocks))

        apply, params = applied(network(vitamin.Decoder), run)
        text = lowered(with_gradients(apply), params, images(2, 2, NANO.width))
        assert (uneven_paddings(text), transposed_images(text)) == (0, 2 * 6)

    def test_lpips(self):
        apply, params = applied(lambda: Lpips(dtype=jnp.float32, rngs=layers.Keys(0)))
        text = lowered(with_gradients(apply), params, images(16, 16, 3), images(16, 16, 3))
        assert (uneven_paddings(text), transposed_images(text)) == (0, 0)
