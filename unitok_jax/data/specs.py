"""Data as one argument of a command: `labelled:/data/val`, `shards/{00..99}.tar`, ..."""

import os
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from unitok_jax.data.sources import SOURCES, near_source
from unitok_jax.data.writing.folders import MANIFEST

_WITHOUT_PATH = ("emoji", "photos", "shapes")
_SUFFIXES = {".tar": "tar", ".parquet": "parquet", ".array_record": "array_record"}


def data_config(
    spec: str,
    *,
    image_size: Sequence[int],
    context_length: int,
    captions: str = "",
    index: str = "",
    max_bad: float = 0.0,
    num_threads: int = 0,
    num_workers: int = 0,
) -> ConfigDict:
    """Builds the `data` config for a command's argument.

    Args:
        spec: `SOURCE:PATH`, a source that needs no path, or a path alone, whose format follows from
            its suffix or the folder's content. Class folders need their name: `labelled:PATH`.
        image_size: (height, width).
        context_length: context length of the text tower.
        captions, index, max_bad, num_workers: as in `configs/default.py`.
        num_threads: 0 for one per core.

    Raises:
        ValueError: an empty argument, or a source that does not exist.
    """
    source, path = split(spec)
    return ConfigDict(
        {
            "source": source or _recognised(path),
            "path": path,
            "captions": captions,
            "mixture": (),
            "window": 8,
            "index": index,
            "max_bad": max_bad,
            "image_size": tuple(image_size),
            "context_length": context_length,
            "num_threads": num_threads or os.cpu_count() or 1,
            "num_workers": num_workers,
        }
    )


def split(spec: str) -> tuple[str, str]:
    """Splits a command's argument into the source that it names and the path.

    Returns:
        (source, path); the source is '' for a path alone, the path is '' for a source alone.

    Raises:
        ValueError: an empty argument, a mixture, or a source that does not exist.
    """
    if not spec:
        raise ValueError("--data is empty; for example --data=labelled:/data/val or --data=photos")
    name, colon, path = spec.partition(":")
    if name == "mixture":
        raise ValueError(f"--data={spec}: a mixture has weights, which mean nothing here; name one")
    if colon and name in SOURCES:
        return name, path
    if spec in _WITHOUT_PATH:
        return spec, ""
    if colon and not path.startswith("//") and not os.path.exists(spec):
        near = near_source(name)
        hint = f"did you mean {near}? " if near else ""
        raise ValueError(
            f"--data={spec}: there is no source {name!r}; {hint}one of {', '.join(SOURCES)}"
        )
    return "", spec


def _recognised(path: str) -> str:
    for suffix, source in _SUFFIXES.items():
        if path.endswith(suffix):
            return source
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / MANIFEST).is_file():
            return "array_record"
        suffixes = {entry.suffix for entry in folder.iterdir()}
        for suffix, source in _SUFFIXES.items():
            if suffix in suffixes:
                return source
    return "folder"
