"""Convolutions in forms that are fast on each platform, and pooling.

`docs/explanation/precision_and_convolutions.md` has the measurements.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from unitok_jax.models.recomputation import product

# Encoder convolutions: normal(0, sqrt(2 / fan_out)).
fan_out_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
# The same for depthwise 3x3 kernels, where every output has nine weights.
depthwise_fan_out_init = nnx.initializers.normal((2 / 9) ** 0.5)
# The decoder's and the discriminator's: Xavier normal, gain 0.5 (it enters the variance squared).
xavier_init = nnx.initializers.variance_scaling(0.25, "fan_avg", "normal")


def conv3x3(
    inputs: int,
    outputs: int,
    dtype,
    rngs: nnx.Rngs,
    init,
    stride: int = 1,
    bias_init=nnx.initializers.zeros,
) -> nnx.Conv:
    """Builds a 3x3 convolution that pads (1, 1); `SAME` pads (0, 1) at stride 2 on even sizes."""
    return nnx.Conv(
        inputs,
        outputs,
        (3, 3),
        strides=stride,
        padding=((1, 1), (1, 1)),
        kernel_init=init,
        bias_init=bias_init,
        dtype=dtype,
        rngs=rngs,
    )


def depthwise_conv3x3(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Computes a depthwise 3x3 convolution with padding (1, 1), summed in float32.

    Args:
      x: (B, H, W, D).
      kernel: (3, 3, 1, D).
      stride: 1 or 2.

    Returns:
      (B, ceil(H / stride), ceil(W / stride), D).
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _depthwise_by_shifts(x, kernel, stride),
        default=lambda x, kernel: _depthwise_by_groups(x, kernel, stride),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_by_shifts(x, kernel, stride):
    """Sums nine shifted products: XLA's grouped convolution is 13 to 50 times slower on a CPU.

    All forms save the same arrays for the backward pass, so that this one must save none that it
    makes float32: a GPU would have to write them.
    """
    wide = x.astype(jnp.float32), kernel.astype(jnp.float32)
    out = _flat_shifts(*wide) if stride == 1 else _windows(*wide, stride)
    return out.astype(x.dtype)


def _flat_shifts(x, kernel):
    # Columns and channels as one axis: XLA then keeps only the padded array, and does not
    # recompute its producer for every shift.
    b, h, w, d = x.shape
    padded = _pad(x).reshape(b, h + 2, (w + 2) * d)
    return sum(
        padded[:, i : i + h, j * d : (j + w) * d].reshape(b, h, w, d) * kernel[i, j, 0]
        for i in range(3)
        for j in range(3)
    )


def _windows(x, kernel, stride):
    # Every product padded or cropped, no padded array: faster if most elements are read once.
    def tap(i, j):
        zero = np.zeros((), x.dtype)
        padding = ((0, 0, 0), (1 - i, i - 1, 0), (1 - j, j - 1, 0), (0, 0, 0))
        return lax.pad(x * kernel[i, j, 0], zero, padding)[:, ::stride, ::stride]

    return sum(tap(i, j) for i in range(3) for j in range(3))


def _strided_shifts(x, kernel, stride):
    # Equal to `_windows`, with a faster gradient.
    padded, (h, w) = _pad(x), x.shape[1:3]
    return sum(
        padded[:, i : i + h : stride, j : j + w : stride] * kernel[i, j, 0]
        for i in range(3)
        for j in range(3)
    )


def _pad(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _shifts_forward(x, kernel, stride):
    return _depthwise_by_shifts(x, kernel, stride), (x, kernel)


def _shifts_backward(stride, saved, gradient):
    x, kernel = (a.astype(jnp.float32) for a in saved)
    # Without the barriers XLA recomputes the producers of these arrays in each of nine reductions.
    gradient = lax.optimization_barrier(gradient.astype(jnp.float32))
    padded = lax.optimization_barrier(_pad(x))
    rows, cols, width = gradient.shape[1:]

    def forward(x):
        return _flat_shifts(x, kernel) if stride == 1 else _strided_shifts(x, kernel, stride)

    (to_x,) = jax.linear_transpose(forward, x)(gradient)

    # Row by row: the inputs of a row stay in the cache for its nine products.
    def add_row(total, row):
        line = lax.dynamic_index_in_dim(gradient, row, 1, keepdims=False)
        above = lax.dynamic_slice_in_dim(padded, row * stride, 3, 1)
        products = [
            jnp.sum(above[:, i, j : j + (cols - 1) * stride + 1 : stride] * line, (0, 1))
            for i in range(3)
            for j in range(3)
        ]
        return total + jnp.stack(products), None

    zeros = jnp.zeros((9, width), jnp.float32)
    total, _ = lax.scan(add_row, zeros, jnp.arange(rows))
    gradients = to_x, total.reshape(kernel.shape)
    return tuple(g.astype(a.dtype) for g, a in zip(gradients, saved, strict=True))


_depthwise_by_shifts.defvjp(_shifts_forward, _shifts_backward)


def _depthwise_by_groups(x, kernel, stride):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def upsample_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes nearest x2 up-sampling followed by a 3x3 convolution with padding (1, 1).

    The result is computed on the small image, exactly, with 4/9 of the multiplications, or on a
    CPU, for wide inputs, a quarter. Sums are float32, and factors are rounded to the dtype of `x`
    once.

    Args:
      x: (B, H, W, D).
      kernel: (3, 3, D, E), float32.

    Returns:
      (B, 2 H, 2 W, E).
    """
    forms = {"cuda": _upsample_by_corners, "default": _upsample_by_phases}
    if x.shape[-1] >= 256:  # below, the products of the taps cost more to store than they save
        forms["cpu"] = _upsample_by_taps
    return lax.platform_dependent(x, kernel, **forms)


