"""A text tower alone: from the file that a run starts from, and its identity."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from unitok_jax import trees
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.models.unitok import abstract_model
from unitok_jax.weights import initialize


def load_tower(path: str, model: Mapping[str, Any], include: Sequence[str]) -> dict:
    """Takes a whole text tower from a file, as a run's `initial_params` would.

    Args:
      path: `init.path`: a workdir, a UniTok or a CLIP.
      model: the keyword arguments of `UniTok`.
      include: `init.include`.

    Returns:
      The parameters `text_encoder` of a UniTok: a nested dict of float32 NumPy arrays.

    Raises:
      ValueError: the file has no whole text tower of this shape, or `include` leaves it out.
      OSError: the file does not exist.
    """
    if not path:
        raise ValueError("init.path is empty; name the file with the text tower: a CLIP, a workdir")
    abstract = abstract_model(model)[1]
    taken, report = initialize.match(path, abstract, model=model, include=include)
    tower = {"text_encoder": abstract["text_encoder"]}
    if lacks := report.lacks(trees.flatten(tower)):
        raise ValueError(
            f"init.path={path}, {report.kind}, gives no whole text tower: {lacks}; "
            "set model.text and model.embed_dim to the file's, and init.include so that "
            "'text_encoder.*' is taken"
        )
    return jax.tree_util.tree_map_with_path(lambda keys, _: taken[trees.dotted(keys)].array, tower)[
        "text_encoder"
    ]


def tower_hash(model: Mapping[str, Any], params) -> str:
    """Hashes a text tower's weights and their use, 32 hexadecimal digits.

    Args:
      model: the keyword arguments of `UniTok`; `text` and `embed_dim` are read.
      params: the parameters `text_encoder`, on any mesh or on the host.
    """
    return weights_hash({"text": dict(model["text"]), "embed_dim": model["embed_dim"]}, params)
