"""Texts by position, of JSONL and Parquet files, for training a language model on text alone."""

from collections.abc import Sequence

import numpy as np

from unitok_jax.data.formats.cache import Cache
from unitok_jax.data.formats.json_records import JsonRecords, json_records
from unitok_jax.data.formats.parquet import KEPT_WINDOWS, file_end, find_files
from unitok_jax.data.formats.parquet_groups import read_group, texts_of
from unitok_jax.data.health import SampleError
from unitok_jax.system.passing import with_text

TEXT_KEYS = ("text", "content")


class JsonTexts:
    """Texts of a file of JSON objects, under 'text' or 'content'."""

    def __init__(self, records: JsonRecords):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> str:
        """Returns a text; an object without one is a `SampleError`."""
        record, name = self._records[index], self._records.name(index)
        found = [record[key] for key in TEXT_KEYS if key in record]
        if len(found) != 1 or not isinstance(found[0], str):
            message = f"{name}: needs a text under exactly one of {', '.join(TEXT_KEYS)}"
            raise SampleError(message, "bad_record")
        return _not_empty(found[0], name)


class ParquetTexts:
    """Texts of Parquet files; reading one reads its row group.

    Attributes:
        blocks: int64 (n,): where the row groups end.
    """

    def __init__(
        self, files: Sequence[str], columns: Sequence[str], groups, blocks: np.ndarray, kept: int
    ):
        self.blocks = blocks
        self._files, self._columns, self._groups = list(files), list(columns), groups
        self._cache = Cache(kept)

    def __len__(self) -> int:
        return int(self.blocks[-1])

    def __getitem__(self, index: int) -> str:
        """Returns a text; a null, or a row group that is damaged, is a `SampleError`."""
        block = int(np.searchsorted(self.blocks, index, side="right"))
        start = int(self.blocks[block - 1]) if block else 0
        number, group = self._groups[block]
        file, (column, kind) = self._files[number], self._columns[number]
        name, count = f"{file}, group {group}, row {index - start}", int(self.blocks[block]) - start

        def load():
            try:
                return read_group(file, group, count, {column: kind}, [column])
            except ValueError as error:
                raise SampleError(str(error), "unreadable") from error

        table = self._cache.get(block, load)
        try:
            texts = texts_of(table[column][index - start])
        except ValueError as error:  # of UTF-8, or too many
            raise SampleError(f"{name}: {error}", "bad_record") from error
        return _not_empty("".join(texts), name)


def text_source(path: str, key: str, window: int) -> JsonTexts | ParquetTexts:
    """Opens texts: a .jsonl or .json file, or Parquet files, a folder or a pattern of such.

    Args:
        path: of the file or files.
        key: of the config, which messages name.
        window: row groups shuffled together, of which twice as many are kept in memory.

    Raises:
        FileNotFoundError: nothing matches.
        ValueError: no texts, a file of another kind, or without exactly one column of texts.
    """
    if path.lower().endswith((".jsonl", ".json")):
        return JsonTexts(json_records(path, key))
    try:
        files = find_files(path)
        ends = [file_end(file) for file in files]
        columns = [_column(file, schema) for file, (schema, _) in zip(files, ends, strict=True)]
    except (ValueError, OSError) as error:
        raise with_text(error, f"{key}={path}: {error}") from error
    groups = [
        (number, group, rows)
        for number, (_, counts) in enumerate(ends)
        for group, rows in enumerate(counts)
        if rows
    ]
    if not groups:
        raise ValueError(f"{key}={path} holds no rows")
    blocks = np.cumsum([rows for *_, rows in groups], dtype=np.int64)
    places = [place for *place, _ in groups]
    return ParquetTexts(files, columns, places, blocks, KEPT_WINDOWS * window)


def _column(file: str, schema) -> tuple[str, str]:
    from pyarrow import types

    found = [name for name in TEXT_KEYS if name in schema.names]
    if len(found) != 1 or schema.names.count(found[0]) != 1:
        raise ValueError(
            f"{file}: needs exactly one column of {', '.join(TEXT_KEYS)} with texts; its columns "
            f"are {', '.join(schema.names)}"
        )
    kind = schema.field(found[0]).type
    texts = types.is_string, types.is_large_string, types.is_string_view
    if not any(is_text(kind) for is_text in texts):
        raise ValueError(f"{file}: column {found[0]!r} is {kind}; texts are strings")
    return found[0], str(kind)


def _not_empty(text: str, name: str) -> str:
    if not text.strip():
        raise SampleError(f"{name}: the text is empty", "no_text")
    return text
