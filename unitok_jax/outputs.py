"""Files and folders that are written whole or not at all."""

import contextlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator

from unitok_jax.foreign_files import ConversionError
from unitok_jax.paths import printable


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


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """The path of a folder that is made, or is there and empty; if the block fails, it is so again.

    Raises:
      ConversionError: something is there.
      OSError: as the block; or it cannot be made.
    """
    path = pathlib.Path(path)
    made = not path.exists()
    if not made and (not path.is_dir() or any(path.iterdir())):
        raise ConversionError(f"{printable(path)} is there and not empty; give a new folder")
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    except BaseException:  # Ctrl-C too
        for each in path.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        if made:
            path.rmdir()
        raise
