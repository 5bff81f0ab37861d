"""Norms and activations that save their inputs alone: values and gradients are JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from unitok_jax.models import elementwise

ACTIVATIONS = ("gelu", "tanh_gelu", "quick_gelu", "geglu", "swiglu")
NAMES = (*ACTIVATIONS, "layer_norm", "rms_norm")
DTYPES = (jnp.float32, jnp.bfloat16)


def library_layer_norm(x, scale, bias):
    norm = nnx.LayerNorm(96, epsilon=1e-6, dtype=x.dtype, use_fast_variance=False, rngs=nnx.Rngs(0))
    return nnx.merge(nnx.graphdef(norm), {"scale": scale, "bias": bias})(x)


def library_rms_norm(x, scale):
    wide = x.astype(jnp.float32)
    wide = wide * lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + 1e-5)
    return wide.astype(x.dtype) * scale


def forms(name, dtype):
    """(ours, as JAX differentiates it, arguments)."""
    x, gate, rest = (
        jax.random.normal(key, (4, 33, 96)).astype(dtype)
        for key in jax.random.split(jax.random.key(0), 3)
    )
    scale, bias = 1 + rest[0, 0] / 4, rest[0, 1]
    if name == "layer_norm":
        ours = lambda x, s, b: elementwise.layer_norm(x, s, b, 1e-6)  # noqa: E731
        return ours, library_layer_norm, (3 * x + 1, scale, bias)
    if name == "rms_norm":
        ours = lambda x, s: elementwise.rms_norm(x, s, 1e-5, dtype)  # noqa: E731
        return ours, library_rms_norm, (3 * x, scale)
    ours = getattr(elementwise, name)
    return ours, ours.__wrapped__, (3 * gate,) if name.endswith("gelu") else (3 * gate, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_jax_and_gradients_those_of_float32(name, dtype):
    ours, theirs, args = forms(name, dtype)
    gradient = jax.random.normal(jax.random.key(1), args[0].shape).astype(dtype)
    value, pullback = jax.vjp(ours, *args)
    wide = [x.astype(jnp.float32) for x in args]
    if name in ACTIVATIONS:
        np.testing.assert_array_equal(value, theirs(*wide).astype(dtype))
    else:
        np.testing.assert_array_equal(value, theirs(*args))
    expected = jax.vjp(theirs, *wide)[1](gradient.astype(jnp.float32))
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-7
    for got, want in zip(pullback(gradient), expected, strict=True):
        assert got.dtype == dtype
        atol = tolerance * np.abs(want).max()
        np.testing.assert_allclose(np.float32(got), want, rtol=0, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_the_backward_pass_reads_the_inputs_alone(name):
    ours, theirs, args = forms(name, jnp.bfloat16)

    def saved(function):
        leaves = jax.tree.leaves(jax.vjp(function, *args)[1])
        return [leaf.dtype for leaf in leaves if leaf.shape == args[0].shape]

    inputs = sum(arg.shape == args[0].shape for arg in args)
    assert saved(ours) == [jnp.bfloat16] * inputs
    assert len(saved(theirs)) > inputs


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_a_norm_sums_each_parameters_gradient_once(name):
    ours, theirs, args = forms(name, jnp.float32)

    def sums(function):
        text = str(jax.make_jaxpr(lambda *args: jax.vjp(function, *args)[1](args[0]))(*args))
        return text.count("reduce_sum")

    # Two for the statistics of LayerNorm and one of RMSNorm, the same again in the backward pass,
    # and one for each parameter.
    assert sums(ours) == (6 if name == "layer_norm" else 3) < sums(theirs)
