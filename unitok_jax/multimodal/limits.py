"""Bounds of every value of a multimodal model's `config.model`, for training and foreign weights.

A configuration that comes with weights is untrusted: see `models.limits`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from unitok_jax import trees
from unitok_jax.models.limits import Real, Whole, check_parameters, show
from unitok_jax.multimodal.model import Multimodal, abstract_model

_DTYPES = ("float32", "bfloat16")
_SIDE = Whole(1, 1024)  # of the grid
_WIDTH, _COUNT = Whole(1, 2**16), Whole(1, 1024)
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
}
"""Bounds by key of `config.model`."""
SCALING = {
    "factor": Real(1e6),
    "low": Real(1e6),
    "high": Real(1e6),
    "original": Whole(1, 2**30),
}
"""Bounds by key of `config.model.rope_scaling`."""
_KINDS = {"qkv_bias": bool, "qk_norm": bool, "tied": bool, "projection": str, "remat": bool}


def check(model: Mapping[str, Any]) -> None:
    """Checks the values of a model; what fits what is checked where it is built.

    Args:
      model: the keyword arguments of `Multimodal`.

    Raises:
      ValueError: one line that names the key, its value and its bound.
    """
    for key, bound in BOUNDS.items():
        if not bound.allows(model[key]):
            raise ValueError(f"model.{key}={show(model[key])} must be {bound}")
    for key, kind in _KINDS.items():
        if not isinstance(model[key], kind):
            raise ValueError(f"model.{key}={show(model[key])} must be a {kind.__name__}")
    if model["rope_base"] <= 0:
        raise ValueError(f"model.rope_base={model['rope_base']} must be above 0")
    scaling = model["rope_scaling"]
    if not isinstance(scaling, Mapping) or scaling.keys() != SCALING.keys():
        raise ValueError(
            f"model.rope_scaling={show(scaling)} must have the keys {', '.join(SCALING)}"
        )
    for key, bound in SCALING.items():
        if not bound.allows(scaling[key]) or scaling["factor"] < 1:
            raise ValueError(
                f"model.rope_scaling.{key}={show(scaling[key])} must be {bound}, and factor at "
                "least 1"
            )
    grid = model["grid"]
    if not (isinstance(grid, list | tuple) and len(grid) == 2 and all(map(_SIDE.allows, grid))):
        raise ValueError(
            f"model.grid={show(grid)} must be (rows, columns), each {_SIDE}: of visual tokens"
        )
    if model["dtype"] not in _DTYPES:
        raise ValueError(f"model.dtype={show(model['dtype'])} is not one of {', '.join(_DTYPES)}")


def abstract_params(model: Mapping[str, Any]) -> dict:
    """Returns the shapes of the parameters of an untrusted model, without any arrays.

    Raises:
      ValueError: keys are missing or unknown, a value is out of its bound or does not fit another,
        or the model is too large.
    """
    known = inspect.signature(Multimodal.__init__).parameters.keys() - {"self", "rngs"}
    missing, unknown = known - model.keys(), model.keys() - known
    if missing or unknown:
        raise ValueError(
            f"these are not the keys of a multimodal model of this version: missing "
            f"{sorted(missing)}, unknown {show(sorted(map(str, unknown)))}"
        )
    check(model)
    params = abstract_model(dict(model))[1]
    check_parameters({name: leaf.shape for name, leaf in trees.flatten(params).items()})
    return params
