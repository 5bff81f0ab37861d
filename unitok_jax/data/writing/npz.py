"""Archives of arrays for NumPy, written row by row: no array is in memory as a whole."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unitok_jax.data.writing.folders import seal, writing


class Rows(NamedTuple):
    """An array to be written, in parts along its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Iterable[np.ndarray]  # together of this shape


def write_npz(path: Path, arrays: Mapping[str, Rows]) -> dict[str, object]:
    """Writes an uncompressed .npz file whole or not at all; equal arrays give equal bytes.

    Args:
        path: of the file, which is replaced.
        arrays: name -> array, as `numpy.savez` takes them.

    Returns:
        the facts of the file, as of `seal`.

    Raises:
        OSError: writing failed; the disk may be full.
        ValueError: parts that are not of the array.
    """
    with writing(path) as begun:
        with zipfile.ZipFile(begun, "w", zipfile.ZIP_STORED) as archive:
            for name, rows in arrays.items():
                # The same time in every archive: that of the oldest file a .zip can hold.
                entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as file:
                    _write_rows(file, rows)
        return seal(path)


def _write_rows(file, rows: Rows) -> None:
    dtype = np.dtype(rows.dtype)
    header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(rows.shape)}
    np.lib.format.write_array_header_1_0(file, header)
    count = 0
    for part in rows.parts:
        if part.dtype != dtype or part.shape[1:] != tuple(rows.shape[1:]):
            raise ValueError(f"a part is {part.dtype} {part.shape}, of an array {rows.shape}")
        count += len(part)
        file.write(np.ascontiguousarray(part).data)
    if count != rows.shape[0]:
        raise ValueError(f"the parts have {count} rows, of {rows.shape[0]}")
