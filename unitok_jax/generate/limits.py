"""Bounds of every value of a generator's `config.model`, for training and for foreign weights.

A configuration that comes with weights is untrusted: see `models.limits`.
"""

from collections.abc import Mapping
from typing import Any

from unitok_jax import trees
from unitok_jax.generate.model import Generator
from unitok_jax.generate.step import abstract_model
from unitok_jax.models import recomputation
from unitok_jax.models.limits import (
    Real,
    Whole,
    check_codes,
    check_keys,
    check_parameters,
    check_values,
)

BOUNDS = {
    "num_codebooks": Whole(1, 1024),
    "vocab_size": Whole(1, 2**24),
    "classes": Whole(1, 2**24),
    "text_tokens": Whole(1, 2**16),
    "text_features": Whole(1, 2**16),
    "head_depth": Whole(0, 1024),
    "head_width": Whole(0, 2**16),
    "dropout": Real(1.0),
    "drop_path": Real(1.0),
}
"""Bounds by key of `config.model`."""
_KINDS = {"size": str, "prompt": str, "prompt_rope": str, "null_class": bool}


def check(model: Mapping[str, Any]) -> None:
    """Checks the values of a generator's model; what fits what is checked where it is built.

    Args:
      model: the keyword arguments of `Generator`.

    Raises:
      ValueError: one line that names the key, its value and its bound.
    """
    check_values(model, BOUNDS, _KINDS)
    recomputation.find(model["remat"])
    check_codes(model)


def abstract_params(model: Mapping[str, Any]) -> dict:
    """Returns the shapes of the parameters of an untrusted model, without any arrays.

    Raises:
      ValueError: keys are missing or unknown, a value is out of its bound or does not fit another,
        or the model is too large.
    """
    check_keys(Generator, model, "a generator")
    check(model)
    params = abstract_model(dict(model))[1]
    check_parameters({name: leaf.shape for name, leaf in trees.flatten(params).items()})
    return params
