"""A file of codes: its records, the digests of their keys, and the writing of each format."""

import json
import math
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from unitok_jax.data.codes.views import VIEWS
from unitok_jax.data.formats.array_records import NAME_ERRORS
from unitok_jax.data.formats.shard_names import check_file
from unitok_jax.data.writing.folders import written_to

FORMAT = "unitok_jax.codes"
VERSION = 1
COMMAND = "unitok tokenize"
SUFFIXES = {"array_record": ".array_record", "parquet": ".parquet"}
KEYS = ".keys"  # uint64 digests of a shard's keys, in order
MAX_ROWS = 2**16  # rows of a codebook that a uint16 can number
ROW_GROUP = 256  # records that a reader of Parquet unpacks at a time


def record_shape(settings: dict[str, Any]) -> tuple[int, int, int]:
    """Returns the shape (views, K, N) of a record's codes."""
    return VIEWS[settings["--views"]], settings["num_codebooks"], settings["tokens"]


def pack_record(key: str, label: int | None, captions: Sequence[str], codes, tokenizer) -> bytes:
    """Packs a record of an ArrayRecord shard as bytes."""
    record = {
        "key": key,
        "label": label,
        "captions": list(captions),
        "codes": np.ascontiguousarray(codes, "<u2").tobytes(),
        "tokenizer": tokenizer,
    }
    return msgpack.packb(record, unicode_errors=NAME_ERRORS)


def digest(key: str) -> int:
    """Returns a 64-bit digest of a key."""
    name = key.encode(errors=NAME_ERRORS)
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def digests(path: Path, count: int) -> np.ndarray:
    """Reads the digests of a shard's keys, uint64 (count,); a ValueError for any other number."""
    file = path.with_suffix(KEYS)
    keys, rest = divmod(check_file(file).st_size, 8)
    if keys != count or rest:
        raise ValueError(f"{file} tells of {keys} keys, not {count}; copy it again")
    return np.fromfile(file, "<u8")


class _ArrayRecords:
    def __init__(self, path: Path, settings: dict[str, Any]):
        from array_record.python.array_record_module import ArrayRecordWriter

        self._path, self._tokenizer = path, settings["tokenizer"]
        with open(path, "wb"):  # a folder that cannot be written is an OSError here
            pass
        self._file = written_to(path, ArrayRecordWriter, str(path), "group_size:1,uncompressed")

    def write(self, key, label, captions, codes):
        record = pack_record(key, label, captions, codes, self._tokenizer)
        written_to(self._path, self._file.write, record)

    def close(self):
        written_to(self._path, self._file.close)


class _Parquet:
    def __init__(self, path: Path, settings: dict[str, Any]):
        import pyarrow
        from pyarrow import parquet

        shape = record_shape(settings)
        self._arrow, self._codes = pyarrow, pyarrow.list_(pyarrow.uint16(), math.prod(shape))
        metadata = {
            "unitok_jax": FORMAT,
            "shape": json.dumps(shape),
            "grid": json.dumps(settings["grid"]),
            "tokenizer": settings["tokenizer"],
        }
        self._schema = pyarrow.schema(
            {
                "key": pyarrow.string(),
                "label": pyarrow.int32(),
                "captions": pyarrow.list_(pyarrow.string()),
                "codes": self._codes,
            },
            metadata,
        )
        # Codes repeat too little for a dictionary; zstd finds their unused bits.
        self._file = parquet.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            use_dictionary=False,
            write_page_checksum=True,
        )
        self._rows = []

    def write(self, key, label, captions, codes):
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the key {key!r} is not UTF-8, as Parquet's texts are: rename the file, or give "
                "--format=array_record"
            ) from error
        self._rows.append((key, label, captions, codes))
        if len(self._rows) == ROW_GROUP:
            self._flush()

    def _flush(self):
        keys, labels, captions, codes = zip(*self._rows, strict=True)
        flat = self._arrow.array(np.stack(codes).astype(np.uint16, copy=False).reshape(-1))
        columns = [
            self._arrow.array(keys, self._schema.field("key").type),
            self._arrow.array(labels, self._schema.field("label").type),
            self._arrow.array(captions, self._schema.field("captions").type),
            self._arrow.FixedSizeListArray.from_arrays(flat, type=self._codes),
        ]
        self._file.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))
        self._rows = []

    def close(self):
        if self._rows:
            self._flush()
        self._file.close()


WRITERS = {"array_record": _ArrayRecords, "parquet": _Parquet}
