"""Bounds of every value of a multimodal `config.model`, for training and for foreign weights.

A configuration that comes with weights is untrusted: see `models.limits`.
"""

from collections.abc import Mapping
from typing import Any

from unitok_jax import trees
from unitok_jax.models import recomputation
from unitok_jax.models.limits import (
    Real,
    Whole,
    check_codes,
    check_keys,
    check_parameters,
    check_values,
    show,
)
from unitok_jax.models.transformer import Scaling
from unitok_jax.multimodal import adapters
from unitok_jax.multimodal.model import Multimodal, abstract_model

_COUNT, _WIDTH = Whole(1, 1024), Whole(1, 2**16)
BOUNDS = {
    "vocabulary": Whole(1, 2**24),
    "width": _WIDTH,
    "heads": _COUNT,
    "groups": _COUNT,
    "head_width": _WIDTH,
    "hidden": Whole(1, 2**18),
    "depth": _COUNT,
    "epsilon": Real(1.0),
    "rope_base": Real(1e12),
    "num_codebooks": _COUNT,
    "vocab_size": Whole(1, 2**24),
    "latent_width": _WIDTH,
    "projection_width": _WIDTH,
    "projection_heads": _COUNT,
    "head_depth": Whole(0, 1024),
    "depth_head_width": Whole(0, 2**16),
}
"""Bounds by key of `config.model`."""
SCALING = {
    "factor": Real(1e6),
    "low": Real(1e6),
    "high": Real(1e6),
    "original": Whole(1, 2**30),
}
"""Bounds by key of `config.model.rope_scaling`."""
_KINDS = {
    "qkv_bias": bool,
    "qk_norm": bool,
    "tied": bool,
    "projection": str,
}


def check(model: Mapping[str, Any]) -> None:
    """Checks the values of a model; what fits what is checked where it is built.

    Args:
      model: the keyword arguments of `Multimodal`.

    Raises:
      ValueError: one line that names the key, its value and its bound.
    """
    check_values(model, BOUNDS, _KINDS)
    recomputation.find(model["remat"])
    check_codes(model)
    if not model["rope_base"]:
        raise ValueError("model.rope_base=0 must be above 0")
    scaling = model["rope_scaling"]
    if not isinstance(scaling, Mapping) or set(scaling) != set(Scaling._fields):
        raise ValueError(
            f"model.rope_scaling={show(scaling)} must have the keys {', '.join(Scaling._fields)}"
        )
    check_values(
        {f"rope_scaling.{key}": value for key, value in scaling.items()},
        {f"rope_scaling.{key}": bound for key, bound in SCALING.items()},
        {},
    )
    if scaling["factor"] < 1:
        raise ValueError(f"model.rope_scaling.factor={scaling['factor']} must be at least 1")
    if scaling["low"] >= scaling["high"]:
        raise ValueError(
            f"model.rope_scaling.low={scaling['low']} must be below "
            f"model.rope_scaling.high={scaling['high']}"
        )


def abstract_params(model: Mapping[str, Any], lora_rank: int = 0) -> dict:
    """Returns the shapes of the parameters of an untrusted model, without any arrays.

    Args:
      model: `config.model`.
      lora_rank: `optim.lora_rank`, of a run.

    Raises:
      ValueError: keys are missing or unknown, a value is out of its bound or does not fit another,
        or the model is too large.
    """
    check_keys(Multimodal, model, "a multimodal model")
    check(model)
    adapters.check(lora_rank, ())
    params = abstract_model(dict(model), lora_rank)[1]
    check_parameters({name: leaf.shape for name, leaf in trees.flatten(params).items()})
    return params
