"""Images as files below a folder, with captions from a table or from text files beside them."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from unitok_jax.data.photos import CAPTIONS, photo_folder
from unitok_jax.data.records import first_names

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_FILES = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
NAME_KEYS = ("file_name", "image", "path")
CAPTION_KEYS = ("caption", "text", "captions", "texts")

Captions = dict[str, tuple[str, ...]]


class FileSource:
    """Image files below one folder, in the order of their names.

    Args:
        root: the folder.
        captions: for every image, its path relative to `root` ("/" as separator) and its captions.
    """

    def __init__(self, root: str | os.PathLike, captions: Captions):
        self.root = os.fspath(root)
        self._records = sorted(captions.items())

    @property
    def names(self) -> list[str]:
        """The paths, relative to `root`, in order; reads no image."""
        return [name for name, _ in self._records]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, captions = self._records[index]
        return {"name": name, "image": Path(self.root, name).read_bytes(), "captions": captions}


def folder_source(path: str, captions: str = "", *, require_captions: bool = True) -> FileSource:
    """All images below a folder, with captions from a file or from text files beside the images.

    Args:
        path: the folder; searched recursively, links followed, hidden files skipped.
        captions: a .jsonl or .csv file; '' looks for one of `CAPTION_FILES` in the folder and, if
            there is none, for `name.txt` beside `name.jpg`, one caption per line.
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
        raise ValueError(f"data.path={path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
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
    """The photographs inside scikit-image, captioned. Raises ImportError without scikit-image."""
    return FileSource(photo_folder(), CAPTIONS)


def open_root(path: str) -> Path:
    """The folder `data.path`.

    Raises:
        FileNotFoundError, NotADirectoryError: it is none.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"data.path={path}: there is no such folder")
    if not root.is_dir():
        raise NotADirectoryError(f"data.path={path} is not a folder")
    return root


def image_names(root: Path) -> Iterator[str]:
    """Paths of the images below a folder, relative to it, with "/" as separator."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above would be walked for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _caption_file(root: Path, captions: str) -> Path | None:
    if captions:
        table = Path(captions).expanduser()
        if not table.is_file():
            raise FileNotFoundError(f"data.captions={captions}: there is no such file")
        if table.suffix.lower() not in READERS:
            raise ValueError(f"data.captions={captions} is not one of {', '.join(READERS)}")
        return table
    found = [root / name for name in CAPTION_FILES if (root / name).is_file()]
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
            f"{path} names {len(strangers)} images that are not in the folder: "
            f"{first_names(strangers)}. Names are relative to data.path"
        )
    return {name: table[name] if name in table else () for name in names}


def _read_table(path: Path) -> Captions:
    """Captions by image name; an image's captions keep the order of the file."""
    found: dict[str, list[str]] = {}
    for name, captions in READERS[path.suffix.lower()](path):
        name = str(PurePosixPath(name.replace("\\", "/")))
        found.setdefault(name, []).extend(text.strip() for text in captions if text.strip())
    return {name: tuple(captions) for name, captions in found.items()}


def _read_jsonl(path: Path) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object: {line.strip():.80}")
        name_key, caption_key = _keys(record, f"{path}, line {number}")
        name, captions = record[name_key], record[caption_key]
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(name, str):
            raise ValueError(f"{path}, line {number}: {name_key!r} must be a string, got {name!r}")
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise ValueError(
                f"{path}, line {number}: {caption_key!r} must be a string or a list of strings, "
                f"got {captions!r:.80}"
            )
        yield name, captions


def _read_csv(path: Path) -> Iterator[tuple[str, list[str]]]:
    rows = csv.DictReader(lines(path), strict=True)
    try:
        name_key, caption_key = _keys(rows.fieldnames or [], f"{path}, line 1")
        for row in rows:
            if None in row or row[name_key] is None or row[caption_key] is None:
                raise ValueError(
                    f"{path}, line {rows.reader.line_num}: not the {len(rows.fieldnames)} columns "
                    "of the header; a caption with a comma needs quotes"
                )
            yield row[name_key], [row[caption_key]]
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.reader.line_num}: not CSV ({error})") from error


READERS = {".jsonl": _read_jsonl, ".csv": _read_csv}


def _keys(found: Iterable[str], where: str) -> tuple[str, str]:
    """The key of the image's name and that of its captions."""
    found = list(found)
    keys = []
    for wanted in (NAME_KEYS, CAPTION_KEYS):
        present = [key for key in wanted if key in found]
        if len(present) != 1:
            raise ValueError(
                f"{where}: needs exactly one of {', '.join(wanted)}; found {', '.join(found)}"
            )
        keys.append(present[0])
    return keys[0], keys[1]


def _read_text_file(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    return tuple(line.strip() for line in lines(path) if line.strip())


def lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, without a byte-order mark."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8"
                ) from error
