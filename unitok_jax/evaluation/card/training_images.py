"""Comparison of the measured images with those that a model was trained on."""

import os

from ml_collections import ConfigDict

from unitok_jax.data.formats import emoji
from unitok_jax.system.paths import is_remote

_SAME = {"shapes": "train"}  # source -> the path that an empty one stands for


def same(trained: ConfigDict, measured: ConfigDict) -> bool | None:
    """Tells if two `data` configs name the same images, or the first one those around the second's.

    Captions and labels may differ, and so may the kind of source that reads a path. A copy at
    another path is not seen.

    Args:
      trained: of a run, as saved with its weights; files of other layouts tell no source.
      measured: of what is measured.

    Returns:
      None if `trained` does not tell.
    """
    if not trained.get("source"):
        return None
    wanted = _place(measured.source, measured.path)
    return any(_holds(_place(*part), wanted) for part in _parts(trained))


def describe(trained: ConfigDict, measured: ConfigDict) -> str:
    """Words for the result of `same`, with the training data as `--data` would name it."""
    overlap = same(trained, measured)
    if overlap is None:
        return "not known: the checkpoint does not say what it was trained on"
    parts = [f"{source}:{path}".rstrip(":") for source, path in _parts(trained)]
    return f"{'yes' if overlap else 'no, by their path'}: it was trained on {', '.join(parts)}"


def _parts(trained: ConfigDict) -> list[tuple[str, str]]:
    if trained.source == "mixture":
        return [(part[1], part[2]) for part in trained.mixture]
    return [(trained.source, trained.path)]


def _place(source: str, path: str) -> tuple[str, str]:
    """A file or folder, which any source may read; or a source and what it calls a path."""
    if source == "emoji":  # the splits are parts of one whole, in any font
        split = emoji.place(path).split
        return "", "emoji:all" if split == "all" else f"emoji:all/{split}"
    if source in ("photos", "shapes", "tfds"):
        return source, path or _SAME.get(source, "")
    return "", path if is_remote(path) else os.path.realpath(os.path.expanduser(path))


def _holds(outer: tuple[str, str], inner: tuple[str, str]) -> bool:
    within = not outer[0] and inner[1].startswith(outer[1].rstrip("/") + "/")
    return outer[0] == inner[0] and (outer[1] == inner[1] or within)
