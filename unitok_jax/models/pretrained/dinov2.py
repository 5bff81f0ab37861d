"""DINOv2 ViT-S/14 (arXiv 2304.07193), the frozen trunk of the discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from unitok_jax.models import elementwise, layers

PATCH = 14
WIDTH, DEPTH, HEADS = 384, 12, 6
TABLE = 37  # side of the position table: trained at 518 pixels
TAPS = (0, 2, 5, 8, 11)  # the blocks whose outputs are used
# ImageNet's statistics, of images in [0, 1]
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class LayerScale(nnx.Module):
    """One learned factor per channel (arXiv 2103.17239); the product is of dtype `stream`."""

    def __init__(self, width: int, *, stream):
        self.gamma = nnx.Param(jnp.ones((width,)))
        self.stream = stream

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(self.stream)


class MLP(nnx.Module):
    """Linear to 4 D, exact GELU, linear back."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        self.fc1 = layers.linear(width, 4 * width, dtype, rngs)
        self.fc2 = layers.linear(4 * width, width, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(elementwise.gelu(self.fc1(x)))


class Block(nnx.Module):
    """Pre-norm transformer block with LayerScale."""

    def __init__(self, *, dtype, stream, rngs: nnx.Rngs):
        self.norm1 = layers.layer_norm(WIDTH, 1e-6, dtype, rngs)
        self.attn = layers.SelfAttention(WIDTH, HEADS, dtype=dtype, rngs=rngs)
        self.ls1 = LayerScale(WIDTH, stream=stream)
        self.norm2 = layers.layer_norm(WIDTH, 1e-6, dtype, rngs)
        self.mlp = MLP(WIDTH, dtype=dtype, rngs=rngs)
        self.ls2 = LayerScale(WIDTH, stream=stream)

    def __call__(self, x: jax.Array, rate=None, key=None) -> jax.Array:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nnx.Module):
    """(B, H, W, 3) -> (B, H / 14, W / 14, 384)."""

    def __init__(self, *, dtype, rngs: nnx.Rngs):
        self.proj = nnx.Conv(
            3,
            WIDTH,
            (PATCH, PATCH),
            strides=PATCH,
            padding="VALID",
            kernel_init=layers.linear_init,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return lax.platform_dependent(x, cuda=self._product, default=self.proj)

    def _product(self, x):
        # Patches do not overlap. A convolution of three channels would not fill the tensor cores.
        b, h, w, channels = x.shape
        dtype = self.proj.dtype
        x = x.astype(dtype).reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, channels)
        x = x.swapaxes(2, 3).reshape(b, h // PATCH, w // PATCH, -1)
        kernel, bias = self.proj.kernel[...], self.proj.bias[...]
        return x @ kernel.astype(dtype).reshape(-1, WIDTH) + bias.astype(dtype)


class DinoV2(nnx.Module):
    """Features of five depths; a fresh one is a random stand-in whose LayerScale is 1."""

    def __init__(self, *, dtype, stream=jnp.float32, rngs: nnx.Rngs, remat: str = "none"):
        """Builds a stand-in.

        Args:
          dtype: of products and convolutions.
          stream: dtype of the residual stream, at least `dtype`.
          rngs: the stream `params`.
          remat: what the blocks recompute: one of `recomputation.BLOCKS`.
        """

        def table(*shape):
            return nnx.Param(layers.linear_init(rngs.params(), shape, jnp.float32))

        def block(rngs):
            return Block(dtype=dtype, stream=stream, rngs=rngs)

        self.patch_embed = PatchEmbed(dtype=dtype, rngs=rngs)
        self.cls_token = table(1, 1, WIDTH)
        self.pos_embed = table(1, 1 + TABLE * TABLE, WIDTH)
        self.blocks = layers.Stack(block, DEPTH, rngs=rngs, drop_path=0.0, remat=remat)
        self.stream = stream

    def __call__(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """Patch token + class token at the outputs of the blocks in `TAPS`.

        Args:
          images: (B, H, W, 3) in [-1, 1], H and W multiples of 14.

        Returns:
          Five (B, N, 384) float32 arrays, N = H W / 196, row-major; no final norm.

        Raises:
          ValueError: sides that are not multiples of 14.
        """
        return tuple(tap[:, 1:] + tap[:, :1] for tap in self.taps(images))

    def taps(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """As `__call__`, but the tokens as they are, class token first: (B, 1 + N, 384)."""
        outputs = self.blocks.outputs(self._tokens(images))
        return tuple(outputs[block].astype(jnp.float32) for block in TAPS)

    def _tokens(self, images):
        b, h, w, channels = images.shape
        if channels != 3 or min(h, w) < PATCH or h % PATCH or w % PATCH:
            raise ValueError(
                f"DINOv2 takes (B, H, W, 3) images with sides that are multiples of {PATCH}, "
                f"not {images.shape}"
            )
        x = (images.astype(jnp.float32) + 1) / 2
        x = self.patch_embed((x - np.float32(MEAN)) / np.float32(STD))
        x = x.astype(jnp.float32).reshape(b, -1, WIDTH)
        first, table = self.pos_embed[:, :1], self.pos_embed[0, 1:]
        x = x + resample(table.reshape(TABLE, TABLE, WIDTH), h // PATCH, w // PATCH).reshape(
            1, -1, WIDTH
        )
        first = jnp.broadcast_to(self.cls_token[...] + first, (b, 1, WIDTH))
        return jnp.concatenate([first, x], axis=1).astype(self.stream)


def resample(table: jax.Array, rows: int, columns: int) -> jax.Array:
    """The (37, 37, D) float32 position table as (rows, columns, D), as DINOv2 resizes it."""
    if rows == columns == TABLE:
        return table
    # DINOv2 passes the scale (size + 0.1) / 37 instead of the size: so the steps are its inverse.
    matrices = (layers.bicubic_matrix(TABLE, n, TABLE / (n + 0.1)) for n in (rows, columns))
    return jnp.einsum("yh,xw,hwd->yxd", *matrices, table, precision=lax.Precision.HIGHEST)
