"""Recomputation: what the backward pass computes again of a network instead of reading it."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from unitok_jax.models.limits import check_choice

BLOCKS = ("none", "products", "blocks")
"""Values of `model.remat` of a decoder, and of any one part, from the most memory to the least."""
TOKENIZER = (*BLOCKS, "everything")
"""Values of `model.remat` of a tokenizer: 'blocks' are its transformer blocks alone."""

_OLDER = {True: "blocks", False: "none"}  # values in files of earlier versions
_PRODUCT = "product"


def find(value: Any, choices: tuple[str, ...] = BLOCKS) -> str:
    """Returns the name of a value of `model.remat`, which in older files of a decoder is a bool.

    Raises:
      ValueError: it is none of `choices`; the message names the key, the value and all choices.
    """
    if choices == BLOCKS and isinstance(value, bool):
        return _OLDER[value]
    check_choice("remat", value, choices)
    return value


def of_blocks(remat: str) -> str:
    """Returns what a tokenizer's transformer blocks recompute, one of `BLOCKS`."""
    return "blocks" if remat == "everything" else remat


def of_convolutions(remat: str) -> str:
    """Returns what a tokenizer's convolutional parts recompute, one of `BLOCKS`."""
    return {"products": "products", "everything": "blocks"}.get(remat, "none")


def of_frozen(remat: str) -> str:
    """Returns what the frozen networks of a tokenizer's losses recompute, one of `BLOCKS`."""
    return "blocks" if remat == "everything" else "none"


def product(x: jax.Array) -> jax.Array:
    """Marks the output of a layer's product or convolution, which 'products' keeps."""
    return checkpoint_name(x, _PRODUCT)


def recomputing(function: Callable, remat: str) -> Callable:
    """Returns `function`, whose backward pass computes again what `remat` names.

    Args:
      function: of arrays.
      remat: 'none': nothing. 'products': everything but what `product` marks: norms, activations
        and attention's scores, which cost little beside the products and are most of the bytes.
        'blocks': everything but the arguments.
    """
    if remat == "none":
        return function
    kept = {"products": jax.checkpoint_policies.save_only_these_names(_PRODUCT), "blocks": None}
    return jax.checkpoint(function, policy=kept[remat])


def run_blocks(step: Callable, carry: Any, blocks: Any, remat: str) -> tuple[Any, Any]:
    """Runs `step` on one block after the other, as `lax.scan`.

    One block a round on every platform: all at once move fewer bytes on a GPU, by its compiler, but
    compile many times as long (docs/explanation/performance.md).

    Args:
      step: function of the carry and a block's arrays; returns the carry and an output.
      carry: of the first block.
      blocks: arrays of all blocks, stacked on their leading axis.
      remat: one of `BLOCKS`.
    """
    return lax.scan(recomputing(step, remat), carry, blocks)
