"""The index of tars as files: written whole or not at all, and read a row at a time."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unitok_jax.data.records import NAMES_KEPT, Tally
from unitok_jax.data.shards import Descriptor, Shard
from unitok_jax.data.tar_scan import ROW

VERSION = 2
_UNPACK = struct.Struct("<QIHQIB").unpack  # a ROW
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

log = logging.getLogger(__name__)


class DamagedError(ValueError):
    """An index that is not what was written."""


class Rows:
    """Rows of `tar_scan.ROW` in an .npy file, read when asked for, by many threads at once.

    A map of the file into memory would count as the process's own, all of it after some random
    reads, and end the process if the file went away.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not what `write` has written.
    """

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            (self._length,), _, dtype = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
            size = os.fstat(file.fileno()).st_size
        if dtype != ROW or size != self._start + self._length * ROW.itemsize:
            raise ValueError(f"{path} is cut or of another kind")
        self._file = Descriptor(str(path))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[int, ...]:
        """The fields of row `index`, at least 0."""
        data = os.pread(self._file.number, ROW.itemsize, self._start + index * ROW.itemsize)
        if len(data) != ROW.itemsize:
            raise OSError(f"{self.path} has no row {index}: it was cut")
        return _UNPACK(data)


class Index(NamedTuple):
    """Samples of S shards: `rows`, those of shard s ending at row `ends[s]`."""

    root: str
    names: list[str]  # of the shards, below `root`
    ends: np.ndarray  # (S,) int64
    rows: Rows
    tally: Tally


def common_folder(shards: Iterable[Shard]) -> str:
    """The folder that all shards are below, without a slash at its end."""
    prefix = os.path.commonprefix([os.path.dirname(shard.path) + "/" for shard in shards])
    return prefix.rpartition("/")[0]


def load(place: Path, state: str) -> Index:
    """An index that `open_index` has found or made.

    Raises:
        RuntimeError: it is there no more.
    """
    index = find(place, state)
    if index is None:
        raise RuntimeError(
            f"{place}: the index has changed since the source was opened; start again"
        )
    return index


def write(
    place: Path,
    state: str,
    shards: list[Shard],
    parts: Iterable[tuple[np.ndarray, Tally]],
) -> None:
    """Writes an index whole or not at all; the one before stays readable for who has it open.

    Args:
        place: its folder.
        state: its name, as of `Query.name(shards)`.
        shards: in their order.
        parts: rows and tally of each.
    """
    root = common_folder(shards)
    counts, tallies, names_kept = [], {}, Tally()
    with _replacing(place / f"{state}.npy") as file:
        _write_header(file, 0)
        for number, (rows, tally) in enumerate(parts):
            file.write(np.ascontiguousarray(rows).data)
            counts.append(len(rows))
            if tally.total:
                known = {r: len(names) for r, names in names_kept.names.items()}
                names_kept.update([tally])
                names = {r: names_kept.names[r][known.get(r, 0) :] for r in tally.counts}
                tallies[number] = [dict(tally.counts), names]
        file.seek(0)
        _write_header(file, sum(counts))
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
    with _replacing(place / "index.json") as file:
        file.write(json.dumps(table, separators=(",", ":")).encode())


def find(place: Path, state: str) -> Index | None:
    """The index in a folder, None if it is of another state, damaged or not there."""
    try:
        table, rows, tally = _read(place)
    except (OSError, DamagedError):  # whether it can be written is seen later
        return None
    if table["state"] != state:
        return None
    ends = np.cumsum(np.array(table["counts"], np.int64), dtype=np.int64)
    return Index(table["root"], table["names"], ends, rows, tally)


def _read(place: Path) -> tuple[dict, Rows, Tally]:
    """The table and the rows in a folder, and what all shards have left out."""
    text = (place / "index.json").read_bytes()
    try:
        table = json.loads(text)
        if table["version"] != VERSION:
            raise ValueError(f"version {table['version']} is not {VERSION}")
        rows = Rows(place / f"{table['state']}.npy")
        columns = [table[key] for key in ("names", "sizes", "mtimes_ns", "counts")]
        whole = len(rows) == sum(table["counts"]) and len(set(map(len, columns))) == 1
        if not whole or not isinstance(table["root"], str):
            raise ValueError("its files do not belong together")
        tally = Tally()
        tally.update(_tally(*parts) for parts in table["tallies"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise DamagedError(f"{place}/index.json is damaged: {error!r}") from error
    return table, rows, tally


def parts(place: Path) -> dict[Shard, tuple[np.ndarray, Tally]]:
    """Rows and tally of every shard in the index that is there; of a damaged one, nothing."""
    try:
        table, rows, _ = _read(place)
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        log.warning("%s; all shards are scanned again", error)
        return {}
    array = np.asarray(np.load(rows.path, mmap_mode="r"))
    tallies, found, start = table["tallies"], {}, 0
    columns = (table[key] for key in ("names", "sizes", "mtimes_ns", "counts"))
    for number, (name, size, mtime_ns, count) in enumerate(zip(*columns, strict=True)):
        shard = Shard(f"{table['root']}/{name}", size, mtime_ns)
        found[shard] = array[start : start + count], _tally(*tallies.get(str(number), ({}, {})))
        start += count
    return found


def _tally(counts: dict[str, int], names: dict[str, list[str]]) -> Tally:
    tally = Tally()
    tally.counts.update(counts)
    tally.names = {reason: list(names[reason])[:NAMES_KEPT] for reason in counts}
    return tally


@contextlib.contextmanager
def lock(place: Path):
    """One process at a time makes an index; yields False where the file system has no locks."""
    with open(place / ".lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process makes the index in %s; waiting for it", place)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.info("%s has no locks: several processes may make the index at a time", place)
            yield False
            return
        yield True


def sweep(place: Path) -> None:
    """Removes what a killed process left, and all states but the present."""
    try:
        present = f"{_read(place)[0]['state']}.npy"
    except (FileNotFoundError, DamagedError):
        present = ""
    for path in place.iterdir():
        left = re.fullmatch(r"[0-9a-f]{16}\.npy", path.name) and path.name != present
        if left or path.name.endswith(".new"):
            path.unlink()


@contextlib.contextmanager
def _replacing(path: Path):
    """A new file that takes the place of `path` when all is written."""
    number, new = tempfile.mkstemp(".new", dir=path.parent)
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


def _write_header(file, length: int) -> None:
    # NumPy leaves room for a longer length, so the header can be written again.
    description = np.lib.format.dtype_to_descr(ROW)
    header = {"descr": description, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(file, header)
