"""Index of a list of tars: found, or built from the shards that are new or changed."""

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unitok_jax.data.health import Tally
from unitok_jax.data.tars import index_files
from unitok_jax.data.tars.scan import CaptionRule, scan
from unitok_jax.data.tars.shards import Reader, Shard
from unitok_jax.data.workers import end_with_parent, starting
from unitok_jax.system import paths

BESIDE = ".unitok_index"
_FEW = 8  # most shards that are scanned without extra processes
_GUARD = (
    "a script that opens many shards starts processes and needs the usual "
    '`if __name__ == "__main__":`'
)

log = logging.getLogger(__name__)


class Query(NamedTuple):
    """Settings that decide the rows of an index, besides the shards."""

    pattern: str
    rule: CaptionRule
    require_captions: bool

    def name(self, shards: Iterable[Shard] = ()) -> str:
        """Returns a name for the index of this query, or of one state of its shards."""
        pattern = self.pattern
        if not paths.is_remote(pattern):
            pattern = os.path.abspath(paths.expand(pattern))
        parts = [index_files.VERSION, pattern, self.rule, self.require_captions, *shards]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def open_index(
    query: Query, shards: list[Shard], folder: str = ""
) -> tuple[Path, str, index_files.Index]:
    """Opens the index of some shards, built or updated if needed.

    Args:
        query: the other settings that decide its rows.
        shards: in their order.
        folder: `data.index`: the folder of indexes; '' for beside the shards or, if that cannot be
            written, the user's cache folder.

    Returns:
        The folder of this index, the name of its state, and the index.

    Raises:
        ValueError: a shard that is compressed or not a tar; no samples.
        OSError: a shard cannot be read, or no index can be written.
    """
    state = query.name(shards)
    # With a link, possibly shipped with the shards, the sweep would delete files of another folder.
    places = [place / query.name() for place in _places(folder, shards)]
    places = [place for place in places if not (place.is_symlink() or _is_link(place.parent))]
    for place in places:
        index = index_files.find(place, state, shards)
        if index is not None:
            return place, state, index
    # A script without the usual guard runs again in each of its own processes, which would wait for
    # the lock held by the process that waits for them.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(_GUARD)
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        except OSError as error:
            if error.errno not in index_files.NO_WRITING:
                raise
            log.info("no index can be written to %s: %s", place, error)
            continue
        with index_files.lock(place) as alone:
            index = index_files.find(place, state, shards)
            if index is None:  # no other process has built it meanwhile
                if alone:
                    index_files.sweep(place)
                _build(place, state, query, shards)
                index = index_files.find(place, state, shards)
            if index is None:
                raise OSError(f"{place}: the index that was just written cannot be read")
            return place, state, index
    raise OSError(
        "no index of the shards can be written to "
        f"{' or '.join(map(str, _places(folder, shards)))}; set --config.data.index=/a/folder"
    )


def _places(folder: str, shards: list[Shard]) -> list[Path]:
    if paths.is_remote(folder):
        raise ValueError(f"data.index={folder}: indexes are mapped into memory; use a local folder")
    if folder:
        return [paths.expand(folder).absolute()]
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    places = [Path(cache).expanduser() / "unitok_jax" / "index"]
    if not paths.is_remote(shards[0].path):
        places.insert(0, Path(index_files.common_folder(shards) or "/") / BESIDE)
    return places


def _is_link(folder: Path) -> bool:
    return folder.name == BESIDE and folder.is_symlink()


def _build(place: Path, state: str, query: Query, shards: list[Shard]) -> None:
    old = index_files.parts(place)
    fresh = [shard for shard in shards if shard not in old]
    root = index_files.common_folder(shards)
    tally = Tally()
    samples = 0

    def parts():
        nonlocal samples
        scans = _scan_all(fresh, root, query)
        with contextlib.closing(scans):
            for shard in shards:
                rows, left_out = old[shard] if shard in old else next(scans)
                samples += len(rows)
                tally.update([left_out])
                yield rows, left_out
        if not samples:
            raise ValueError(_nothing(query, shards, tally))

    log.info("indexing %d of %d shards in %s", len(fresh), len(shards), place)
    index_files.write(place, state, shards, parts())
    if tally.total:
        log.warning("%d samples of %s are left out:\n%s", tally.total, query.pattern, tally)


def _nothing(query: Query, shards: list[Shard], tally: Tally) -> str:
    where = f"data.path={query.pattern}"
    if not tally.total:
        return f"{where}: all {len(shards)} shards are empty"
    hint = ""
    if tally.counts["duplicate_key"]:
        hint = "\nThe members of one sample must follow each other: pack with `tar --sort=name`"
    elif tally.counts["no_caption"]:
        hint = "\ndata.captions names the extension of the captions, or json:field"
    return f"{where}: none of {len(shards)} shards has a sample that can be used\n{tally}{hint}"


def _scan_all(shards: list[Shard], root: str, query: Query) -> Iterator[tuple[np.ndarray, Tally]]:
    """Yields rows and tallies of shards in their order, scanned in parallel."""
    from tqdm import tqdm

    if not shards:
        return
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if paths.is_remote(shards[0].path) or len(shards) < _FEW:
        count = 4 * cpus if paths.is_remote(shards[0].path) else cpus
        pool = concurrent.futures.ThreadPoolExecutor(min(count, len(shards)))
    else:
        pool = concurrent.futures.ProcessPoolExecutor(
            min(cpus, len(shards) // 4),
            multiprocessing.get_context("spawn"),
            initializer=end_with_parent,
        )
    task = _Task(len(root) + 1, query.rule, query.require_captions)
    try:
        with starting():
            done = pool.map(task, shards)
        for found in tqdm(done, "indexing", len(shards), unit="shard", disable=None):
            for warning in found.warnings:
                log.warning("%s", warning)
            yield found.rows, found.tally
    except BrokenProcessPool as error:
        raise OSError(
            f"the processes that index the shards have ended: too little memory, or {_GUARD}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class _Task(NamedTuple):
    """Scan of one shard, in any thread or process."""

    skip: int  # characters of its path before its name
    rule: CaptionRule
    require_captions: bool

    def __call__(self, shard: Shard):
        reader = Reader(1)
        return scan(
            lambda offset, size: reader.read(shard.path, offset, size),
            shard.path,
            shard.path[self.skip :],
            shard.size,
            self.rule,
            self.require_captions,
        )
