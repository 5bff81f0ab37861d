"""Adapters of a language model: what is trained beside its linear layers (LoRA, arXiv 2106.09685).

A linear layer of the decoder computes x W + x A B: W stays, A and B of rank R are trained, and W +
A B is the layer of whoever uses the model.
"""

import fnmatch
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

_LAYERS = ("attention.qkv", "attention.out", "mlp.gate", "mlp.up", "mlp.down")
NAMES = tuple(
    f"language.decoder.blocks.{layer}.lora.{part}"
    for layer, part in itertools.product(_LAYERS, ("lora_a", "lora_b"))
)
"""Dotted paths of the adapters."""


def fixed(model: Mapping) -> tuple[str, ...]:
    """Returns globs of the parameters that adapters stand in for: all others of the decoder.

    model: `config.model`.
    """
    leaves = ("kernel", "scale", *(("bias",) if model["qkv_bias"] else ()))
    return tuple(f"language.decoder.*.{leaf}" for leaf in leaves)


def check(rank: int, frozen: Sequence[str]) -> None:
    """Checks that adapters are trained.

    Args:
      rank: `optim.lora_rank`.
      frozen: `optim.frozen`.

    Raises:
      ValueError: the message names the key, its value and a remedy.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= 1024:
        raise ValueError(f"optim.lora_rank={rank!r} must be an integer from 0 to 1024; 0: none")
    for glob, name in itertools.product(frozen, NAMES if rank else ()):
        if fnmatch.fnmatchcase(name, glob):
            raise ValueError(
                f"optim.frozen has {glob!r}, which holds the adapters of optim.lora_rank={rank}: "
                "leave it out, as the decoder beside them is not trained; the tables of ids are "
                "language.embedding and language.kernel"
            )


def merge(params: dict) -> None:
    """Adds each adapter to its linear layer, in place: kernels become NumPy arrays of the sum.

    One layer at a time, so that no second copy of a model is in memory, but of its largest layer.

    Args:
      params: nested dict of float32 arrays on the host, with adapters or without; those are
        removed.
    """
    for value in params.values():
        if isinstance(value, dict):
            merge(value)
    if "lora" in params:
        a, b = (np.asarray(params["lora"][name]) for name in ("lora_a", "lora_b"))
        kernel = a @ b
        kernel += params["kernel"]  # not the other way: what a checkpoint gave is read-only
        params["kernel"] = kernel
        del params["lora"]
