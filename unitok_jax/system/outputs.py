"""Files and folders that are written whole or not at all."""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator

from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.passing import with_text
from unitok_jax.system.paths import printable


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a path to write a file at, which replaces `path` when the block succeeds.

    If the block fails, or the process is killed, `path` is unchanged. Its parent folders
    are created; the mode follows the umask; a link stays a link.

    Raises:
      OSError: from the block, or the folder cannot be written.
    """
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield partial
        # Libraries create files with owner-only access, which would keep other users out.
        mask = os.umask(0o077)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


_ASIDE = ".unfinished-"  # name prefix of a folder being filled


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, flag: str = "") -> Iterator[pathlib.Path]:
    """Fills a folder in the block; `path` then holds all of it or, after an error, nothing.

    The folder is filled within `path`, which may be a link or a mount point.

    Args:
      path: a new or empty folder.
      flag: the flag that gave the path, such as '--output', for messages.

    Yields:
      the folder to fill.

    Raises:
      ConversionError: `path` holds something.
      OSError: from the block; the folder cannot be made, or something appeared in it meanwhile.
    """
    path = pathlib.Path(path)
    name = f"{flag}={printable(path)}" if flag else printable(path)
    there = path.exists()
    if there and (not path.is_dir() or any(map(_is_strange, path.iterdir()))):
        raise ConversionError(
            f"{name} exists and is not empty; name a new folder, so that nothing mixes"
        )
    aside = path / f"{_ASIDE}{secrets.token_hex(4)}"
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise with_text(error, f"{name} cannot be written: {error}") from error
    try:
        yield aside
        strange = sorted(entry.name for entry in path.iterdir() if _is_strange(entry))
        if strange:
            raise FileExistsError(f"{name} is not empty any more: it has {printable(strange[0])}")
        for entry in sorted(aside.iterdir()):
            entry.rename(path / entry.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if not there:
            with contextlib.suppress(OSError):  # it has what was made
                path.rmdir()


def _is_strange(entry: pathlib.Path) -> bool:
    return not re.fullmatch(rf"{re.escape(_ASIDE)}[0-9a-f]{{8}}", entry.name)
