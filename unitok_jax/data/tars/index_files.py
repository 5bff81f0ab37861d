"""Index of tars as files: written whole or not at all, and read a row at a time."""

import contextlib
import errno
import io
import json
import logging
import os
import re
import struct
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unitok_jax.data.health import Tally
from unitok_jax.data.tars.scan import ROW
from unitok_jax.data.tars.shards import Descriptor, Shard
from unitok_jax.system import locks
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.paths import is_regular

VERSION = 2
_UNPACK = struct.Struct("<QIHQIB").unpack  # a ROW
NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP)
_NEW = "index-"  # name prefix of a file being written
_STATE = re.compile("[0-9a-f]{16}")
_KEPT = 7 * 24 * 3600  # seconds that a state stays after its last use

log = logging.getLogger(__name__)


class DamagedError(ValueError):
    """The index differs from what was written."""


class Rows:
    """Rows of `scan.ROW` in an .npy file, read on access, by many threads at once.

    A memory map of the file would count as the process's memory, all of it after some random
    reads, and crash the process if the file vanished.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: the file differs from what `write` writes.
    """

    def __init__(self, path: Path):
        self.path = path
        self._start = len(_header(0))
        with open(path, "rb") as file:
            begin, size = file.read(self._start), os.fstat(file.fileno()).st_size
        self._length = (size - self._start) // ROW.itemsize
        # Only the exact header for this number of rows is accepted; no header is parsed.
        if size != self._start + self._length * ROW.itemsize or begin != _header(self._length):
            raise ValueError(f"{path} is cut or of another kind")
        self._file = Descriptor(str(path))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[int, ...]:
        """Returns the fields of row `index`, at least 0."""
        data = os.pread(self._file.number, ROW.itemsize, self._start + index * ROW.itemsize)
        if len(data) != ROW.itemsize:
            raise OSError(f"{self.path} has no row {index}: it was cut")
        return _UNPACK(data)


class Index(NamedTuple):
    """Samples of S shards: `rows`, in which those of shard s end at row `ends[s]`."""

    root: str
    names: list[str]  # of the shards, below `root`
    sizes: list[int]  # of the shards in bytes
    ends: np.ndarray  # (S,) int64
    rows: Rows
    tally: Tally


def common_folder(shards: Iterable[Shard]) -> str:
    """Returns the folder that all shards are below, without a trailing slash."""
    prefix = os.path.commonprefix([os.path.dirname(shard.path) + "/" for shard in shards])
    return prefix.rpartition("/")[0]


def load(place: Path, state: str) -> Index:
    """Loads an index that `open_index` has found or built.

    Raises:
        OSError: the index no longer exists.
    """
    index = find(place, state)
    if index is None:
        raise OSError(
            f"{place}: the index of the tars was deleted since they were opened; start again"
        )
    return index


def write(
    place: Path,
    state: str,
    shards: list[Shard],
    parts: Iterable[tuple[np.ndarray, Tally]],
) -> None:
    """Writes an index whole or not at all, beside those of other states.

    Args:
        place: the folder of the index.
        state: the name of the state, from `Query.name(shards)`.
        shards: in their order.
        parts: rows and tally of each.
    """
    root = common_folder(shards)
    counts, tallies, names_kept = [], {}, Tally()
    with _replacing(place / f"{state}.npy") as file:
        file.write(_header(0))
        for number, (rows, tally) in enumerate(parts):
            file.write(np.ascontiguousarray(rows).data)
            counts.append(len(rows))
            if tally.total:
                known = {r: len(names) for r, names in names_kept.names.items()}
                names_kept.update([tally])
                names = {r: names_kept.names[r][known.get(r, 0) :] for r in tally.counts}
                tallies[number] = [dict(tally.counts), names]
        file.seek(0)
        file.write(_header(sum(counts)))
    table = {
        "version": VERSION,
        "state": state,
        "root": root,
        "names": [shard.path[len(root) + 1 :] for shard in shards],
        "sizes": [shard.size for shard in shards],
        "mtimes_ns": [shard.mtime_ns for shard in shards],
        "counts": counts,
        "tallies": tallies,
    }
    with _replacing(place / f"{state}.json") as file:
        file.write(json.dumps(table, separators=(",", ":")).encode())


def find(place: Path, state: str, shards: Iterable[Shard] | None = None) -> Index | None:
    """Returns the index of a state, marked as used; None if damaged or missing.

    Args:
        place: the folder, untrusted: it may have come with the shards.
        state: from `Query.name(shards)`.
        shards: the shards it must list: no other file name is accepted from it.
    """
    try:
        table, rows, tally = _read(place, state)
        if shards is not None and list(shards) != _shards(table):
            return None
        _mark_used(rows.path)
    except (OSError, DamagedError):  # writability is tested later
        return None
    ends = np.cumsum(np.array(table["counts"], np.int64), dtype=np.int64)
    return Index(table["root"], table["names"], table["sizes"], ends, rows, tally)


