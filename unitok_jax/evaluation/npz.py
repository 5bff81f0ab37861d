"""Arrays of .npz files from elsewhere, never unpickled, and of a size that is known before."""

import lzma
import struct
import zipfile
import zlib
from typing import IO, NamedTuple

import numpy as np

# What NumPy, zipfile and zlib raise of damaged members.
DAMAGE = (
    *(ValueError, TypeError, KeyError, EOFError, OSError, RuntimeError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, SyntaxError, struct.error),
)


class Header(NamedTuple):
    """Description of an array, in front of its values."""

    shape: tuple[int, ...]
    fortran: bool  # columns are stored first
    dtype: np.dtype


def holds(archive: zipfile.ZipFile, key: str) -> bool:
    """Tells if the file holds an array of this name."""
    return f"{key}.npy" in archive.namelist()


def stored(archive: zipfile.ZipFile, key: str) -> int:
    """Returns the bytes that an array takes when it is unpacked, header included."""
    return archive.getinfo(f"{key}.npy").file_size


def read_header(file: IO[bytes]) -> Header:
    """Reads a header; the values follow in the file."""
    formats = np.lib.format
    first = formats.read_magic(file) == (1, 0)
    read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
    return Header(*read(file))


def open_array(archive: zipfile.ZipFile, key: str) -> IO[bytes]:
    """Opens the bytes of an array, to be read from its header on.

    Raises:
      ValueError: the file does not hold it.
    """
    if not holds(archive, key):
        raise ValueError(f"it does not hold the array {key}")
    return archive.open(f"{key}.npy")


def header(archive: zipfile.ZipFile, key: str) -> Header:
    """Returns the header of an array; errors as of `open_array`."""
    with open_array(archive, key) as file:
        return read_header(file)


def read(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Reads an array whole. The caller has looked at `stored` and `header`.

    Raises:
      ValueError: it is not there, or holds Python objects.
    """
    with open_array(archive, key) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
