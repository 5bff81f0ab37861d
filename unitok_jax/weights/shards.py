"""Weights in one or several .safetensors files with an index, as the Hugging Face hub has them.

Arrays are read when they are asked for, one at a time: a model of 7 billion parameters is never in
memory twice.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import safetensors

from unitok_jax.models.limits import show
from unitok_jax.system import foreign_json
from unitok_jax.system.foreign_files import ConversionError, check_file
from unitok_jax.system.paths import printable, read_regular
from unitok_jax.weights import files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""File of weights that are not split, and of the index of those that are."""

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""Dtypes that are written."""

_MOST_INDEX = 1 << 24  # maximum bytes of an index; that of 70 billion parameters has 70 000
_MOST_FILES = 4096
_SHARD = 5 * 10**9  # bytes of a file that is written, as transformers splits them


class Stored:
    """Array of a file that is read when NumPy asks for its values."""

    def __init__(self, file, name: str):
        """Takes an open file of safetensors, and the array's name in it."""
        found = file.get_slice(name)
        self._file, self._name = file, name
        self.shape, self.kind = tuple(found.get_shape()), found.get_dtype()

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self._file.get_tensor(self._name), dtype)


@contextlib.contextmanager
def open_folder(folder: pathlib.Path) -> Iterator[dict[str, Stored]]:
    """Opens the weights of a folder; the arrays can be read in the block.

    Args:
      folder: holds `WEIGHTS`, or `INDEX` and the files that it names.

    Yields:
      name -> array, of float16, bfloat16, float32 or float64.

    Raises:
      FileNotFoundError: a file that the index names is missing.
      ConversionError: there are no weights, the index names files elsewhere, a file has not the
        arrays that the index says, or a dtype that is not read.
    """
    places = _places(folder)
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(_open(folder / name)) for name in places}
        arrays = {}
        for name, file in opened.items():
            found = set(file.keys())
            if places[name] is not None and found != places[name]:
                raise ConversionError(_unlike(folder / name, found, places[name]))
            arrays |= {key: Stored(file, key) for key in sorted(found)}
        for key, array in arrays.items():
            if not array.kind.startswith(("F", "BF")) or array.kind.startswith("F8"):
                raise ConversionError(
                    f"{printable(folder)}: {printable(key)} has the dtype {array.kind}; weights of "
                    "F16, BF16, F32 and F64 are read: convert it where it was made"
                )
        yield arrays


def _places(folder) -> dict[str, set[str] | None]:
    """Returns file name -> names of its arrays, or None where no index tells them."""
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS: None}
    path = folder / INDEX
    if not path.is_file():
        raise ConversionError(f"{printable(folder)} holds no {WEIGHTS} and no {INDEX}")
    check_file(path)
    try:
        content = foreign_json.parse_object(read_regular(path, _MOST_INDEX), printable(path))
    except ValueError as error:
        raise ConversionError(str(error)) from error
    table = content["weight_map"] if "weight_map" in content else None
    if not isinstance(table, dict) or not table:
        raise ConversionError(f"{printable(path)}: weight_map must be an object of names and files")
    places = {}
    for name, file in table.items():
        if not _is_inside(file):
            raise ConversionError(
                f"{printable(path)}: weight_map says that {printable(name)} is in {show(file)}, "
                "which is no name of a .safetensors file in the folder itself"
            )
        places.setdefault(file, set()).add(name)
    if len(places) > _MOST_FILES:
        raise ConversionError(f"{printable(path)} names {len(places)} files, over {_MOST_FILES}")
    return places


def _is_inside(file) -> bool:
    return (
        isinstance(file, str)
        and file.isprintable()
        and not file.startswith(".")
        and file.endswith(".safetensors")
        and not {"/", "\\"} & set(file)
    )


def _open(path):
    check_file(path)
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, ValueError, OverflowError) as error:
        raise ConversionError(f"{printable(path)} is not a safetensors file: {error}") from error


def _unlike(path, found, told):
    lines = [f"missing: {printable(name)}" for name in sorted(told - found)]
    lines += [f"not in the index: {printable(name)}" for name in sorted(found - told)]
    more = f", and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f"{printable(path)} is not as {INDEX} says: {'; '.join(lines[:5])}{more}"


def write(
    folder: pathlib.Path, state: Mapping[str, np.ndarray], dtype: str, most: int = _SHARD
) -> None:
    """Writes the weights of a folder, in files of at most `most` bytes or of one array.

    Args:
      folder: of the files.
      state: name -> array; each is read once, in the order of the mapping.
      dtype: 'float32' or 'bfloat16', of all arrays that are written.
      most: bytes.

    Raises:
      OSError: a file cannot be written; the disk may be full.
    """
    target = DTYPES[dtype]
    groups, room = [], 0
    for name, array in state.items():
        size = int(np.prod(np.shape(array), dtype=np.int64)) * target.itemsize
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(name)
        room -= size
    table, total = {}, 0
    for number, names in enumerate(groups, 1):
        file = WEIGHTS if len(groups) == 1 else f"model-{number:05}-of-{len(groups):05}.safetensors"
        arrays = {name: np.array(state[name], target, order="C") for name in names}
        files.write_safetensors(arrays, folder / file, {"format": "pt"})
        table |= dict.fromkeys(names, file)
        total += sum(array.nbytes for array in arrays.values())
    if len(groups) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": table}
        (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")
