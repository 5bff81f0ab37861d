"""Bounds of every value of a generator's `config.model`, for training and for foreign weights.

A configuration that comes with weights is untrusted: see `models.limits`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from unitok_jax import trees
from unitok_jax.generate.model import Generator
from unitok_jax.generate.step import abstract_model
from unitok_jax.models.limits import Real, Whole, check_parameters, show

_DTYPES = ("float32", "bfloat16")
_SIDE = Whole(1, 1024)  # of the grid
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
_KINDS = {"size": str, "prompt": str, "prompt_rope": str, "null_class": bool, "remat": bool}


def check(model: Mapping[str, Any]) -> None:
    """Checks the values of a generator's model; what fits what is checked where it is built.

    Args:
      model: the keyword arguments of `Generator`.

    Raises:
      ValueError: one line that names the key, its value and its bound.
    """
    for key, bound in BOUNDS.items():
        if not bound.allows(model[key]):
            raise ValueError(f"model.{key}={show(model[key])} must be {bound}")
    for key, kind in _KINDS.items():
        if not isinstance(model[key], kind):
            raise ValueError(f"model.{key}={show(model[key])} must be a {kind.__name__}")
    grid = model["grid"]
    if not (isinstance(grid, list | tuple) and len(grid) == 2 and all(map(_SIDE.allows, grid))):
        raise ValueError(
            f"model.grid={show(grid)} must be (rows, columns), each {_SIDE}: of tokens"
        )
    if model["dtype"] not in _DTYPES:
        raise ValueError(f"model.dtype={show(model['dtype'])} is not one of {', '.join(_DTYPES)}")


def abstract_params(model: Mapping[str, Any]) -> dict:
    """Returns the shapes of the parameters of an untrusted model, without any arrays.

    Raises:
      ValueError: keys are missing or unknown, a value is out of its bound or does not fit another,
        or the model is too large.
    """
    known = inspect.signature(Generator.__init__).parameters.keys() - {"self", "rngs"}
    missing, unknown = known - model.keys(), model.keys() - known
    if missing or unknown:
        raise ValueError(
            f"these are not the keys of a generator of this version: missing {sorted(missing)}, "
            f"unknown {show(sorted(map(str, unknown)))}"
        )
    check(model)
    params = abstract_model(dict(model))[1]
    check_parameters({name: leaf.shape for name, leaf in trees.flatten(params).items()})
    return params
