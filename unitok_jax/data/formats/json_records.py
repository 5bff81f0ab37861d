"""JSON objects by position: the lines of a .jsonl file, or the items of a list in a .json file."""

import json
import os
from typing import Any

import numpy as np

from unitok_jax.data.formats.folders import MAX_LINE_BYTES
from unitok_jax.data.health import SampleError
from unitok_jax.system.foreign_files import check_file
from unitok_jax.system.foreign_json import parse, parse_object
from unitok_jax.system.passing import with_text
from unitok_jax.system.paths import expand, open_regular, printable

LIST_BYTES = 1 << 33  # size limit of a .json file, which is read as a whole
_BLOCK = 1 << 24  # bytes read at a time


class JsonRecords:
    """Objects of a file, in its order. Threads read concurrently; pickling copies no file.

    Lines of a .jsonl file are read when they are asked for; a .json file is held in memory.

    Args:
        path: of the file.
        spans: int64 (n, 2): where each object begins and ends, in bytes.
        content: the bytes, or None to read them from the file.
    """

    def __init__(self, path: str, spans: np.ndarray, content: bytes | None):
        self.path, self._spans, self._content = path, spans, content

    def __len__(self) -> int:
        return len(self._spans)

    def name(self, index: int) -> str:
        """Returns the name of an object, for messages."""
        return f"{printable(self.path)}, record {index + 1}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns an object.

        Raises:
            IndexError: no object has this index.
            SampleError: not JSON, or a value of another kind.
            OSError: the file cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index}: there are {len(self)}")
        start, end = map(int, self._spans[index])
        if end - start > MAX_LINE_BYTES:
            message = f"{self.name(index)} is longer than {MAX_LINE_BYTES} bytes"
            raise SampleError(message, "bad_record")
        if self._content is None:
            with open_regular(self.path) as file:
                file.seek(start)
                text = file.read(end - start)
        else:
            text = self._content[start:end]
        try:
            return parse_object(text, self.name(index))
        except ValueError as error:
            raise SampleError(str(error), "bad_record") from error


def json_records(path: str, key: str) -> JsonRecords:
    """Opens a .jsonl file, of an object a line, or a .json file, a list of objects.

    Args:
        path: of the file.
        key: of the config, which messages name.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a file of another suffix, that is not whole, or without records.
        OSError: it cannot be read.
    """
    file = expand(path)
    if file.suffix.lower() not in (".jsonl", ".json"):
        raise ValueError(f"{key}={path}: give a .jsonl file, of an object a line, or a .json file")
    try:
        check_file(file)
        read = _lines if file.suffix.lower() == ".jsonl" else _list
        spans, content = read(file)
    except (ValueError, OSError) as error:
        raise with_text(error, f"{key}={path}: {error}") from error
    if not len(spans):
        raise ValueError(f"{key}={path} holds no records")
    return JsonRecords(str(file), spans, content)


def _lines(file) -> tuple[np.ndarray, None]:
    """Finds where the lines of a file begin and end, without empty ones."""
    found, start, last = [np.zeros(1, np.int64)], 0, b"\n"
    with open_regular(file) as opened:
        while block := opened.read(_BLOCK):
            breaks = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            found.append(breaks.astype(np.int64) + start + 1)
            start, last = start + len(block), block[-1:]
    if last != b"\n":
        found.append(np.array([start], np.int64))
    spans = _spans(np.concatenate(found))
    return spans[np.diff(spans)[:, 0] > 2], None


def _list(file) -> tuple[np.ndarray, bytes]:
    size = os.path.getsize(file)
    if size > LIST_BYTES:
        raise ValueError(
            f"{size} bytes are read as a whole, at most {LIST_BYTES}: write a .jsonl file, of an "
            "object a line"
        )
    with open_regular(file) as opened:
        found = parse(opened.read(), printable(file))
    if not isinstance(found, list):
        raise ValueError(f"holds {type(found).__name__}, not a list of objects")
    content = [json.dumps(item).encode() for item in found]
    return _spans(np.cumsum([0, *map(len, content)], dtype=np.int64)), b"".join(content)


def _spans(ends: np.ndarray) -> np.ndarray:
    return np.stack([ends[:-1], ends[1:]], axis=1)
