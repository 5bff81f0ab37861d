"""Plain vision transformer (arXiv 2010.11929) as DINOv2, DINOv3, SigLIP 2 and CLIP have it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from unitok_jax.models import elementwise, layers
from unitok_jax.models.transformer import rotate

ROPE_BASE = 100.0  # DINOv3's


class Shape(NamedTuple):
    """Sizes and variants of one vision transformer."""

    width: int
    depth: int
    heads: int
    patch: int  # pixels of a patch's side
    table: int  # side of the position table, in patches of the trained size; 0: rotary positions
    hidden: int  # width inside the MLPs
    mean: tuple[float, float, float]  # of images in [0, 1]
    std: tuple[float, float, float]
    class_token: bool = True
    layer_scale: bool = False
    norm_before: bool = False  # a norm before the first block; the patches then have no bias
    gelu: str = "exact"  # a key of `elementwise.GELUS`, or swiglu
    epsilon: float = 1e-6  # of the norms
    offset: float = 0.0  # DINOv2's: added to the sides when the position table is resized
    registers: int = 0  # tokens behind the class token that stand for no patch (arXiv 2309.16588)

    @property
    def before(self) -> int:
        """Number of tokens before those of the patches."""
        return self.class_token + self.registers


class LayerScale(nnx.Module):
    """One learned factor per channel (arXiv 2103.17239); the product is of dtype `stream`."""

    def __init__(self, width: int, *, stream):
        self.gamma = nnx.Param(jnp.ones((width,)))
        self.stream = stream

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(self.stream)


class MLP(nnx.Module):
    """Linear to a hidden width, GELU or a gate of a second linear layer, linear back."""

    def __init__(self, shape: Shape, *, dtype, rngs: nnx.Rngs):
        self.fc1 = layers.linear(shape.width, shape.hidden, dtype, rngs)
        self.fc2 = layers.linear(shape.hidden, shape.width, dtype, rngs)
        self.gelu = shape.gelu
        if self.gelu == "swiglu":
            self.gate = layers.linear(shape.width, shape.hidden, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.gelu == "swiglu":
            return self.fc2(elementwise.swiglu(self.gate(x), self.fc1(x)))
        return self.fc2(elementwise.GELUS[self.gelu](self.fc1(x)))


class Block(nnx.Module):
    """Pre-norm transformer block, with LayerScale if the shape has it."""

    def __init__(self, shape: Shape, *, dtype, stream, rngs: nnx.Rngs):
        width, epsilon = shape.width, shape.epsilon
        self.norm1 = layers.layer_norm(width, epsilon, dtype, rngs)
        self.attn = layers.SelfAttention(width, shape.heads, dtype=dtype, rngs=rngs)
        self.norm2 = layers.layer_norm(width, epsilon, dtype, rngs)
        self.mlp = MLP(shape, dtype=dtype, rngs=rngs)
        self.scaled = shape.layer_scale
        if self.scaled:
            self.ls1, self.ls2 = (LayerScale(width, stream=stream) for _ in range(2))

    def __call__(self, x: jax.Array, rate=None, key=None, rope=None) -> jax.Array:
        turn = None if rope is None else functools.partial(rotate, rope=rope, halves=True)
        attended = self.attn(self.norm1(x), turn)
        x = x + (self.ls1(attended) if self.scaled else attended)
        passed = self.mlp(self.norm2(x))
        return x + (self.ls2(passed) if self.scaled else passed)


class PatchEmbed(nnx.Module):
    """(B, H, W, 3) -> (B, H / patch, W / patch, D)."""

    def __init__(self, shape: Shape, *, dtype, rngs: nnx.Rngs):
        self.proj = nnx.Conv(
            3,
            shape.width,
            (shape.patch, shape.patch),
            strides=shape.patch,
            padding="VALID",
            use_bias=not shape.norm_before,
            kernel_init=layers.linear_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.patch = shape.patch

    def __call__(self, x: jax.Array) -> jax.Array:
        return lax.platform_dependent(x, cuda=self._product, default=self.proj)

    def _product(self, x):
        # Patches do not overlap. A convolution of three channels would not fill the tensor cores.
        b, h, w, channels = x.shape
        side, dtype = self.patch, self.proj.dtype
        x = x.astype(dtype).reshape(b, h // side, side, w // side, side, channels)
        x = x.swapaxes(2, 3).reshape(b, h // side, w // side, -1)
        kernel = self.proj.kernel[...].astype(dtype)
        x = x @ kernel.reshape(-1, kernel.shape[-1])
        return x if self.proj.bias is None else x + self.proj.bias[...].astype(dtype)


class ViT(nnx.Module):
    """Vision transformer without a last norm; a fresh one is a random stand-in."""

    def __init__(
        self,
        shape: Shape,
        *,
        dtype,
        stream=jnp.float32,
        rngs: nnx.Rngs,
        remat: str = "none",
    ):
        """Builds a stand-in.

        Args:
          shape: its sizes and variants.
          dtype: of products and convolutions.
          stream: dtype of the residual stream, at least `dtype`.
          rngs: the stream `params`.
          remat: what the blocks recompute: one of `recomputation.BLOCKS`.
        """

        def table(*sizes):
            return nnx.Param(layers.linear_init(rngs.params(), sizes, jnp.float32))

        def block(rngs):
            return Block(shape, dtype=dtype, stream=stream, rngs=rngs)

        width = shape.width
        self.patch_embed = PatchEmbed(shape, dtype=dtype, rngs=rngs)
        if shape.class_token:
            self.cls_token = table(1, 1, width)
        if shape.registers:
            self.register_tokens = table(1, shape.registers, width)
        if shape.table:
            self.pos_embed = table(1, shape.class_token + shape.table**2, width)
        if shape.norm_before:
            self.norm_pre = layers.layer_norm(width, shape.epsilon, stream, rngs)
        self.blocks = layers.Stack(block, shape.depth, rngs=rngs, drop_path=0.0, remat=remat)
        self.shape, self.stream = shape, stream

    def last(self, images: jax.Array) -> jax.Array:
        """Computes the output of the last block, as `tokens`."""
        return self.blocks(self.tokens(images), shared=self._rope(images))

    def outputs(self, images: jax.Array) -> jax.Array:
        """Computes the outputs of all blocks, as `tokens`, on a new leading axis."""
        return self.blocks.outputs(self.tokens(images), shared=self._rope(images))

    def tokens(self, images: jax.Array) -> jax.Array:
        """Computes the inputs of the first block, the class token first if there is one.

        Args:
          images: (B, H, W, 3) in [-1, 1], H and W multiples of the patch.

        Returns:
          (B, [1 + registers +] N, D) of dtype `stream`, N = H W / patch^2, row-major.

        Raises:
          ValueError: sides that are not multiples of the patch.
        """
        b, h, w, channels = images.shape
        shape = self.shape
        if channels != 3 or min(h, w) < shape.patch or h % shape.patch or w % shape.patch:
            raise ValueError(
                f"the vision transformer takes (B, H, W, 3) images with sides that are multiples "
                f"of {shape.patch}, not {images.shape}"
            )
        x = (images.astype(jnp.float32) + 1) / 2
        x = self.patch_embed((x - np.float32(shape.mean)) / np.float32(shape.std))
        x = x.astype(jnp.float32).reshape(b, -1, shape.width)
        before = []
        if shape.class_token:
            before.append(self.cls_token[...])
        if shape.table:
            first, table = jnp.split(self.pos_embed[...], [int(shape.class_token)], axis=1)
            before = [token + first for token in before]
            table = table.reshape(shape.table, shape.table, shape.width)
            table = resample(table, h // shape.patch, w // shape.patch, shape.offset)
            x = x + table.reshape(1, -1, shape.width)
        if shape.registers:
            before.append(self.register_tokens[...])
        before = [jnp.broadcast_to(token, (b, *token.shape[1:])) for token in before]
        x = jnp.concatenate([*before, x], axis=1).astype(self.stream)
        return self.norm_pre(x) if shape.norm_before else x

    def _rope(self, images) -> jax.Array | None:
        """Computes the angles of all tokens (T, d / 2, 2), as `rotate` takes them; None without."""
        shape = self.shape
        if shape.table:
            return None
        grid = images.shape[1] // shape.patch, images.shape[2] // shape.patch
        return jnp.asarray(rope_table(*grid, shape.width // shape.heads, shape.before))


@functools.cache
def rope_table(rows: int, columns: int, width: int, before: int) -> np.ndarray:
    """Returns DINOv3's rotary positions (arXiv 2508.10104) of a grid of patches.

    Half of the pairs of channels turn by the height of a patch's centre, half by its place in the
    row, both from -1 to 1 over the image whatever its size.

    Args:
      rows, columns: sides of the grid.
      width: d, of a head; a multiple of 4.
      before: number of tokens before those of the patches, which do not turn.

    Returns:
      (before + rows * columns, d / 2, 2) float32, cosine and sine.
    """
    sides = ((2 * np.arange(n) + 1) / n - 1 for n in (rows, columns))
    places = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2, 1)
    frequencies = ROPE_BASE ** -(np.arange(width // 4) * 4 / width)
    angles = (2 * np.pi * places * frequencies).reshape(len(places), -1)
    angles = np.concatenate([np.zeros((before, width // 2)), angles])
    return np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)


def resample(table: jax.Array, rows: int, columns: int, offset: float) -> jax.Array:
    """Resizes a square (T, T, D) float32 position table to (rows, columns, D), bicubically.

    Args:
      table: the table of the trained size, which is returned unchanged if it fits.
      rows, columns: the wanted sides.
      offset: DINOv2's is 0.1, and its resize does not antialias; 0 does, as timm and open_clip.
    """
    side = table.shape[0]
    if rows == columns == side:
        return table
    if not offset:
        return jax.image.resize(table, (rows, columns, table.shape[-1]), "cubic", antialias=True)
    # DINOv2 passes the scale (size + 0.1) / T instead of the size: so the steps are its inverse.
    matrices = (layers.bicubic_matrix(side, n, side / (n + offset)) for n in (rows, columns))
    return jnp.einsum("yh,xw,hwd->yxd", *matrices, table, precision=lax.Precision.HIGHEST)
