"""Recognition of a path's format, for the error of a source that reads another format."""

import os
import re
from collections.abc import Iterator

from unitok_jax.data.writing.folders import MANIFEST, SETTINGS

# (source that reads the format, description, name suffixes): the first match counts.
FORMATS = (
    ("", "Arrow files, which no source reads: write them as Parquet", r"\.arrow$"),
    ("tfds", "a dataset of tensorflow-datasets", r"(^|/)dataset_info\.json$"),
    ("tfds", "a dataset of tensorflow-datasets", r"\.(array_record|tfrecord)-\d+-of-\d+$"),
    ("tar", "tars", r"\.tar(\.gz|\.bz2|\.xz|\.zst)?$|\.tgz$"),
    ("parquet", "Parquet files", r"\.parquet$"),
    ("array_record", "packed samples", r"\.array_record$"),
    ("folder", "images", r"\.(jpe?g|png|webp)$"),
)
_CODES = b'"unitok_jax.codes"'  # the format name in a folder of tokenized images
_LOOKED_AT = 10_000  # names listed per folder, at most
_START = 1 << 16  # bytes read of a file that identifies a folder


def other_format(path: str | os.PathLike, source: str = "") -> str:
    """Returns a sentence saying which `data.source` reads a path; '' if unknown.

    Tests visible names, and the files that this package writes into its folders. The path need
    not exist: patterns and URLs are recognised by their suffixes.

    Args:
        path: `data.path`, as the user gave it.
        source: the source that asks; its own format is not reported.

    Returns:
        a sentence without its full stop.
    """
    path = os.path.expanduser(os.fspath(path))
    if os.path.isdir(path):
        if any(_CODES in _start(os.path.join(path, name)) for name in (SETTINGS, MANIFEST)):
            return "It holds codes of images, which unitok_jax.open_codes reads and no source"
        names, verb = list(_names(path)), "holds"
    else:
        names, verb = [path], "names"
    for reader, what, ending in FORMATS:
        if any(re.search(ending, name, re.IGNORECASE) for name in names):
            if source and (reader == source or (reader, source) == ("folder", "labelled")):
                return ""
            return f"It {verb} {what}" + (f": set data.source={reader}" if reader else "")
    return ""


def _names(folder: str) -> Iterator[str]:
    """Yields paths below a folder, a bounded number of them."""
    left = _LOOKED_AT
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files)[:left]:
            if not name.startswith("."):
                yield os.path.join(here, name)
        left -= len(files) + 1
        if left <= 0:
            return


def _start(file: str) -> bytes:
    if not os.path.isfile(file):
        return b""
    with open(file, "rb") as opened:
        return opened.read(_START)
