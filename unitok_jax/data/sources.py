"""The table of data sources: which name opens which format."""

import difflib
from collections.abc import Callable
from typing import Any

from unitok_jax.data.folders import folder_source, photo_source
from unitok_jax.data.records import Source
from unitok_jax.data.shapes import shape_source
from unitok_jax.data.tars import tar_source


def open_source(data, *, require_captions: bool = True) -> Source:
    """The source that `data.source` names.

    Args:
        data: the `data` config; `source`, `path` and `captions` are read.
        require_captions: whether an image without a caption is an error (training with text) or
            simply has none (reconstruction).

    Raises:
        ValueError: an unknown name, no path, no images, captions that do not fit the images.
        FileNotFoundError, NotADirectoryError: `data.path` or `data.captions` is not there.
        ImportError: the source needs a package that is not installed.
    """
    if data.source not in SOURCES:
        near = difflib.get_close_matches(data.source, SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"data.source={data.source!r} is not one of {', '.join(SOURCES)}{hint}")
    return SOURCES[data.source](data, require_captions)


SOURCES: dict[str, Callable[[Any, bool], Source]] = {
    "folder": lambda data, require_captions: folder_source(
        data.path, data.captions, require_captions=require_captions
    ),
    "photos": lambda data, require_captions: photo_source(),
    "shapes": lambda data, require_captions: shape_source(data.path, data.captions),
    "tar": lambda data, require_captions: tar_source(
        data.path, data.captions, data.index, require_captions=require_captions
    ),
}
