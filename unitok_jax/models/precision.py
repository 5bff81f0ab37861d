"""Precisions of a tokenizer's computation, by name."""

from typing import NamedTuple


class Precision(NamedTuple):
    """Settings of the model and of JAX for one precision."""

    dtype: str  # dtype of encoder, decoder and text tower; the rest is always float32
    matmul_precision: str  # precision of float32 products, as for `jax.default_matmul_precision`
    platforms: tuple[str, ...]  # supported platforms; empty: all


# JAX's 'high' is three products of bfloat16 halves on TPUs and TF32 on NVIDIA GPUs. Its named
# algorithms (BF16_BF16_F32_X3, TF32_TF32_F32) do not reach convolutions, which would fall back to
# the platform's default without a warning.
PRECISIONS = {
    "float32": Precision("float32", "highest", ()),
    "bfloat16_3x": Precision("float32", "high", ("tpu",)),
    "tensorfloat32": Precision("float32", "high", ("gpu", "cuda")),
    "bfloat16": Precision("bfloat16", "default", ()),
}


def find(name: str, platform: str) -> Precision:
    """Returns the precision of a name, for a platform as named by `jax.Device.platform`.

    Raises:
      ValueError: unknown name, or a precision that the platform does not support.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r} is not one of {', '.join(PRECISIONS)}")
    found = PRECISIONS[name]
    if found.platforms and platform not in found.platforms:
        raise ValueError(
            f"precision={name!r} is of a {found.platforms[0].upper()} and this computes on "
            f"{platform!r}; choose from {', '.join(available(platform))}"
        )
    return found


def available(platform: str) -> tuple[str, ...]:
    """Returns the names of the precisions that a platform supports."""
    return tuple(
        name for name, row in PRECISIONS.items() if not row.platforms or platform in row.platforms
    )
