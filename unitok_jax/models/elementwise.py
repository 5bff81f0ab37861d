"""Norms and activations whose backward passes read their inputs and nothing else.

JAX would save the intermediate arrays of each, up to six of the size of the input.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax


def recomputed(function):
    """Returns `function` of arrays, of which the backward pass saves the arguments alone."""
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(
        lambda *args: (function(*args), args),
        lambda args, gradient: jax.vjp(function, *args)[1](gradient),
    )
    return functools.wraps(function)(wrapped)


def _activation(function):
    """As `recomputed`, in bfloat16: value and derivative are computed in float32, rounded once.

    Rounded within, 1 + erf(x) and 1 + tanh(x) would cancel for negative x. In float32, the dtype
    of CPUs, JAX's derivative stays: there operations cost more than bytes.
    """

    def forward(*args):
        return function(*(x.astype(jnp.float32) for x in args)).astype(args[0].dtype)

    def backward(args, gradient):
        wide = (x.astype(jnp.float32) for x in args)
        gradients = jax.vjp(function, *wide)[1](gradient.astype(jnp.float32))
        return tuple(g.astype(x.dtype) for g, x in zip(gradients, args, strict=True))

    narrow = jax.custom_vjp(forward)
    narrow.defvjp(lambda *args: (forward(*args), args), backward)

    @functools.wraps(function)
    def chosen(*args):
        return (function if args[0].dtype == jnp.float32 else narrow)(*args)

    return chosen


@_activation
def gelu(x: jax.Array) -> jax.Array:
    """Computes exact GELU by erf: `jax.nn.gelu`, by erfc, is slower on a CPU.

    See docs/explanation/precision_and_convolutions.md.
    """
    return 0.5 * x * (1 + lax.erf(x * np.sqrt(0.5).astype(x.dtype)))


@_activation
def tanh_gelu(x: jax.Array) -> jax.Array:
    """Computes GELU by its approximation with tanh."""
    return jax.nn.gelu(x, approximate=True)


@_activation
def quick_gelu(x: jax.Array) -> jax.Array:
    """Computes x * sigmoid(1.702 x), with which OpenAI trained its CLIPs."""
    return x * jax.nn.sigmoid(1.702 * x)


GELUS = {"exact": gelu, "tanh": tanh_gelu, "quick": quick_gelu}


@_activation
def geglu(gate: jax.Array, x: jax.Array) -> jax.Array:
    """Computes tanh-GELU(gate) * x."""
    return jax.nn.gelu(gate, approximate=True) * x


@_activation
def swiglu(gate: jax.Array, x: jax.Array) -> jax.Array:
    """Computes silu(gate) * x."""
    return jax.nn.silu(gate) * x


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Computes LayerNorm over the last axis, in float32.

    Args:
      x: (..., D).
      scale, bias: (D,), of the dtype of `x`.
      epsilon: what is added to the variance.

    Returns:
      (..., D) of the dtype of `x`.
    """
    return _layer_norm(x, scale, bias, epsilon)[0]


def _layer_norm(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    # The fast variance E[x^2] - E[x]^2 is too inexact for parity with PyTorch.
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    factor = lax.rsqrt(variance + epsilon)
    out = (wide - mean) * (factor * scale) + bias
    return out.astype(x.dtype), (x, scale, bias, mean, factor)


def _layer_norm_backward(epsilon, saved, gradient):
    x, scale, bias, mean, factor = saved
    unit = (x.astype(jnp.float32) - mean) * factor
    gradient = gradient.astype(jnp.float32)
    to_unit = gradient * scale
    along = jnp.mean(to_unit * unit, axis=-1, keepdims=True)
    to_x = factor * (to_unit - jnp.mean(to_unit, axis=-1, keepdims=True) - unit * along)
    samples = tuple(range(x.ndim - 1))
    to_scale, to_bias = jnp.sum(gradient * unit, samples), jnp.sum(gradient, samples)
    return to_x.astype(x.dtype), to_scale.astype(scale.dtype), to_bias.astype(bias.dtype)


layer_norm.defvjp(_layer_norm, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float, dtype) -> jax.Array:
    """Computes x / sqrt(mean(x^2) + epsilon) over the last axis in float32, times `scale`.

    Args:
      x: (..., D).
      scale: (D,) of `dtype`.
      epsilon: what is added to the mean square.
      dtype: of the product and of the result (..., D).
    """
    return _rms_norm(x, scale, epsilon, dtype)[0]


def _rms_norm(x, scale, epsilon, dtype):
    wide = x.astype(jnp.float32)
    factor = lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + epsilon)
    return (wide * factor).astype(dtype) * scale, (x, scale, factor)


def _rms_norm_backward(epsilon, dtype, saved, gradient):
    x, scale, factor = saved
    unit = x.astype(jnp.float32) * factor
    to_unit = (gradient * scale).astype(jnp.float32)
    along = jnp.mean(to_unit * unit, axis=-1, keepdims=True)
    to_x = factor * (to_unit - unit * along)
    to_scale = jnp.sum(gradient.astype(jnp.float32) * unit, tuple(range(x.ndim - 1)))
    return to_x.astype(x.dtype), to_scale.astype(dtype)


rms_norm.defvjp(_rms_norm, _rms_norm_backward)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm over the last axis, statistics in float32: `layer_norm` with its parameters."""

    def __call__(self, x: jax.Array) -> jax.Array:
        x, scale, bias = (a.astype(self.dtype) for a in (x, self.scale[...], self.bias[...]))
        return layer_norm(x, scale, bias, self.epsilon)
