"""ViTamin (arXiv 2404.02132), convolutional stages and a transformer, and a mirrored decoder."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.codes import STRIDE
from unitok_jax.models import convolutions, elementwise, layers, recomputation


@dataclasses.dataclass(frozen=True)
class Size:
    """Size of a ViTamin: widths, depths, and the number of heads, which no shape determines."""

    stem: int
    stages: tuple[int, int]
    width: int
    blocks: int
    heads: int
    depths: tuple[int, int] = (2, 4)


SIZES = {
    "nano": Size(stem=16, stages=(16, 32), width=64, blocks=2, heads=2, depths=(1, 2)),
    "tiny": Size(stem=32, stages=(32, 64), width=128, blocks=2, heads=4),
    "small": Size(stem=64, stages=(64, 128), width=384, blocks=14, heads=6),
    "base": Size(stem=128, stages=(128, 256), width=768, blocks=14, heads=12),
    "large": Size(stem=160, stages=(160, 320), width=1024, blocks=31, heads=16),
}


class Downsample(nnx.Module):
    """Shortcut of a stride-2 block: average pool, then a 1x1 convolution if the width changes."""

    def __init__(self, inputs: int, outputs: int, *, dtype, rngs: nnx.Rngs):
        # Assigned once: nnx fixes the kind of an attribute at its first assignment.
        if inputs == outputs:
            self.expand = None
        else:
            self.expand = layers.linear(inputs, outputs, dtype, rngs, convolutions.fan_out_init)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = convolutions.average_pool(x)
        return x if self.expand is None else self.expand(x)


class MBConv(nnx.Module):
    """MBConv: LayerNorm, 1x1 to 4 E, GELU, depthwise 3x3, GELU, 1x1 to E, plus a shortcut.

    (B, H, W, D) -> (B, H', W', E). `resample`: 'down' halves the grid (stride-2 depthwise), 'up'
    doubles the grid (a 3x3 convolution after nearest up-sampling, before the depthwise one), 'keep'
    leaves grid and width unchanged.
    """

    def __init__(self, inputs: int, outputs: int, resample: str, *, init, dtype, rngs: nnx.Rngs):
        hidden = 4 * outputs
        if resample == "down":
            self.shortcut = Downsample(inputs, outputs, dtype=dtype, rngs=rngs)
        elif resample == "up":
            self.shortcut = convolutions.UpsampleConv(
                inputs, outputs, init=init, dtype=dtype, rngs=rngs
            )
        else:
            self.shortcut = None
        if resample == "up":
            self.up = convolutions.UpsampleConv(hidden, hidden, init=init, dtype=dtype, rngs=rngs)
        else:
            self.up = None
        self.pre_norm = layers.layer_norm(inputs, 1e-6, dtype, rngs)
        self.conv1_1x1 = layers.linear(inputs, hidden, dtype, rngs, init)
        stride = 2 if resample == "down" else 1
        depthwise_init = (
            convolutions.depthwise_fan_out_init if init is convolutions.fan_out_init else init
        )
        self.conv2_kxk = convolutions.DepthwiseConv(
            hidden, stride=stride, init=depthwise_init, dtype=dtype, rngs=rngs
        )
        self.conv3_1x1 = layers.linear(hidden, outputs, dtype, rngs, init)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = elementwise.gelu(self.conv1_1x1(self.pre_norm(x)))
        if self.up is not None:
            x = self.up(x)
        x = elementwise.gelu(self.conv2_kxk(x))
        return self.conv3_1x1(x) + shortcut


def _stage(inputs, outputs, depth, resample, **kwargs) -> nnx.List:
    first = MBConv(inputs, outputs, resample, **kwargs)
    return nnx.List(
        [first] + [MBConv(outputs, outputs, "keep", **kwargs) for _ in range(depth - 1)]
    )


class Stem(nnx.Module):
    """Stem: 3x3 at stride 2, LayerNorm, GELU, 3x3: (B, H, W, 3) -> (B, H/2, W/2, D)."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        self.conv1 = convolutions.conv3x3(
            3, width, dtype, rngs, convolutions.fan_out_init, stride=2
        )
        self.norm1 = layers.layer_norm(width, 1e-6, dtype, rngs)
        self.conv2 = convolutions.conv3x3(width, width, dtype, rngs, convolutions.fan_out_init)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv2(elementwise.gelu(self.norm1(self.conv1(x))))


