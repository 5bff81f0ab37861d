"""Writing of features for all samples of a source, shard by shard, continued after a kill."""

import collections
import concurrent.futures
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from unitok_jax.data.features import Kind
from unitok_jax.data.health import SampleError, Tally
from unitok_jax.data.patience import read_for_good
from unitok_jax.data.records import Source
from unitok_jax.data.writing.facts import (
    all_facts,
    facts_if_whole,
    finish,
    samples_of,
    shard_path,
    shards_of,
    write_facts,
)
from unitok_jax.data.writing.folders import probes, seal, writing, written_to
from unitok_jax.system.progress import Progress


class Work(NamedTuple):
    """How the records of one kind are made."""

    kind: Kind
    read: Callable[[dict], Any]  # takes what is needed of a sample; called by several threads
    encode: Callable[[Sequence[Any]], Iterable[dict]]  # returns the records of what was read
    at_once: int | None = None  # most samples that `encode` takes; None: those of a shard


def plan(
    kind: Kind, data, source: Source, *, shard_size: int, precision: str, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns every setting that affects the bytes written, as JSON values.

    Args:
        kind: of the features.
        data: the `data` config.
        source: the source that `data` opens.
        shard_size: samples of the source per shard.
        precision: name of the precision that the network computes in.
        more: settings of this kind.

    Raises:
        ValueError: no samples in a shard.
    """
    if shard_size < 1:
        raise ValueError(f"--shard_size={shard_size} must be at least 1 sample")
    settings = {
        "format": kind.format,
        "version": kind.version,
        "data.source": data.source,
        "data.path": data.path,
        "data.captions": data.captions,
        "data.mixture": data.mixture,
        "--shard_size": shard_size,
        "--precision": precision,
        **more,
        "samples": len(source),
        "records": probes(source),
    }
    return json.loads(json.dumps(settings))


def write(
    source: Source,
    settings: dict[str, Any],
    output: Path,
    work: Work,
    *,
    threads: int,
    max_bad: float,
    process: int = 0,
    processes: int = 1,
) -> dict[str, Any]:
    """Writes this process's shards, and the manifest once all are written; otherwise waits for it.

    Args:
        source: the source that `settings` were made from.
        settings: the result of `plan`.
        output: a folder that `claim` made for these settings.
        work: makes the records.
        threads: number of threads that read.
        max_bad: the largest share of the samples that may be skipped.
        process, processes: shards process, process + processes, ... are this process's.

    Returns:
        the manifest.

    Raises:
        TooManyBadSamples: lists the skipped samples; shards are kept, no manifest is written.
        ValueError: a feature is not finite.
        OSError: writing failed.
    """
    made_by, every = {key: settings[key] for key in work.kind.made_by}, shards_of(settings)

    def facts(number):
        return facts_if_whole(shard_path(output, number), made_by)

    own = {number: facts(number) for number in every[process::processes]}
    missing = [number for number, found in own.items() if found is None]
    pieces = [piece for number in missing for piece in _pieces(settings, number, work.at_once)]
    there = sum(len(samples_of(settings, number)) for number in own if own[number])
    total = sum(len(samples_of(settings, number)) for number in own)
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    with Progress(total, "sample", there) as progress:
        try:
            reading = _ahead(pool, functools.partial(_read, source, work.read), pieces)
            for number in missing:
                path, count = shard_path(output, number), len(samples_of(settings, number))
                own[number] = _write_shard(path, made_by, count, reading, work, progress)
        finally:
            pool.shutdown(cancel_futures=True)
    remedy = (
        f"Repair the data and give {work.kind.command} another folder, or give the same command "
        "with a larger --config.data.max_bad: what is written stays"
    )
    before, bound = getattr(source, "tally", Tally()), dict(key="data.max_bad", remedy=remedy)
    return finish(output, settings, all_facts(every, own, facts), before, max_bad, **bound)


def of_different(encode: Callable[[np.ndarray], np.ndarray], rows: Sequence[np.ndarray]):
    """Computes features of several arrays of rows, of equal rows once.

    Args:
        encode: computes features (n, ...) of rows (n, L).
        rows: arrays (n, L), at least one.

    Returns:
        An array (n, ...) of features for each of them.
    """
    different, places = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    ends = np.cumsum([len(each) for each in rows])[:-1]
    return np.split(encode(different)[places.reshape(-1)], ends)


def _pieces(settings, number: int, at_once: int | None) -> list[range]:
    samples = samples_of(settings, number)
    size = at_once or len(samples)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _ahead(pool, read: Callable, pieces: Sequence[range]) -> Iterator[list]:
    """Yields what was read of each piece; the next is read while the devices compute."""
    waiting = collections.deque()
    for piece in pieces:
        waiting.append(pool.map(read, piece))
        if len(waiting) == 2:
            yield list(waiting.popleft())
    if waiting:
        yield list(waiting.popleft())


def _read(source: Source, read: Callable, index: int) -> tuple[str, str] | tuple[None, Any]:
    """Reads the sample at a position: (None, what was read), or (reason, message) of a bad one."""
    try:
        return None, read(read_for_good(source, index))
    except SampleError as error:
        return error.reason, str(error)


def _write_shard(path: Path, made_by, count: int, reading: Iterator, work: Work, progress) -> dict:
    """Writes a shard of the next `count` samples, and its facts; returns the facts."""
    from array_record.python.array_record_module import ArrayRecordWriter

    left_out, written = Tally(), 0
    with writing(path) as begun:
        with open(begun, "wb"):  # a folder that cannot be written is an OSError here
            pass
        writer = written_to(path, ArrayRecordWriter, str(begun), "group_size:1,uncompressed")
        while written < count:
            samples = next(reading)
            good = [found for reason, found in samples if reason is None]
            records = iter(work.encode(good) if good else ())
            for reason, message in samples:
                if reason is not None:
                    left_out.add(reason, message)
                record = next(records) if reason is None else {"reason": reason}
                written_to(path, writer.write, msgpack.packb(record))
            written += len(samples)
            progress.update(len(samples))
        written_to(path, writer.close)
        sealed = seal(path)
    return write_facts(path, sealed, count, left_out, made_by)
