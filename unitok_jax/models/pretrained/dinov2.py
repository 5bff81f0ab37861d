"""DINOv2 (arXiv 2304.07193): its sizes, and ViT-S/14, the frozen trunk of the discriminator."""

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models.pretrained.vit import Shape, ViT

PATCH = 14
WIDTH, DEPTH, HEADS = 384, 12, 6
TABLE = 37  # side of the position table: trained at 518 pixels
TAPS = (0, 2, 5, 8, 11)  # the blocks whose outputs are used
# ImageNet's statistics, of images in [0, 1]
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def shape(width: int, depth: int, heads: int, registers: int = 0) -> Shape:
    """Returns the shape of a DINOv2 of this width; with register tokens its table resizes plain."""
    return Shape(
        *(width, depth, heads, PATCH, TABLE, 4 * width, MEAN, STD),
        layer_scale=True,
        offset=0.0 if registers else 0.1,
        registers=registers,
    )


SMALL = shape(WIDTH, DEPTH, HEADS)


class DinoV2(ViT):
    """Features of five depths; a fresh one is a random stand-in whose LayerScale is 1."""

    def __init__(self, *, dtype, stream=jnp.float32, rngs: nnx.Rngs, remat: str = "none"):
        """Builds a stand-in: see `ViT`."""
        super().__init__(SMALL, dtype=dtype, stream=stream, rngs=rngs, remat=remat)

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
        outputs = self.outputs(images)
        return tuple(outputs[block].astype(jnp.float32) for block in TAPS)