class Pool(nnx.Module):
    """Pooling by LayerNorm and a stride-2 3x3 convolution to the trunk's width."""

    def __init__(self, inputs: int, outputs: int, *, dtype, rngs: nnx.Rngs):
        self.norm = layers.layer_norm(inputs, 1e-6, dtype, rngs)
        init = layers.uniform_init((9 * inputs) ** -0.5)  # PyTorch's default, as in the reference
        self.proj = convolutions.conv3x3(
            inputs, outputs, dtype, rngs, init, stride=2, bias_init=init
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.proj(self.norm(x))


def _trunk(size, drop_path, remat, dtype, stream, rngs) -> layers.Stack:
    def block(rngs):
        return layers.Block(size.width, size.heads, dtype=dtype, stream=stream, rngs=rngs)

    remat = recomputation.of_blocks(remat)
    return layers.Stack(block, size.blocks, rngs=rngs, drop_path=drop_path, remat=remat)


class Encoder(nnx.Module):
    """Encoder: images (B, H, W, 3) -> tokens (B, num_query + H/16 * W/16, D), row-major.

    Positions come from the convolutions' zero padding, without a table of positions, so any
    multiple of 16 is a valid height or width.
    """

    def __init__(
        self,
        size: Size,
        *,
        num_query: int,
        drop_path: float,
        remat: str,
        dtype,
        stream,
        rngs: nnx.Rngs,
    ):
        """Builds the layers; `stream` is the dtype of the residual stream, at least `dtype`."""
        kwargs = dict(init=convolutions.fan_out_init, dtype=dtype, rngs=rngs)
        self.stem = Stem(size.stem, dtype=dtype, rngs=rngs)
        self.stages = nnx.List(
            [
                _stage(size.stem, size.stages[0], size.depths[0], "down", **kwargs),
                _stage(*size.stages, size.depths[1], "down", **kwargs),
            ]
        )
        self.pool = Pool(size.stages[1], size.width, dtype=dtype, rngs=rngs)
        if num_query:
            init, shape = nnx.initializers.normal(1e-6), (1, num_query, size.width)
            self.query = nnx.Param(init(rngs.params(), shape, jnp.float32))
        else:
            self.query = None
        self.blocks = _trunk(size, drop_path, remat, dtype, stream, rngs)
        self.norm = layers.layer_norm(size.width, 1e-6, stream, rngs)
        self.dtype, self.stream, self.remat = dtype, stream, remat

    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        b, h, w, channels = images.shape
        if channels != 3 or h % STRIDE or w % STRIDE or not h * w:
            raise ValueError(
                f"images of shape {images.shape}: expected (B, H, W, 3) with H and W positive "
                f"multiples of {STRIDE}; resize or crop them"
            )
        remat = recomputation.of_convolutions(self.remat)
        x = layers.call(self.stem, images.astype(self.dtype), remat)
        for stage in self.stages:
            for block in stage:
                x = layers.call(block, x, remat)
        x = self.pool(x).reshape(b, h * w // STRIDE**2, -1).astype(self.stream)
        if self.query is not None:
            query = jnp.broadcast_to(self.query[...], (b, *self.query.shape[1:]))
            x = jnp.concatenate([query.astype(x.dtype), x], axis=1)
        return self.norm(self.blocks(x, key))


class Decoder(nnx.Module):
    """Decoder: tokens (B, num_query + h * w, D) -> images (B, 16 h, 16 w, 3) float32, unbounded."""

    def __init__(
        self,
        size: Size,
        *,
        num_query: int,
        drop_path: float,
        remat: str,
        dtype,
        stream,
        rngs: nnx.Rngs,
    ):
        """Builds the layers; `stream` is the dtype of the residual stream, at least `dtype`."""
        kwargs = dict(init=convolutions.xavier_init, dtype=dtype, rngs=rngs)
        low, high = size.stages
        self.blocks = _trunk(size, drop_path, remat, dtype, stream, rngs)
        self.norm = layers.layer_norm(size.width, 1e-6, dtype, rngs)
        self.up_conv1 = convolutions.UpsampleConv(size.width, high, **kwargs)
        self.up_conv2 = _stage(high, high, size.depths[1], "up", **kwargs)
        self.up_conv3 = _stage(high, low, size.depths[0], "up", **kwargs)
        self.up_conv4 = UpStem(low, dtype=dtype, rngs=rngs)
        self.num_query, self.stream, self.remat = num_query, stream, remat

    def __call__(
        self, tokens: jax.Array, grid: tuple[int, int], key: jax.Array | None = None
    ) -> jax.Array:
        return self.to_rgb(self.features(tokens, grid, key))

    def features(
        self, tokens: jax.Array, grid: tuple[int, int], key: jax.Array | None = None
    ) -> jax.Array:
        """Computes the input of the last convolution, (B, 16 h, 16 w, D)."""
        if tokens.shape[1] != self.num_query + grid[0] * grid[1]:
            raise ValueError(
                f"{tokens.shape[1]} tokens do not fill a grid of {grid[0]} x {grid[1]} cells "
                f"with num_query={self.num_query}; pass the grid of the encoded images"
            )
        remat = recomputation.of_convolutions(self.remat)
        x = self.blocks(tokens.astype(self.stream), key)[:, self.num_query :]
        x = self.norm(x).reshape(x.shape[0], *grid, -1)
        x = layers.call(self.up_conv1, x, remat)
        for block in (*self.up_conv2, *self.up_conv3):
            x = layers.call(block, x, remat)
        return layers.call(self.up_conv4, x, remat)

    def to_rgb(self, features: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        """Applies the last convolution, (B, H, W, D) -> (B, H, W, 3) float32.

        `kernel` replaces the convolution's own kernel.

        The adversarial loss is weighted by gradients at this kernel.
        """
        graph, params = nnx.split(self.up_conv4.conv2)
        params = nnx.to_pure_dict(params)
        if kernel is not None:
            params["kernel"] = kernel
        return nnx.merge(graph, params)(features).astype(jnp.float32)


class UpStem(nnx.Module):
    """Mirror of the stem: up-sampling 3x3 convolution, LayerNorm, GELU.

    `Decoder.to_rgb` calls `conv2`, the 3x3 convolution to RGB.
    """

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        self.conv1 = convolutions.UpsampleConv(
            width, width, init=convolutions.xavier_init, dtype=dtype, rngs=rngs
        )
        self.norm1 = layers.layer_norm(width, 1e-6, dtype, rngs)
        self.conv2 = convolutions.conv3x3(width, 3, dtype, rngs, convolutions.xavier_init)

    def __call__(self, x: jax.Array) -> jax.Array:
        return elementwise.gelu(self.norm1(self.conv1(x)))
