"""Codes on disk, as `unitok tokenize` writes them: a sequence of records."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from unitok_jax.data.codes.files import (
    COMMAND,
    FORMAT,
    MAX_ROWS,
    ROW_GROUP,
    SUFFIXES,
    VERSION,
    digest,
    digests,
    record_shape,
)
from unitok_jax.data.codes.views import VIEWS
from unitok_jax.data.formats.array_records import NAME_ERRORS, Part, RecordFiles
from unitok_jax.data.formats.cache import Cache
from unitok_jax.data.formats.parquet_groups import arrow_errors, read_group, texts_of
from unitok_jax.data.formats.shard_names import check_file
from unitok_jax.data.writing.facts import facts_of
from unitok_jax.data.writing.folders import MANIFEST, SETTINGS
from unitok_jax.data.writing.manifests import Whole, check_shard, read_manifest
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.paths import expand

MAX_CODES = 2**24  # codes in one record
_TEXTS = ("key", "captions")  # columns of Parquet
_KEPT_GROUPS = 16  # Parquet row groups kept per process: 10 MB each at (10, 8, 256) codes


class CodeRecords(Sequence):
    """Records of codes by position. Threads may read concurrently; data workers may hold a copy.

    A record is {'key': str, 'codes': uint16 (views, K, N), 'label': int or None, 'captions':
    tuple[str, ...], 'grid': (rows, columns)}. A slice is another sequence and reads nothing.

    Attributes:
        manifest: the manifest, a dict.
        paths: of the shards, in the manifest's order.
    """

    def __init__(
        self, manifest: dict[str, Any], shards, rows: Sequence[int], paths: Sequence[Path]
    ):
        self.manifest = manifest
        self._shards, self._rows, self.paths = shards, rows, list(paths)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        return tuple(self.manifest["settings"]["grid"])

    @property
    def codebook_shape(self) -> tuple[int, int]:
        """Number of codebooks K and rows of each V, as (K, V)."""
        settings = self.manifest["settings"]
        return settings["num_codebooks"], settings["codebook_size"]

    @property
    def tokenizer_hash(self) -> str:
        """`Tokenizer.hash` of the tokenizer that made the codes."""
        return self.manifest["settings"]["tokenizer"]

    @property
    def precision(self) -> str:
        """`Tokenizer.precision` of the tokenizer that made the codes."""
        return self.manifest["settings"]["precision"]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        """Returns a record, or the records of a slice.

        Raises:
            IndexError: no record has this index.
            ValueError: the shard differs from its manifest entry.
        """
        if isinstance(index, slice):
            return CodeRecords(self.manifest, self._shards, self._rows[index], self.paths)
        try:
            row = self._rows[index]
        except IndexError as error:
            raise IndexError(f"record {index}: there are {len(self)}") from error
        return {**self._shards[row], "grid": self.grid}

    def take(self, positions: Sequence[int]) -> "CodeRecords":
        """Selects the records at some positions, in their order, without reading any."""
        rows = [self._rows[position] for position in positions]
        return CodeRecords(self.manifest, self._shards, rows, self.paths)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def find(self, key: str) -> int:
        """Finds the position of the record of `key` from the key digests, not from the shards.

        Raises:
            KeyError: no record has this key.
            ValueError, FileNotFoundError: a digest file is damaged or missing.
        """
        wanted, start = digest(key), 0
        for path, shard in zip(self.paths, self.manifest["shards"], strict=True):
            keys = digests(path, shard["count"])
            for row in np.flatnonzero(keys == wanted):
                if start + row in self._rows and self._shards[start + int(row)]["key"] == key:
                    return self._rows.index(start + int(row))
            start += len(keys)
        raise KeyError(key)


def open_codes(path) -> CodeRecords:
    """Opens the codes that `unitok tokenize` wrote.

    Args:
        path: the folder of the codes.

    Raises:
        FileNotFoundError: the folder or a shard is missing.
        ValueError: unfinished or foreign folder, a shard of another size or tokenizer.
    """
    folder = expand(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; {COMMAND} --output={folder} makes one")
    manifest = _manifest(folder)
    settings = manifest["settings"]
    for shard in manifest["shards"]:
        _check(folder / shard["file"], shard, settings)
    rows = range(manifest["count"])
    paths = [folder / shard["file"] for shard in manifest["shards"]]
    return CodeRecords(manifest, records_of(folder, settings, manifest["shards"]), rows, paths)


def records_of(folder: Path, settings: dict[str, Any], shards: Sequence[dict]):
    """Opens shards, described by their facts, as records by position without 'grid'."""
    kind = {"array_record": _ArrayRecords, "parquet": _Parquet}[settings["--format"]]
    return kind(folder, settings, [shard for shard in shards if shard["count"]])


class _ArrayRecords:
    def __init__(self, folder: Path, settings: dict[str, Any], shards: Sequence[dict]):
        parts = [Part(str(folder / s["file"]), s["count"], 0, s["count"]) for s in shards]
        self._files = RecordFiles(parts, "it changed after it was written; copy it again")
        self._shape, self._tokenizer = record_shape(settings), settings["tokenizer"]

    def __getitem__(self, index: int) -> dict[str, Any]:
        packed = self._files[index]
        try:
            record = msgpack.unpackb(packed, unicode_errors=NAME_ERRORS)
            tokenizer = record.pop("tokenizer")
            codes = np.frombuffer(record["codes"], "<u2").reshape(self._shape)
            record["captions"] = tuple(record["captions"])
            texts = all(type(text) is str for text in (record["key"], *record["captions"]))
            if not texts or type(record["label"]) not in (int, type(None)):
                raise TypeError("a value of another type")
        except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
            name = self._files.name(index)
            raise ValueError(f"{name} was not written by {COMMAND}") from error
        if tokenizer != self._tokenizer:
            raise ValueError(_other(self._files.name(index), tokenizer, self._tokenizer))
        # Writable, in native byte order.
        record["codes"] = codes.astype(np.uint16)
        return record


class _Parquet:
    def __init__(self, folder: Path, settings: dict[str, Any], shards: Sequence[dict]):
        self._paths = [folder / shard["file"] for shard in shards]
        self._counts = [shard["count"] for shard in shards]
        self._ends = np.cumsum(self._counts, dtype=np.int64)
        self._shape, self._tokenizer = record_shape(settings), settings["tokenizer"]
        self._groups = Cache(_KEPT_GROUPS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - int(self._ends[shard]) + self._counts[shard]
        group, row = divmod(row, ROW_GROUP)
        table, codes = self._groups.get((shard, group), lambda: self._read(shard, group))
        with _damage(self._paths[shard]):
            ((key,), captions) = (texts_of(table[name][row]) for name in _TEXTS)
        return {
            "key": key,
            "label": table["label"][row].as_py(),
            "captions": tuple(captions),
            "codes": codes[row].copy(),
        }

    def _read(self, shard: int, group: int):
        path, count = str(self._paths[shard]), self._counts[shard]
        rows = min(ROW_GROUP, count - group * ROW_GROUP)
        with _damage(path):
            found, tokenizer, kinds = self._end(path)
        if tokenizer != self._tokenizer:
            raise ValueError(_other(path, tokenizer, self._tokenizer))
        if found != count:
            raise ValueError(
                f"{path} holds {found} records, not {count}: it changed after it was written; copy "
                "it again"
            )
        with _damage(path):
            table = read_group(path, group, rows, kinds, _TEXTS)
            codes = table["codes"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            return table.drop_columns("codes"), codes.reshape(rows, *self._shape)

    def _end(self, path: str) -> tuple[int, str, dict[str, str]]:
        """Reads the record count, the tokenizer, and the column types from the end of a file."""
        from pyarrow import parquet, types

        with parquet.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        kinds = {name: schema.field(name).type for name in (*_TEXTS, "label", "codes")}
        codes, captions = kinds["codes"], kinds["captions"]
        fits = types.is_fixed_size_list(codes) and types.is_uint16(codes.value_type)
        fits = fits and codes.list_size == math.prod(self._shape) and types.is_int32(kinds["label"])
        fits = fits and types.is_list(captions) and types.is_string(captions.value_type)
        if not fits or not types.is_string(kinds["key"]):
            raise ValueError(f"its columns are {schema.names} of other types")
        tokenizer = (schema.metadata or {}).get(b"tokenizer", b"none").decode()
        return rows, tokenizer, {name: str(kind) for name, kind in kinds.items()}


@contextlib.contextmanager
def _damage(path) -> Iterator[None]:
    """Turns Arrow's errors in the block into errors of a damaged file, except disk errors."""
    try:
        with arrow_errors("Parquet"):
            yield
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None):
            raise
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        if (folder / SETTINGS).is_file():
            raise ValueError(
                f"{folder} is not finished: it has no {MANIFEST}. Give the same command again, "
                f"with the settings in {folder / SETTINGS}"
            )
        raise ValueError(f"{folder} holds no codes: it has no {MANIFEST}, which {COMMAND} writes")
    manifest = read_manifest(file, FORMAT, VERSION, COMMAND)
    whole = Whole(file, COMMAND)
    settings = whole.get(manifest, "settings", dict)
    whole.get(settings, "tokenizer", str)
    for key, values in (("--format", SUFFIXES), ("--views", VIEWS)):
        whole.check(whole.get(settings, key, str) in values, f"{key!r} is none of {[*values]}")
    whole.number(settings, "num_codebooks", 1, MAX_CODES)
    whole.number(settings, "codebook_size", 1, MAX_ROWS)
    whole.number(settings, "tokens", 1, MAX_CODES)
    whole.check(math.prod(record_shape(settings)) <= MAX_CODES, "its records are too large")
    grid = whole.get(settings, "grid", list)
    fits = len(grid) == 2 and all(type(n) is int and 0 < n <= MAX_CODES for n in grid)
    whole.check(fits, "'grid' is not two numbers of tokens")
    views = VIEWS[settings["--views"]]
    whole.number(manifest, "views", views, views)
    count = sum(shard["count"] for shard in manifest["shards"])
    whole.number(manifest, "count", count, count)
    for shard in manifest["shards"]:
        whole.get(shard, "sha256", str)
    return manifest


def _check(path: Path, shard: dict[str, Any], settings: dict[str, Any]) -> None:
    check_shard(path, shard)
    if not facts_of(path).exists():
        return  # the records name their tokenizer, too
    check_file(facts_of(path))
    try:
        facts = parse_object(facts_of(path).read_bytes(), str(facts_of(path)))
        tokenizer, sha256 = facts["tokenizer"], facts["sha256"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{facts_of(path)} is damaged ({error}); copy it again") from error
    if tokenizer != settings["tokenizer"]:
        raise ValueError(_other(path, tokenizer, settings["tokenizer"]))
    if sha256 != shard["sha256"]:
        raise ValueError(f"{path} is another than {MANIFEST} names; copy it again")


def _other(path, found: str, expected: str) -> str:
    return (
        f"{path} was made by another tokenizer (hash {found}) than {MANIFEST} says ({expected}); "
        "copy the right one there"
    )
