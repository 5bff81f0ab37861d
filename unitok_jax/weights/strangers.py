"""Descriptions of paths without weights, in words, for messages."""

import itertools
import os
import pathlib

from unitok_jax.system.paths import printable

_MOST = 1000  # maximum entries of a folder to inspect
_FILES = (
    ((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "an image"),
    ((".tar", ".parquet", ".array_record", ".tfrecord", ".jsonl", ".csv", ".tsv"), "data"),
    ((".npz", ".npy"), "arrays of NumPy"),
    ((".py",), "Python code, such as the configuration of a run"),
    ((".json", ".yaml", ".yml", ".toml"), "a configuration"),
    ((".zip", ".gz", ".tgz", ".zst", ".xz", ".bz2", ".7z"), "compressed: unpack it first"),
    ((".h5", ".keras", ".onnx", ".gguf", ".msgpack", ".pb"), "weights of another library"),
)
# (a file of the folder, kind of the folder)
_MARKS = (
    ("export.json", "an exported tokenizer, whose compiled programs hold no model"),
    ("dataset_info.json", "a prepared TFDS data set"),
    ("manifest.json", "what tokenize or data.pack wrote: codes, or packed images"),
    ("metrics.jsonl", "a workdir whose run has not saved a checkpoint yet"),
)


def describe(path: pathlib.Path) -> str:
    """Describes the probable kind of a file or folder, by names alone."""
    if not path.is_dir():
        return _file(path.name) or "a file of an unknown kind"
    names = sorted(_entries(path))
    if not names:
        return "an empty folder"
    for mark, words in _MARKS:
        if mark in names:
            return words
    kinds = {kind for name in names if (kind := _file(name))}
    if "an image" in kinds or any(_holds_images(path / name) for name in names[:10]):
        return "a folder of images"
    if kinds:
        return f"a folder with {', '.join(sorted(kinds))}"
    more = ", ..." if len(names) > 3 else ""
    return f"a folder with {', '.join(map(printable, names[:3]))}{more}"


def _entries(folder):
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in itertools.islice(entries, _MOST)]
    except OSError:  # not a folder, or not readable: described by the other names
        return []


def _holds_images(folder):
    return any(_file(name) == "an image" for name in _entries(folder))


def _file(name):
    return next((kind for ends, kind in _FILES if name.lower().endswith(ends)), None)
