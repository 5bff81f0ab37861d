"""The Inception-v3 of FID and the inception score: TensorFlow's graph of 2015-12-05.

The architecture is arXiv 1512.00567's; blocks and layers have the names of the public weights.
Where this graph differs from later ones: the image is resized without antialias, average pools do
not count their padding, the last block pools by the maximum, and there are 1008 classes.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from unitok_jax.models import convolutions

SIDE = 299
CLASSES = 1008
SPATIAL_CHANNELS, _SPATIAL_SIDE = 7, 17
SPATIAL = SPATIAL_CHANNELS * _SPATIAL_SIDE**2
"""Number of the features of sFID: 2023."""


class Features(NamedTuple):
    """Outputs of the network, float32. Feature maps are averaged over space, but for `spatial`."""

    pool1: jax.Array  # (B, 64), behind the first max pool
    pool2: jax.Array  # (B, 192), behind the second
    spatial: jax.Array  # (B, 2023), what sFID compares: rows, columns, 7 channels of Mixed_6d
    mixed6: jax.Array  # (B, 768), behind Mixed_6e
    pool3: jax.Array  # (B, 2048), what FID compares
    logits_unbiased: jax.Array  # (B, 1008), what the inception score takes
    logits: jax.Array  # (B, 1008)


class Branch(NamedTuple):
    """One path of a block."""

    chain: tuple = ()  # (name, width, kernel) of convolutions, one after the other
    fork: tuple = ()  # more convolutions, all of the chain's result
    pool: str | None = None  # "average" or "max", before the chain


def _block_5(pool_width):
    return (
        Branch((("branch1x1", 64, (1, 1)),)),
        Branch((("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5)))),
        Branch(
            (
                ("branch3x3dbl_1", 64, (1, 1)),
                ("branch3x3dbl_2", 96, (3, 3)),
                ("branch3x3dbl_3", 96, (3, 3)),
            )
        ),
        Branch((("branch_pool", pool_width, (1, 1)),), pool="average"),
    )


def _block_6(width):
    row, column = (1, 7), (7, 1)
    return (
        Branch((("branch1x1", 192, (1, 1)),)),
        Branch(
            (
                ("branch7x7_1", width, (1, 1)),
                ("branch7x7_2", width, row),
                ("branch7x7_3", 192, column),
            )
        ),
        Branch(
            (
                ("branch7x7dbl_1", width, (1, 1)),
                ("branch7x7dbl_2", width, column),
                ("branch7x7dbl_3", width, row),
                ("branch7x7dbl_4", width, column),
                ("branch7x7dbl_5", 192, row),
            )
        ),
        Branch((("branch_pool", 192, (1, 1)),), pool="average"),
    )


def _block_7(pool):
    return (
        Branch((("branch1x1", 320, (1, 1)),)),
        Branch(
            (("branch3x3_1", 384, (1, 1)),),
            (("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))),
        ),
        Branch(
            (("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3))),
            (("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))),
        ),
        Branch((("branch_pool", 192, (1, 1)),), pool=pool),
    )


# Blocks in order. Those that halve the grid (`_REDUCE`) do it in the last step of every branch.
_BLOCKS = {
    "Mixed_5b": _block_5(32),
    "Mixed_5c": _block_5(64),
    "Mixed_5d": _block_5(64),
    "Mixed_6a": (
        Branch((("branch3x3", 384, (3, 3)),)),
        Branch(
            (
                ("branch3x3dbl_1", 64, (1, 1)),
                ("branch3x3dbl_2", 96, (3, 3)),
                ("branch3x3dbl_3", 96, (3, 3)),
            )
        ),
        Branch(pool="max"),
    ),
    "Mixed_6b": _block_6(128),
    "Mixed_6c": _block_6(160),
    "Mixed_6d": _block_6(160),
    "Mixed_6e": _block_6(192),
    "Mixed_7a": (
        Branch((("branch3x3_1", 192, (1, 1)), ("branch3x3_2", 320, (3, 3)))),
        Branch(
            (
                ("branch7x7x3_1", 192, (1, 1)),
                ("branch7x7x3_2", 192, (1, 7)),
                ("branch7x7x3_3", 192, (7, 1)),
                ("branch7x7x3_4", 192, (3, 3)),
            )
        ),
        Branch(pool="max"),
    ),
    "Mixed_7b": _block_7("average"),
    "Mixed_7c": _block_7("max"),
}
_REDUCE = ("Mixed_6a", "Mixed_7a")


class BatchNorm(nnx.Module):
    """Batch normalisation whose statistics are parameters: nothing updates them."""

    def __init__(self, width: int):
        self.scale, self.var = nnx.Param(jnp.ones((width,))), nnx.Param(jnp.ones((width,)))
        self.bias, self.mean = nnx.Param(jnp.zeros((width,))), nnx.Param(jnp.zeros((width,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.scale[...] * lax.rsqrt(self.var[...] + 1e-3)
        shift = self.bias[...] - self.mean[...] * scale
        return x * scale.astype(x.dtype) + shift.astype(x.dtype)


class ConvBN(nnx.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs, outputs, kernel, stride=1, padding="SAME", *, dtype, rngs):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            kernel,
            strides=stride,
            padding=padding,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            dtype=dtype,
            # Published figures come from exact float32.
            precision=lax.Precision.HIGHEST,
            rngs=rngs,
        )
        self.bn = BatchNorm(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.bn(self.conv(x)))


class Block(nnx.Module):
    """Branches side by side, their channels concatenated; `outputs` is their number."""

    def __init__(self, inputs: int, branches: tuple, reduce: bool, *, dtype, rngs: nnx.Rngs):
        self.branches, self.reduce, self.outputs = branches, reduce, 0
        for branch in branches:
            width = inputs
            for name, outputs, kernel in branch.chain:
                last = reduce and name == branch.chain[-1][0]
                how = (2, "VALID") if last else (1, "SAME")
                setattr(self, name, ConvBN(width, outputs, kernel, *how, dtype=dtype, rngs=rngs))
                width = outputs
            for name, outputs, kernel in branch.fork:
                setattr(self, name, ConvBN(width, outputs, kernel, dtype=dtype, rngs=rngs))
            self.outputs += sum(row[1] for row in branch.fork) or width

    def __call__(self, x: jax.Array) -> jax.Array:
        out = []
        for branch in self.branches:
            y = x
            if branch.pool == "average":
                y = convolutions.average_pool(x, stride=1)
            elif branch.pool == "max":
                y = _max_pool(x) if self.reduce else _max_pool(x, 1, "SAME")
            for name, _, _ in branch.chain:
                y = getattr(self, name)(y)
            out += [getattr(self, name)(y) for name, _, _ in branch.fork] or [y]
        return jnp.concatenate(out, axis=-1)


class Inception(nnx.Module):
    """Features of 8-bit images; a fresh one is a random stand-in whose figures mean nothing."""

    def __init__(self, *, dtype, rngs: nnx.Rngs):
        conv = functools.partial(ConvBN, dtype=dtype, rngs=rngs)
        self.Conv2d_1a_3x3 = conv(3, 32, (3, 3), 2, "VALID")
        self.Conv2d_2a_3x3 = conv(32, 32, (3, 3), 1, "VALID")
        self.Conv2d_2b_3x3 = conv(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = conv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = conv(80, 192, (3, 3), 1, "VALID")
        width = 192
        for name, branches in _BLOCKS.items():
            block = Block(width, branches, name in _REDUCE, dtype=dtype, rngs=rngs)
            setattr(self, name, block)
            width = block.outputs
        self.fc = nnx.Linear(width, CLASSES, precision=lax.Precision.HIGHEST, rngs=rngs)

    def __call__(self, images: jax.Array) -> Features:
        """Features at every tap.

        Args:
          images: (B, H, W, 3) uint8 of any size.

        Raises:
          ValueError: images of another type or shape.
        """
        if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(
                f"Inception takes (B, H, W, 3) uint8 images, not {images.shape} {images.dtype}"
            )
        x = (resize(images.astype(jnp.float32)) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = _max_pool(x)
        pool1 = _mean(x)
        x = _max_pool(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        pool2 = _mean(x)
        for name in _BLOCKS:
            x = getattr(self, name)(x)
            if name == "Mixed_6d":  # TensorFlow's mixed_6, whose first branch is mixed_6/conv
                spatial = x[..., :SPATIAL_CHANNELS].astype(jnp.float32).reshape(len(x), SPATIAL)
            if name == "Mixed_6e":
                mixed6 = _mean(x)
        pool3 = _mean(x)
        logits = self.fc(pool3)
        return Features(pool1, pool2, spatial, mixed6, pool3, logits - self.fc.bias[...], logits)


def resize(images: jax.Array) -> jax.Array:
    """(B, H, W, 3) float32 to (B, 299, 299, 3), as TensorFlow 1 resized: no antialias, and pixel
    corners instead of centres as coordinates."""
    rows, columns = (_bilinear_matrix(size) for size in images.shape[1:3])
    return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, images, precision=lax.Precision.HIGHEST)


@functools.cache
def _bilinear_matrix(size):
    source = np.arange(SIDE) * (size / SIDE)
    low = np.floor(source).astype(int)
    matrix = np.zeros((SIDE, size))
    matrix[np.arange(SIDE), low] += 1 - (source - low)
    matrix[np.arange(SIDE), np.minimum(low + 1, size - 1)] += source - low
    return matrix.astype(np.float32)


def _max_pool(x, stride=2, padding="VALID"):
    lowest = np.array(-np.inf, x.dtype)
    return lax.reduce_window(x, lowest, lax.max, (1, 3, 3, 1), (1, stride, stride, 1), padding)


def _mean(x):
    return x.astype(jnp.float32).mean(axis=(1, 2))
