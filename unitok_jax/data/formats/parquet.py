"""Parquet files with images inside, as Hugging Face datasets and img2dataset write them."""

import glob
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from unitok_jax.data.formats.cache import Cache
from unitok_jax.data.formats.folders import CAPTION_KEYS
from unitok_jax.data.formats.parquet_groups import arrow_errors, check_group, read_group, texts_of
from unitok_jax.data.formats.recognise import other_format
from unitok_jax.data.formats.shard_names import check_file, in_folder, is_hidden
from unitok_jax.data.health import SampleError
from unitok_jax.system.paths import expand, is_there

SUFFIX = ".parquet"
KEY = "data.path"
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")


class ParquetSource:
    """Rows by position; reading one reads its row group.

    Each process keeps twice as many decoded row groups as are shuffled together: where one
    window ends and the next begins, threads read from both. Memory is their number times the
    image bytes of a row group, so 16 groups of 1000 images of 100 KB take 1.6 GB. Hugging Face
    writes groups of 100 images.

    Args:
        files: paths.
        columns: the image column and, if any, the caption column: name -> type, as Arrow
            spells it.
        groups: int32 (n, 2): for every row group, the position of its file and its own in it.
        blocks: int64 (n,): where the row groups end.
        kept_groups: the number of decoded row groups kept.
        require_captions: whether a row without a caption is a `SampleError`.
    """

    def __init__(
        self,
        files: Sequence[str],
        columns: dict[str, str],
        groups: np.ndarray,
        blocks: np.ndarray,
        *,
        kept_groups: int,
        require_captions: bool,
    ):
        self.blocks = blocks
        self._files = list(files)
        self._columns = columns
        self._groups = groups
        self._require_captions = require_captions
        self._cache = Cache(kept_groups)

    def __len__(self) -> int:
        return int(self.blocks[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a row, named `FILE, group G, row R`."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index}: there are 0 to {len(self) - 1}")
        block = int(np.searchsorted(self.blocks, index, side="right"))
        start = int(self.blocks[block - 1]) if block else 0
        row, count = index - start, int(self.blocks[block]) - start
        file, group = self._files[self._groups[block, 0]], int(self._groups[block, 1])
        table = self._cache.get(block, lambda: self._read(file, group, count))
        name = f"{file}, group {group}, row {row}"
        image_column, *caption_column = self._columns
        captions = _captions(table[caption_column[0]][row], name) if caption_column else ()
        if self._require_captions and not captions:
            raise SampleError(f"{name} has no caption", "no_caption")
        return {"name": name, "image": _image(table[image_column][row], name), "captions": captions}

    def _read(self, file: str, group: int, count: int):
        try:
            return read_group(file, group, count, self._columns, [*self._columns][1:])
        except ValueError as error:
            raise SampleError(str(error), "unreadable") from error


def parquet_source(
    path: str,
    captions: str = "",
    *,
    require_captions: bool = True,
    window: int = 8,
    num_threads: int = 16,
) -> ParquetSource:
    """Opens Parquet files as rows, in the order of the file names.

    The image column is the only one of `IMAGE_COLUMNS`: bytes, or a struct {bytes, path}. A caption
    is text or a list of texts.

    Args:
        path: a file, a folder (searched recursively, skipping hidden entries) or a pattern (`*`,
            `?`, `[...]`, `**`) of either.
        captions: the caption column; '': the only one of `CAPTION_KEYS`.
        require_captions: whether a missing caption column, or a row without caption, is an error.
        window: row groups shuffled together.
        num_threads: threads that read the file footers, and later rows.

    Raises:
        ValueError: no path, no files, a file that is not Parquet, columns that are missing, of
            another type, or of different types in two files; a window or threads below 1.
        FileNotFoundError: nothing matches.
    """
    if window < 1:
        raise ValueError(f"data.window={window} must be at least 1 row group")
    if num_threads < 1:
        raise ValueError(f"data.num_threads={num_threads} must be at least 1 thread")
    files = find_files(path)
    with ThreadPoolExecutor(num_threads) as executor:
        ends = list(executor.map(file_end, files))
    schema = ends[0][0]
    image = _image_column(files[0], schema)
    caption = _caption_column(files[0], schema, captions, require_captions)
    columns = {name: str(schema.field(name).type) for name in (image, caption) if name}
    for file, (other, _) in zip(files, ends, strict=True):
        for column, kind in columns.items():
            found = str(other.field(column).type) if column in other.names else "absent"
            if other.names.count(column) > 1:
                raise ValueError(f"{file} has several columns {column!r}")
            if found != kind:
                raise ValueError(
                    f"column {column!r} is {found} in {file} and {kind} in {files[0]}: "
                    f"data.path={path} must hold files of one kind"
                )
    groups, counts = [], []
    for number, (_, rows) in enumerate(ends):
        for group, count in enumerate(rows):
            if count:
                groups.append((number, group))
                counts.append(count)
    if not groups:
        raise ValueError(f"data.path={path} holds no rows")
    return ParquetSource(
        files,
        columns,
        np.array(groups, np.int32),
        np.cumsum(counts, dtype=np.int64),
        kept_groups=KEPT_WINDOWS * window,
        require_captions=require_captions,
    )


KEPT_WINDOWS = 2  # the next window may begin while slow threads still read the last


def find_files(path: str) -> list[str]:
    if not path:
        raise ValueError("data.path is empty: set --config.data.path to .parquet files")
    expanded = expand(path)
    if is_there(expanded):
        found = [str(expanded)]
    else:
        found = sorted(glob.glob(str(expanded), recursive=True))
        found = [entry for entry in found if not is_hidden(os.path.basename(entry))]
    if not found:
        raise FileNotFoundError(f"data.path={path}: there is no such file and no such folder")
    files: dict[str, None] = {}  # a pattern may match a folder and its files
    for entry in found:
        inside = (
            in_folder(Path(entry), SUFFIX, KEY, below=True) if os.path.isdir(entry) else [entry]
        )
        files |= dict.fromkeys(inside)
    if not files:
        other = other_format(path, "parquet")
        raise ValueError(
            f"data.path={path} holds no .parquet files" + (f". {other}" if other else "")
        )
    for file in files:
        check_file(file, KEY)
    return list(files)


def file_end(file: str) -> tuple[Any, list[int]]:
    """Reads the schema of a file, and the row count of each of its row groups, with checks."""
    from pyarrow import parquet

    other = other_format(file, "parquet")
    failed = f"{file} is not a Parquet file, or not whole" + (f" ({other})" if other else "")
    with arrow_errors(failed), parquet.ParquetFile(file) as opened:
        schema, end = opened.schema_arrow, opened.metadata
    with arrow_errors(file):
        return schema, [check_group(end, group) for group in range(end.num_row_groups)]


def _image_column(file: str, schema) -> str:
    from pyarrow import types

    found = [name for name in IMAGE_COLUMNS if name in schema.names]
    if len(found) != 1 or schema.names.count(found[0]) != 1:
        raise ValueError(
            f"{file}: needs exactly one column of {', '.join(IMAGE_COLUMNS)} with images; "
            f"its columns are {', '.join(schema.names)}"
        )
    kind = schema.field(found[0]).type
    inner = kind
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        inner = kind.field("bytes").type
    if not (types.is_binary(inner) or types.is_large_binary(inner) or types.is_binary_view(inner)):
        raise ValueError(
            f"{file}: column {found[0]!r} is {kind}; images are read as binary or as a struct "
            "{bytes: binary, path: string}"
        )
    return found[0]


def _caption_column(file: str, schema, captions: str, required: bool) -> str:
    from pyarrow import types

    if captions and captions not in schema.names:
        raise ValueError(
            f"data.captions={captions} is no column of {file}: {', '.join(schema.names)}"
        )
    found = [captions] if captions else [name for name in CAPTION_KEYS if name in schema.names]
    if not found and not required:
        return ""
    if len(found) != 1 or schema.names.count(found[0]) != 1:
        raise ValueError(
            f"{file}: needs exactly one column of {', '.join(CAPTION_KEYS)} with captions, or "
            f"--config.data.captions=COLUMN; its columns are {', '.join(schema.names)}"
        )
    kind = schema.field(found[0]).type
    inner = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind
    if not (types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner)):
        raise ValueError(
            f"{file}: column {found[0]!r} is {kind}; captions are strings or lists of strings"
        )
    return found[0]


def _image(cell, name: str) -> bytes:
    path = b""
    if hasattr(cell, "keys") and cell.is_valid:  # a struct; its path need not be UTF-8
        if "path" in cell and cell["path"].is_valid:
            path = cell["path"].as_buffer().to_pybytes()
        cell = cell["bytes"]
    image = cell.as_py()
    if image is None and path:
        raise SampleError(
            f"{name}: only the path {path.decode(errors='replace')!r} of its image is in the file; "
            "put the images into it (datasets.table.embed_table_storage)",
            "no_image",
        )
    if not image:
        raise SampleError(f"{name} has no image", "empty")
    return image


def _captions(cell, name: str) -> tuple[str, ...]:
    try:
        return tuple(text.strip() for text in texts_of(cell) if text.strip())
    except UnicodeDecodeError as error:
        raise SampleError(f"{name}: caption is not UTF-8 ({error})", "bad_caption") from error
    except ValueError as error:
        raise SampleError(f"{name}: {error}", "bad_caption") from error
