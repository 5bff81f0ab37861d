"""How precisely a tokenizer computes, by name."""

from typing import NamedTuple


class Precision(NamedTuple):
    """What a name means to the model and to JAX."""

    dtype: str  # of encoder, decoder and text tower; the rest is float32 always
    products: str  # of their float32 products, as `jax.default_matmul_precision` takes it
    platforms: tuple[str, ...]  # that compute so; none: all of them


# JAX's 'high' is three products of bfloat16 halves on TPUs and TF32 on NVIDIA GPUs. Its named
# algorithms (BF16_BF16_F32_X3, TF32_TF32_F32) do not reach convolutions, which would fall back to
# the platform's default without a word.
PRECISIONS = {
    "float32": Precision("float32", "highest", ()),
    "bfloat16_3x": Precision("float32", "high", ("tpu",)),
    "tensorfloat32": Precision("float32", "high", ("gpu", "cuda")),
    "bfloat16": Precision("bfloat16", "default", ()),
}


def find(name: str, platform: str) -> Precision:
    """The precision of a name, on a platform as `jax.Device.platform` names it.

    Raises:
      ValueError: another name, or a platform that does not compute so.
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
    """The names that a platform computes."""
    return tuple(
        name for name, row in PRECISIONS.items() if not row.platforms or platform in row.platforms
    )
