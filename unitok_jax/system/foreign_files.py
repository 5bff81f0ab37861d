"""Checks of files from elsewhere: existing, regular, and not a failed download."""

import os
import stat
from pathlib import Path

from unitok_jax.system.paths import kind, printable

_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
HEAD = 512
_RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".yaml", ".yml")


class ConversionError(ValueError):
    """A file with unexpected content; the message names the file and the remedy."""


def check_file(path: str | os.PathLike) -> bytes:
    """Reads the first `HEAD` bytes of a file, after excluding the remains of failed downloads.

    Raises:
      FileNotFoundError: the file is missing.
      ConversionError: the file is not regular, so that reading could block forever; or it is
        empty, a pointer of Git LFS, or a web page.
      OSError: it cannot be read.
    """
    name = printable(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{name} does not exist") from error
    if not stat.S_ISREG(mode):
        raise ConversionError(f"{name} is {kind(mode)}, not a file")
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        raise ConversionError(f"{name} is empty: was it written, or downloaded, to its end?")
    if head.startswith(_POINTER):
        raise ConversionError(
            f"{name} is a pointer of Git LFS, not the file that it stands for: run `git lfs pull` "
            "in its repository"
        )
    if head.lstrip().lower().startswith(_PAGES):
        raise ConversionError(
            f"{name} is a web page, not the file: the site that it was downloaded from asked for "
            "something, or had no such file"
        )
    return head


def check_lines(path: str | os.PathLike, name: str, expected: str) -> None:
    """Refuses a file that is called as one of records, where each line is taken for a text.

    Args:
      path: of the file.
      name: of the file, for the message.
      expected: what is read, for the message.

    Raises:
      ValueError: such a suffix, in letters of either case.
    """
    suffix = Path(path).suffix
    if suffix.lower() in _RECORDS:
        raise ValueError(f"{name}: a {suffix} file is not read here; give {expected}")
