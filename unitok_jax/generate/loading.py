"""Weights of a generator with what they belong to, read from a run's checkpoint."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from unitok_jax.generate.step import abstract_model
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.paths import expand, printable
from unitok_jax.weights import torch_options
from unitok_jax.weights.load import open_run, restore_params


class Weights(NamedTuple):
    """A generator's weights, and what they belong to."""

    config: ConfigDict  # with the key `model`
    params: Any  # nested dict of float32 arrays
    tokenizer_hash: str | None  # of the tokenizer whose codes it draws; None: not recorded


def read(path, weights: str | None = None) -> Weights:
    """Reads a generator.

    Args:
      path: a workdir (its newest checkpoint), or a folder `checkpoints/<step>` in one.
      weights: 'ema', the average, or 'raw', the trained weights; by default the average if there is
        one.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: the path is of another kind, which the message names, or the weights do not fit
        their configuration.
    """
    path = expand(path)
    if not path.exists():
        raise FileNotFoundError(f"{printable(path)} does not exist")
    if weights not in (None, *torch_options.WEIGHTS):
        raise ValueError(f"weights={weights!r} is not one of {', '.join(torch_options.WEIGHTS)}")
    with open_run(path) as (checkpoints, step):
        meta = checkpoints.meta(step)
        saved = meta["config"]
        where = checkpoints.folder if step is None else checkpoints.folder / str(step)
        if saved.get("product") != "generator":
            raise ConversionError(
                f"{printable(where)} holds a tokenizer, and a generator is wanted: what unitok "
                "train --config=configs/generate.py makes"
            )
        try:
            abstract = abstract_model(saved["model"])[1]
        except (ValueError, TypeError) as error:  # a TypeError names a key that is no argument
            raise ConversionError(f"{printable(where)}: {error}") from error
        params = restore_params(checkpoints, step, abstract, weights)
        config = ConfigDict({"model": saved["model"]})
        return Weights(config, params, meta["data"].get("tokenizer of the codes"))
