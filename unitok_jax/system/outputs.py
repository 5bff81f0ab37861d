"""Files and folders that are written whole or not at all."""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator

from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.paths import printable


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A path to write a file at, that takes the place of `path` when the block ends well.

    If the block fails, or the process is killed, what was at `path` is as before. Folders above it
    are made; the mode follows the umask; a link stays one.

    Raises:
      OSError: as the block; or the folder cannot be written.
    """
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield partial
        # Libraries make files for their owner alone, and nobody else could be served from one.
        mask = os.umask(0o077)
        os.umask(mask)
        partial.chmod(0o666 & ~mask)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


_ASIDE = ".unfinished-"  # how the name of a folder begins that is being filled


@contextlib.contextmanager
def new_folder(path: str | os.PathLike, flag: str = "") -> Iterator[pathlib.Path]:
    """A block that fills a folder; `path` has all of it, or after an error nothing.

    It is filled within `path`, which may be a link or the place of a mounted disk.

    Args:
      path: not there yet, or empty.
      flag: that gave the path, as '--output', for messages.

    Yields:
      the folder to fill.

    Raises:
      ConversionError: `path` holds something.
      OSError: as the block; or it cannot be made, or something came there meanwhile.
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
        raise type(error)(f"{name} cannot be written: {error}") from error
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
