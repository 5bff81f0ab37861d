"""Images as files below a folder, with captions from a table or from text files beside them."""

import codecs
import csv
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from unitok_jax.data.formats.photos import CAPTIONS, photo_folder
from unitok_jax.data.formats.recognise import other_format
from unitok_jax.data.health import SampleError
from unitok_jax.data.records import first_names
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.passing import may_pass
from unitok_jax.system.paths import expand, is_regular, open_regular, printable, read_regular

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_FILES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
NAME_KEYS = ("file_name", "image", "path")
CAPTION_KEYS = ("caption", "text", "captions", "texts")

MAX_IMAGE_BYTES = 1 << 29  # size limit of an image file
MAX_LINE_BYTES = 1 << 24  # size limit of a line in a file of captions or names

Captions = dict[str, tuple[str, ...]]

_log = logging.getLogger(__name__)


class FileSource:
    """Image files below one folder, in the order of their names.

    Args:
        root: the folder.
        captions: for every image, its path relative to `root` ("/" as separator) and its captions,
            or the error raised on reading the image.
    """

    def __init__(self, root: str | os.PathLike, captions: dict[str, tuple[str, ...] | SampleError]):
        self.root = os.fspath(root)
        self._records = sorted(captions.items())

    @property
    def names(self) -> list[str]:
        """Sorted paths relative to `root`; reads no image."""
        return [name for name, _ in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, captions = self._records[index]
        if isinstance(captions, SampleError):
            raise SampleError(str(captions), captions.reason)
        return {"name": name, "image": read_image(self.root, name), "captions": captions}


def folder_source(path: str, captions: str = "", *, require_captions: bool = True) -> FileSource:
    """Opens all images below a folder, with captions from a table or from text files beside them.

    Args:
        path: the folder; searched recursively, following links, skipping hidden files.
        captions: a .jsonl or .csv file; '' looks for one of `CAPTION_FILES` in the folder and, if
            there is none, for `name.txt` beside `name.jpg`, one caption per line; an unreadable
            text file makes its image a bad sample.
        require_captions: whether an image without a caption is an error (training with text)
            or simply has none (reconstruction).

    Raises:
        ValueError: no path, no images, captions that do not fit the images.
        FileNotFoundError, NotADirectoryError: `path` or `captions` is not there.
    """
    if not path:
        raise ValueError(
            "data.path is empty: set --config.data.path=/a/folder/of/images, "
            "or --config.data.source=photos for the built-in photographs"
        )
    root = open_root(path)
    names = sorted(image_names(root))
    if not names:
        raise ValueError(
            f"data.path={path} holds no images ({', '.join(IMAGE_SUFFIXES)}){hint(path, 'folder')}"
        )
    table = _caption_file(root, captions)
    if table is None:
        found = {name: _read_text_file((root / name).with_suffix(".txt")) for name in names}
    else:
        found = _match(names, _read_table(table), table)
    missing = [name for name in names if not found[name]]
    if missing and require_captions:
        raise ValueError(
            f"{len(missing)} of {len(names)} images in data.path={path} have no caption: "
            f"{first_names(missing)}. Add them to {table or 'a captions.jsonl or name.txt files'}, "
            "or remove the images"
        )
    return FileSource(root, found)


def photo_source() -> FileSource:
    """Opens the captioned photographs inside scikit-image. Raises ImportError without it."""
    return FileSource(photo_folder(), CAPTIONS)


def read_image(root: str | os.PathLike, name: str) -> bytes:
    """Reads the bytes of an image file below a folder.

    Raises:
        SampleError: not a file (a pipe, a broken link), or above `MAX_IMAGE_BYTES`.
        OSError: the file cannot be read.
    """
    path = os.path.join(root, name)
    try:
        return read_regular(path, MAX_IMAGE_BYTES)
    except ValueError as error:
        raise SampleError(str(error), "too_large") from error
    except OSError as error:
        if may_pass(error) or is_regular(path):
            raise
        raise SampleError(f"{printable(path)}: {error.strerror}", "unreadable") from error


def open_root(path: str, source: str = "folder") -> Path:
    """Returns the folder `data.path` that `source` reads.

    Raises:
        FileNotFoundError, NotADirectoryError: the path is not a folder.
    """
    root = expand(path)
    if not root.exists():
        raise FileNotFoundError(f"data.path={path}: there is no such folder{hint(path, source)}")
    if not root.is_dir():
        raise NotADirectoryError(f"data.path={path} is not a folder{hint(path, source)}")
    return root


def open_table(path: str) -> Path:
    """Returns the file `data.captions`.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the path is a folder, a pipe or a device.
    """
    table = expand(path)
    if not table.exists():
        raise FileNotFoundError(f"data.captions={path}: there is no such file")
    if not is_regular(table):
        raise ValueError(f"data.captions={path} is not a file")
    return table


def image_names(root: Path) -> Iterator[str]:
    """Yields paths of the images below a folder, relative to it, with "/" as separator.

    Tests names alone: an entry named like an image may be a pipe or a broken link. A folder
    that cannot be searched gives a warning; the first one, and a disk that is away, an OSError.
    """
    seen, waiting = set(), [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent folder would loop forever
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                here = [(entry.name, _is_folder(entry)) for entry in entries]
        except OSError as error:
            if len(seen) == 1 or may_pass(error):
                raise
            _log.warning("%s is left out: %s", printable(folder), error.strerror)
            continue
        here = sorted(item for item in here if not item[0].startswith("."))
        waiting += [os.path.join(folder, name) for name, is_folder in here[::-1] if is_folder]
        for name, is_folder in here:
            if not is_folder and name.lower().endswith(IMAGE_SUFFIXES):
                yield Path(folder, name).relative_to(root).as_posix()


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if may_pass(error):
            raise
        return False  # a cycle of links, or no permission


def hint(path: str, source: str) -> str:
    """Returns the end of a message: another source that reads `path`, if known."""
    other = other_format(path, source)
    return f". {other}" if other else ""


def _caption_file(root: Path, captions: str) -> Path | None:
    if captions:
        table = open_table(captions)
        if table.suffix.lower() not in READERS:
            raise ValueError(f"data.captions={captions} is not one of {', '.join(READERS)}")
        return table
    found = [root / name for name in CAPTION_FILES if os.path.lexists(root / name)]
    if len(found) > 1:
        raise ValueError(
            f"data.path={root} holds {' and '.join(table.name for table in found)}: "
            "say which one with --config.data.captions=..."
        )
    return found[0] if found else None


def _match(names: list[str], table: Captions, path: Path) -> Captions:
    strangers = sorted(set(table) - set(names))
    if strangers:
        raise ValueError(
            f"{printable(path)} names {len(strangers)} images that are not in the folder: "
            f"{first_names(strangers)}. Names are relative to data.path"
        )
    return {name: table[name] if name in table else () for name in names}


def _read_table(path: Path) -> Captions:
    """Reads captions by image name; an image's captions keep the order of the file."""
    found: dict[str, list[str]] = {}
    for name, captions in READERS[path.suffix.lower()](path):
        name = str(PurePosixPath(name.replace("\\", "/")))
        found.setdefault(name, []).extend(text.strip() for text in captions if text.strip())
    return {name: tuple(captions) for name, captions in found.items()}


def _read_jsonl(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        where = f"{printable(path)}, line {number}"
        record = parse_object(line, where)
        name_key, caption_key = _keys(record, where)
        name, captions = record[name_key], record[caption_key]
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(name, str):
            raise ValueError(f"{where}: {name_key!r} must be a string, got {name!r:.80}")
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise ValueError(
                f"{where}: {caption_key!r} must be a string or a list of strings, "
                f"got {captions!r:.80}"
            )
        yield name, captions


def _read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    rows = csv.DictReader(lines(path), strict=True)
    try:
        name_key, caption_key = _keys(rows.fieldnames or [], f"{printable(path)}, line 1")
        for row in rows:
            if None in row or row[name_key] is None or row[caption_key] is None:
                raise ValueError(
                    f"{printable(path)}, line {rows.reader.line_num}: not the "
                    f"{len(rows.fieldnames)} columns of the header; a caption with a comma needs "
                    "quotes"
                )
            yield row[name_key], [row[caption_key]]
    except csv.Error as error:
        raise ValueError(
            f"{printable(path)}, line {rows.reader.line_num}: not CSV ({error})"
        ) from error


READERS = {".jsonl": _read_jsonl, ".csv": _read_csv}


def _keys(found: Iterable[str], where: str) -> tuple[str, str]:
    """Returns the key of the image's name and the key of its captions."""
    found = list(found)
    keys = []
    for wanted in (NAME_KEYS, CAPTION_KEYS):
        present = [key for key in found if key in wanted]  # a column may appear twice
        if len(present) != 1:
            raise ValueError(
                f"{where}: needs exactly one of {', '.join(wanted)}; found {first_names(found, 20)}"
            )
        keys.append(present[0])
    return keys[0], keys[1]


def _read_text_file(path: Path) -> tuple[str, ...] | SampleError:
    try:
        return tuple(line.strip() for line in lines(path) if line.strip())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        if may_pass(error):
            raise
        return SampleError(printable(str(error)), "bad_caption")


def lines(path: Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 file with their line ends, without a byte-order mark.

    Raises:
        OSError: not a file, or unreadable.
        ValueError: not UTF-8, or a line above `MAX_LINE_BYTES`; the message names file and line.
    """
    with open_regular(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{printable(path)}, line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"{where}: longer than {MAX_LINE_BYTES} bytes")
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise ValueError(f"{where}: not UTF-8 but UTF-16; save the file as UTF-8")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8"
                ) from error