def _upsample_by_phases(x, kernel):
    """Computes one 2x2 convolution for each of the four parities of output pixels."""
    phases = [
        lax.conv_general_dilated(
            x,
            phase_kernel.astype(x.dtype),
            (1, 1),
            ((1 - i, i), (1 - j, j)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for (i, j), phase_kernel in _phase_kernels(kernel).items()
    ]
    return _shuffle(jnp.stack(phases, axis=3))


def _upsample_by_corners(x, kernel):
    """Computes the four parities as channels of one 2x2 convolution.

    The four output pixels around a corner of small pixels depend on the four small pixels around
    it. One call where there were four, and three of twelve with its gradients, whose sums over
    the parities are then the convolution's own.
    """
    # Around a corner the odd pixels come first: they end what lies above and to the left of it.
    kernels = list(_phase_kernels(kernel).values())[::-1]
    y = lax.conv_general_dilated(
        x,
        jnp.concatenate(kernels, axis=-1).astype(x.dtype),
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    # (B, H + 1, W + 1, 4 E), of which the outermost pixels lie outside of the image.
    return _shuffle(y.reshape(*y.shape[:3], 4, -1))[:, 1:-1, 1:-1]


def _phase_kernels(kernel):
    """Returns the (2, 2, D, E) kernels of output pixels by their parities (0, 0) to (1, 1).

    An output pixel depends on a 2x2 neighbourhood of the small image; the kernels are sums of rows
    and columns of the 3x3 kernel.
    """
    # Rows of parity 0 see (above, here) with k0 | k1 + k2; parity 1 sees (here, below) with
    # k0 + k1 | k2. The same holds for columns.
    rows = (
        jnp.stack([kernel[0], kernel[1] + kernel[2]]),
        jnp.stack([kernel[0] + kernel[1], kernel[2]]),
    )
    kernels = {}
    for i, row in enumerate(rows):
        kernels[i, 0] = jnp.stack([row[:, 0], row[:, 1] + row[:, 2]], axis=1)
        kernels[i, 1] = jnp.stack([row[:, 0] + row[:, 1], row[:, 2]], axis=1)
    return kernels


def _upsample_by_taps(x, kernel):
    """Multiplies each tap of the kernel with each pixel of the small image once.

    The product is added to every output pixel that depends on this pixel through this tap."""
    products = jnp.einsum(
        "bhwd,ijde->bhwije", x, kernel.astype(x.dtype), preferred_element_type=jnp.float32
    )

    def parities(before, here, after, axis):
        # Output 2 y lies under the taps at y - 1, y, y and output 2 y + 1 at y, y, y + 1.
        return _shift(before, 1, axis) + here + after, before + here + _shift(after, -1, axis)

    rows = parities(*jnp.unstack(products, axis=3), axis=1)
    phases = [phase for row in rows for phase in parities(*jnp.unstack(row, axis=3), axis=2)]
    return _shuffle(jnp.stack([phase.astype(x.dtype) for phase in phases], axis=3))


def _shift(x, steps, axis):
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (steps, -steps, 0)
    return lax.pad(x, np.zeros((), x.dtype), padding)


def _shuffle(phases):
    """Lays out (B, H, W, 4, E), of parities 00, 01, 10, 11, as (B, 2 H, 2 W, E)."""
    b, h, w = phases.shape[:3]
    out = phases.reshape(b, h, w, 2, 2, -1)
    return out.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


class DepthwiseConv(nnx.Module):
    """Depthwise 3x3 convolution with bias, padding (1, 1)."""

    def __init__(self, width: int, *, stride: int = 1, init, dtype, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, 1, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return product(depthwise_conv3x3(x.astype(self.dtype), kernel, self.stride) + bias)


class UpsampleConv(nnx.Module):
    """Nearest x2 up-sampling and a 3x3 convolution with bias: (B, H, W, D) -> (B, 2H, 2W, E)."""

    def __init__(self, inputs: int, outputs: int, *, init, dtype, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((outputs,)))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        out = upsample_conv3x3(x.astype(self.dtype), self.kernel[...])
        return product(out + self.bias[...].astype(self.dtype))


def average_pool(x: jax.Array, stride: int = 2) -> jax.Array:
    """Averages 3x3 windows: (B, H, W, D) -> (B, H / stride, W / stride, D).

    The padding (1, 1) is not counted. Sums are float32: in bfloat16 every addition would round.
    """
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))

    def window_sum(x):
        return lax.reduce_window(
            x, np.zeros((), x.dtype), lax.add, (1, 3, 3, 1), (1, stride, stride, 1), padding
        )

    counts = window_sum(jnp.ones((1, *x.shape[1:3], 1), jnp.float32))
    return (window_sum(x.astype(jnp.float32)) / counts).astype(x.dtype)
