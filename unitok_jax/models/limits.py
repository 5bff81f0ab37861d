"""Bounds of every number of `config.model`: one table for training and for foreign weights.

A configuration that comes with weights is untrusted, and checked here before a model is built from
it: a depth of ten million takes hours and all memory long before any shape differs.
"""

import difflib
import inspect
import math
import numbers
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MOST_PARAMETERS = 2**34
"""Maximum parameters of a model, 64 GiB in float32; the largest size has 6 x 10^8."""


class Whole(NamedTuple):
    """Bound of integers from `low` to `high`."""

    low: int
    high: int

    def allows(self, value: Any) -> bool:
        """Returns True if `value` is an integer within the bound; bools are not integers here."""
        return _is(value, numbers.Integral) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"an integer from {self.low} to {self.high}"


class Real(NamedTuple):
    """Bound of finite numbers at least 0 and below `below`."""

    below: float

    def allows(self, value: Any) -> bool:
        """Returns True if `value` is a number within the bound; bools and NaN are not."""
        return _is(value, numbers.Real) and 0 <= value < self.below

    def __str__(self) -> str:
        return f"at least 0 and below {self.below:.7g}"


class Flag(NamedTuple):
    """Bound of bools."""

    def allows(self, value: Any) -> bool:
        """Returns True if `value` is a bool."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


class Several(NamedTuple):
    """Bound of lists of integers, each within a bound; they may be empty."""

    each: Whole

    def allows(self, value: Any) -> bool:
        """Returns True if `value` is a list or a tuple of integers within the bound."""
        return isinstance(value, list | tuple) and all(map(self.each.allows, value))

    def __str__(self) -> str:
        return f"a tuple, each of it {self.each}, or ()"


_WIDTH = Whole(1, 2**16)
_SIDE = Whole(1, 1024)  # of a grid
_DTYPES = ("float32", "bfloat16")
BOUNDS = {
    "vocab_size": Whole(1, 2**24),
    "num_codebooks": Whole(1, 1024),
    "latent_width": _WIDTH,
    "quant_heads": Whole(1, 1024),
    "quant_causal": Flag(),
    "commitment_weight": Real(1e6),
    "num_query": Whole(0, 2**16),
    "drop_path": Real(1.0),
    "embed_dim": _WIDTH,
    "fsq_levels": Several(Whole(2, 2**24)),
    "text.width": _WIDTH,
    "text.heads": Whole(1, 1024),
    "text.layers": Whole(1, 1024),
    "text.vocab_size": Whole(1, 2**24),
    "text.context_length": Whole(2, 2**16),  # a caption has a beginning and an end
}
"""Bounds by key of `config.model`. The other keys choose from lists: see `unitok`."""


def check(model: Mapping[str, Any], names: Mapping[str, str] | None = None) -> None:
    """Checks numbers of a model against `BOUNDS`.

    Args:
      model: the keyword arguments of `UniTok`; missing ones are not checked.
      names: key of `BOUNDS` -> name in messages; by default `model.<key>`.

    Raises:
      ValueError: one line that names the key, its value and its bound.
    """
    text = model.get("text", {})
    keys = {key.removeprefix("text.") for key in BOUNDS if key.startswith("text.")}
    if not isinstance(text, Mapping):
        raise ValueError(
            f"model.text={show(text)} must be an object with the keys {', '.join(sorted(keys))}"
        )
    if "text" in model and text.keys() != keys:
        raise ValueError(
            f"model.text has not the keys of this version: missing {sorted(keys - text.keys())}, "
            f"unknown {show(sorted(map(str, text.keys() - keys)))}"
        )
    flat = {**model, **{f"text.{key}": value for key, value in text.items()}}
    for key in BOUNDS:
        if key in flat:
            check_one(key, flat[key], (names or {}).get(key, f"model.{key}"))


def check_one(key: str, value: Any, name: str) -> None:
    """Checks the value of one key of `BOUNDS`; `name` is the key's name in the message.

    Raises:
      ValueError: as `check`.
    """
    if not BOUNDS[key].allows(value):
        raise ValueError(f"{name}={show(value)} must be {BOUNDS[key]}")


def check_choice(key: str, value: Any, choices: Sequence[str]) -> None:
    """Checks that the value of a key of `config.model` is one of `choices`.

    Raises:
      ValueError: one line that names the key, its value and all choices.
    """
    if not isinstance(value, str) or value not in choices:
        near = difflib.get_close_matches(show(value).strip("'"), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"model.{key}={show(value)} is not one of {', '.join(choices)}{hint}")


def check_keys(network: type, model: Mapping[str, Any], what: str) -> None:
    """Checks that a model has the keys that a network takes, each of them.

    Args:
      network: a module; its keyword arguments without a default, but `rngs`, are the keys.
      model: `config.model`.
      what: name of the product in the message, with its article.

    Raises:
      ValueError: one line that names the missing and the unknown keys.
    """
    arguments = inspect.signature(network.__init__).parameters.items()
    known = {key for key, each in arguments if each.default is each.empty} - {"self", "rngs"}
    missing, unknown = known - model.keys(), model.keys() - known
    if missing or unknown:
        raise ValueError(
            f"these are not the keys of {what} of this version: missing {sorted(missing)}, "
            f"unknown {show(sorted(map(str, unknown)))}"
        )


def check_values(model: Mapping[str, Any], bounds: Mapping, kinds: Mapping[str, type]) -> None:
    """Checks values of a model against bounds and types, each a table by key.

    Raises:
      ValueError: one line that names the key, its value and its bound.
    """
    for key, bound in bounds.items():
        if not bound.allows(model[key]):
            raise ValueError(f"model.{key}={show(model[key])} must be {bound}")
    for key, kind in kinds.items():
        if not isinstance(model[key], kind):
            raise ValueError(f"model.{key}={show(model[key])} must be a {kind.__name__}")


def check_codes(model: Mapping[str, Any]) -> None:
    """Checks the grid and the dtype of a model that predicts codes.

    Raises:
      ValueError: one line that names the key, its value and its bound.
    """
    grid = model["grid"]
    if not (isinstance(grid, list | tuple) and len(grid) == 2 and all(map(_SIDE.allows, grid))):
        raise ValueError(
            f"model.grid={show(grid)} must be (rows, columns), each {_SIDE}: of tokens"
        )
    if model["dtype"] not in _DTYPES:
        raise ValueError(f"model.dtype={show(model['dtype'])} is not one of {', '.join(_DTYPES)}")


def check_parameters(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks the total size of a model, each of whose numbers is within its bound.

    Args:
      shapes: dotted name of a parameter -> its shape.

    Raises:
      ValueError: over `MOST_PARAMETERS`; the message names the largest array.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if sum(sizes.values()) > MOST_PARAMETERS:
        largest = max(sizes, key=sizes.get)
        raise ValueError(
            f"such a model has {sum(sizes.values()):,} parameters, {sizes[largest]:,} of them in "
            f"{largest} {shapes[largest]}; at most {MOST_PARAMETERS:,} are allowed"
        )


def show(value: Any) -> str:
    """Formats any value in one short line."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # an integer of more digits than Python prints
        return "<an integer of thousands of digits>"


def _is(value, kind):
    return isinstance(value, kind) and not isinstance(value, bool)
