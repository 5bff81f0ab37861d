"""Table of data sources: the format that each name opens."""

import difflib
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from unitok_jax.data.formats.array_records import packed_source
from unitok_jax.data.formats.emoji import emoji_source
from unitok_jax.data.formats.folders import folder_source, photo_source
from unitok_jax.data.formats.labelled import labelled_source
from unitok_jax.data.formats.parquet import parquet_source
from unitok_jax.data.formats.shapes import shape_source
from unitok_jax.data.formats.tfds_records import tfds_source
from unitok_jax.data.mixture import Mixture
from unitok_jax.data.records import Source
from unitok_jax.data.tars.source import tar_source
from unitok_jax.system.passing import with_text
from unitok_jax.system.paths import expand, is_remote, printable


def open_source(data, *, require_captions: bool = True) -> Source:
    """Opens the source that `data.source` names.

    Args:
        data: the `data` config; `source`, `path` and `captions` are read, and for Parquet `window`
            and `num_threads`.
        require_captions: whether an image without a caption is an error (training with text) or
            simply has none (reconstruction).

    Raises:
        ValueError: an unknown name, no path, no images, captions that do not match the images, a
            file that is damaged or of another kind, a key that the source does not read.
        FileNotFoundError, NotADirectoryError: `data.path` or `data.captions` does not exist.
        ImportError: the source needs a package that is not installed.
    """
    if data.source not in SOURCES:
        near = near_source(data.source)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"data.source={data.source!r} is not one of {', '.join(SOURCES)}{hint}")
    return SOURCES[data.source](data, require_captions)


def check_outside(output, flag: str, places: Iterable[tuple[str, str, str]]) -> None:
    """Refuses an output below a folder of images, where its pictures would be read as images.

    Args:
        output: the folder to be written, as `flag` gives it.
        flag: for the message.
        places: (name for the message, source, path) of what is read; a source of '' is unknown.

    Raises:
        ValueError: the message names both.
    """
    if is_remote(output):
        return
    real = Path(os.path.realpath(expand(output)))
    for name, source, path in places:
        if source not in ("", "folder", "labelled") or not path or is_remote(path):
            continue
        folder = Path(os.path.realpath(expand(path)))
        inside = real.is_relative_to(folder) and folder.is_dir()
        hidden = inside and any(part.startswith(".") for part in real.relative_to(folder).parts)
        if inside and not hidden:  # what is hidden is not read
            raise ValueError(
                f"{flag}={printable(output)} is in {name}={printable(path)}, where the files that "
                "it will hold would be read as images or classes: give a folder beside it"
            )


def check_no_class(output, flag: str, data) -> None:
    """Refuses an output beside the class folders that `data` reads: it would become a class.

    Raises:
        ValueError: as of `check_outside`.
    """
    if data.source == "labelled":
        check_outside(output, flag, [("data.path", data.source, data.path)])


def check_outside_data(output, flag: str, config) -> None:
    """Refuses an output below a folder of images that the run of a configuration reads.

    Raises:
        ValueError: as of `check_outside`.
    """
    rooms = {"data": config.data, "eval": config.eval}
    read = {room: keys for room, keys in rooms.items() if "source" in keys}
    places = [(f"{room}.path", keys.source, keys.path) for room, keys in read.items()]
    if any(keys.source == "mixture" for keys in read.values()):
        for number, entry in enumerate(config.data.mixture):
            match entry:  # one of another form is refused where it is opened
                case [_, str(source), str(path), *_]:
                    places.append((f"data.mixture[{number}]", source, path))
    check_outside(output, flag, places)


def near_source(name: str) -> str:
    """Returns the source that an unknown name probably means, '' if none is close."""
    plain = "".join(character for character in name.lower() if character.isalnum())
    near = difflib.get_close_matches(name, SOURCES, n=1)
    return OTHER_NAMES.get(plain) or (near[0] if near else "")


def mixture_source(data, require_captions: bool = True) -> Mixture:
    """Opens the sources that `data.mixture` lists as (weight, source, path) or (..., captions).

    Raises:
        ValueError: an invalid entry, a weight that is not positive, or the error of a part.
    """
    if not data.mixture:
        raise ValueError(
            "data.source=mixture needs data.mixture: (weight, source, path) of each part, as "
            '((3.0, "tar", "/data/web/{00000..00099}.tar"), (1.0, "folder", "/data/mine"))'
        )
    _unread(data, "path", "captions")
    parts, weights = [], []
    for number, entry in enumerate(data.mixture):
        where = f"data.mixture[{number}]={entry!r}"
        fits = isinstance(entry, tuple | list) and len(entry) in (3, 4)
        if not fits or not all(isinstance(text, str) for text in entry[1:]):
            raise ValueError(f"{where} is not (weight, source, path) or (..., captions)")
        weight, source, path, captions = (*entry, "")[:4]
        number_like = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number_like or not 0 < weight < math.inf:
            raise ValueError(f"{where}: the weight must be a positive number; leave the part out")
        if source == "mixture":
            raise ValueError(f"{where}: a mixture cannot be a part; list its parts")
        part = data.copy_and_resolve_references()
        part.source, part.path, part.captions = source, path, captions
        try:
            parts.append(open_source(part, require_captions=require_captions))
        except OSError as error:
            raise with_text(error, f"{where}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        weights.append(float(weight))
    return Mixture(parts, weights)


def _unread(data, *keys: str) -> None:
    for key in keys:
        if data[key]:
            raise ValueError(
                f"data.{key}={data[key]} has no meaning for data.source={data.source}: leave it "
                "empty"
            )


def _packed(data, require_captions: bool) -> Source:
    _unread(data, "captions")
    return packed_source(data.path, require_captions=require_captions)


def _photos(data, require_captions: bool) -> Source:
    _unread(data, "path", "captions")
    return photo_source()


# Names of sources in other projects, as lower-case letters and digits -> ours.
OTHER_NAMES = {
    "arrayrecord": "array_record",
    "datasets": "parquet",
    "files": "folder",
    "hf": "parquet",
    "huggingface": "parquet",
    "imagefolder": "labelled",
    "imagenet": "labelled",
    "images": "folder",
    "img2dataset": "tar",
    "tensorflowdatasets": "tfds",
    "wds": "tar",
    "webdataset": "tar",
}
SOURCES: dict[str, Callable[[Any, bool], Source]] = {
    "folder": lambda data, require_captions: folder_source(
        data.path, data.captions, require_captions=require_captions
    ),
    "tar": lambda data, require_captions: tar_source(
        data.path, data.captions, data.index, require_captions=require_captions
    ),
    "array_record": _packed,
    "parquet": lambda data, require_captions: parquet_source(
        data.path,
        data.captions,
        require_captions=require_captions,
        window=data.window,
        num_threads=data.num_threads,
    ),
    "tfds": lambda data, require_captions: tfds_source(
        data.path, data.captions, require_captions=require_captions
    ),
    "labelled": lambda data, require_captions: labelled_source(data.path, data.captions),
    "mixture": mixture_source,
    "emoji": lambda data, require_captions: emoji_source(data.path, data.captions),
    "photos": _photos,
    "shapes": lambda data, require_captions: shape_source(data.path, data.captions),
}