def _mark_used(path: Path) -> None:
    """Sets the time of a state's rows, which `sweep` reads; the table's time stays."""
    try:
        os.utime(path)
    except OSError as error:
        if error.errno not in NO_WRITING:
            raise
        log.debug("%s cannot be marked as used: %s", path, error)


def _last(place: Path) -> str:
    """Returns the state that was written last, '' for none."""
    tables = sorted(place.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return tables[-1].stem if tables else ""


def _read(place: Path, state: str) -> tuple[dict, Rows, Tally]:
    """Reads the table and the rows of a state, and the tally of all shards."""
    path = place / f"{state}.json"
    for file in (path, path.with_suffix(".npy")):
        if os.path.lexists(file) and not is_regular(file):  # reading a pipe would block
            raise DamagedError(f"{file} is no file")
    text = path.read_bytes()
    try:
        table = parse_object(text, str(path))
        if table["version"] != VERSION:
            raise ValueError(f"version {table['version']!r:.40} is not {VERSION}")
        rows = Rows(place / f"{state}.npy")
        _check(table)
        if len(rows) != sum(table["counts"]) or table["state"] != state:
            raise ValueError("its files do not belong together")
        tally = Tally()
        tally.update(_tally(*parts) for parts in table["tallies"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise DamagedError(f"{path} is damaged: {error!r:.300}") from error
    return table, rows, tally


def _shards(table: dict) -> list[Shard]:
    columns = (table[key] for key in ("names", "sizes", "mtimes_ns"))
    return [Shard(f"{table['root']}/{name}", *facts) for name, *facts in zip(*columns, strict=True)]


def _check(table: dict) -> None:
    """Raises a ValueError or TypeError if a table's columns differ from those `write` writes."""
    columns = [table[key] for key in ("names", "sizes", "mtimes_ns", "counts")]
    if len(set(map(len, columns))) != 1:
        raise ValueError("its columns have different lengths")
    texts = [table["root"], *table["names"]]
    if not all(type(text) is str for text in texts):
        raise TypeError("a name is no text")
    for key, lowest in (("sizes", 0), ("mtimes_ns", -(2**63)), ("counts", 0)):
        if not all(type(number) is int and lowest <= number < 2**63 for number in table[key]):
            raise ValueError(f"{key} are no numbers of 63 bits")


def parts(place: Path) -> dict[Shard, tuple[np.ndarray, Tally]]:
    """Returns rows and tally of every shard in the last index; of a damaged one, nothing."""
    last = _last(place)
    if not last:
        return {}
    try:
        table, rows, _ = _read(place, last)
    except DamagedError as error:
        log.warning("%s; all shards are scanned again", error)
        return {}
    array = np.asarray(np.load(rows.path, mmap_mode="r"))
    tallies, found, start = table["tallies"], {}, 0
    for number, (shard, count) in enumerate(zip(_shards(table), table["counts"], strict=True)):
        found[shard] = array[start : start + count], _tally(*tallies.get(str(number), ({}, {})))
        start += count
    return found


def _tally(counts: dict[str, int], names: dict[str, list[str]]) -> Tally:
    found = {reason: {"count": counts[reason], "first": names[reason]} for reason in counts}
    return Tally.from_json(found)


@contextlib.contextmanager
def lock(place: Path):
    """Locks an index so that one process builds it; yields False if locks are unsupported."""
    path = place / ".lock"
    if os.path.lexists(path) and not is_regular(path):  # reading a pipe would block
        raise OSError(f"{path} is no file; remove it")
    with open(path, "ab") as file:
        try:
            is_locked = locks.lock(file)
        except BlockingIOError:
            log.info("another process makes the index in %s; waiting for it", place)
            is_locked = locks.lock(file, wait=True)
        if not is_locked:
            log.info("%s has no locks: several processes may make the index at a time", place)
        yield is_locked


def sweep(place: Path) -> None:
    """Removes remains of killed processes, and states that were not opened for a week.

    A run keeps the state that it has opened when shards are added, and each of its worker
    processes, on any host, opens that state again. The state written last stays, and so do files
    of other names.
    """
    for path in place.glob(f"{_NEW}*.new"):
        path.unlink()
    last, oldest = _last(place), time.time() - _KEPT
    for rows in place.glob("*.npy"):
        if not _STATE.fullmatch(rows.stem):
            continue
        table = rows.with_suffix(".json")
        if not table.exists() or rows.stem != last and rows.stat().st_mtime < oldest:
            table.unlink(missing_ok=True)
            rows.unlink()


@contextlib.contextmanager
def _replacing(path: Path):
    """Yields a new file that replaces `path` when the block succeeds."""
    number, new = tempfile.mkstemp(".new", _NEW, dir=path.parent)
    try:
        with open(number, "wb") as file:
            os.fchmod(number, 0o644)
            yield file
            file.flush()
            os.fsync(number)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def _header(length: int) -> bytes:
    """Returns the header of an .npy file of rows, padded by NumPy to one size for all lengths."""
    file = io.BytesIO()
    description = np.lib.format.dtype_to_descr(ROW)
    header = {"descr": description, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()
