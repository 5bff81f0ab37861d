"""Writing of the features of all captions of a source, shard by shard, continued after a kill."""

import collections
import concurrent.futures
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from unitok_jax.data import health
from unitok_jax.data.formats.array_records import SUFFIX
from unitok_jax.data.health import SampleError, Tally
from unitok_jax.data.records import Source
from unitok_jax.data.text import TextTokenizer
from unitok_jax.data.text_features import COMMAND, FORMAT, VERSION, digests, packed
from unitok_jax.data.writing.folders import (
    MANIFEST,
    all_facts,
    facts_if_whole,
    facts_of,
    probes,
    seal,
    sweep,
    write_json,
    writing,
    written_to,
)
from unitok_jax.system.progress import Progress

_MADE_BY = ("tower", "--precision", "--dtype")  # settings repeated in every shard


def plan(
    data, source: Source, *, shard_size: int, dtype: str, precision: str, tower: dict[str, Any]
) -> dict[str, Any]:
    """Returns every setting that affects the bytes written, as JSON values.

    Args:
        data: the `data` config.
        source: the source that `data` opens.
        shard_size: samples of the source per shard.
        dtype: one of `text_features.DTYPES`.
        precision: name of the precision that the tower computes in.
        tower: 'tower' (its hash), 'text' (`config.model.text`) and 'width' E of its features.
    """
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "data.source": data.source,
        "data.path": data.path,
        "data.captions": data.captions,
        "data.mixture": data.mixture,
        "--shard_size": shard_size,
        "--dtype": dtype,
        "--precision": precision,
        **tower,
        "samples": len(source),
        "records": probes(source),
    }
    return json.loads(json.dumps(settings))


def write(
    source: Source,
    settings: dict[str, Any],
    output: Path,
    encode: Callable[[np.ndarray], np.ndarray],
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
        encode: computes features, float32 (n, E), of token ids (n, L) int32.
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
    size, samples = settings["--shard_size"], len(source)
    every = range(-(-samples // size))
    indices = {number: range(samples)[number * size : (number + 1) * size] for number in every}

    def facts(number):
        found = facts_if_whole(_path(output, number))
        same = found and all(found.get(key) == settings[key] for key in _MADE_BY)
        return found if same else None

    own = {number: facts(number) for number in every[process::processes]}
    missing = collections.deque(number for number, found in own.items() if found is None)
    there = sum(len(indices[number]) for number in own if own[number])
    read = _Reader(source, TextTokenizer(settings["text"]["context_length"]))
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    with Progress(sum(len(indices[number]) for number in own), "sample", there) as progress:
        try:
            ahead = pool.map(read, indices[missing[0]]) if missing else ()
            while missing:
                number, found = missing.popleft(), list(ahead)
                if missing:  # read while the devices compute
                    ahead = pool.map(read, indices[missing[0]])
                own[number] = _write_shard(_path(output, number), settings, found, encode)
                progress.update(len(found))
        finally:
            pool.shutdown(cancel_futures=True)
    shards = all_facts(every, own, facts)
    return _finish(output, settings, shards, getattr(source, "tally", Tally()), max_bad)


class _Reader:
    """Reads the captions at a position: (digests, token ids), or (reason, message) of a bad one."""

    def __init__(self, source: Source, tokenizer: TextTokenizer):
        self._source, self._tokenizer = source, tokenizer

    def __call__(self, index: int) -> tuple:
        try:
            captions = self._source[index]["captions"]
        except SampleError as error:
            return error.reason, str(error)
        except OSError as error:
            return "unreadable", str(error)
        return digests(captions), self._tokenizer(captions)


def _write_shard(
    path: Path, settings: dict[str, Any], samples: Sequence[tuple], encode: Callable
) -> dict[str, Any]:
    """Writes a shard and its facts; returns the facts."""
    from array_record.python.array_record_module import ArrayRecordWriter

    tokens = [second for first, second in samples if not isinstance(first, str)]
    features, start, left_out = _features(tokens, encode), 0, Tally()
    with writing(path) as begun:
        with open(begun, "wb"):  # a folder that cannot be written is an OSError here
            pass
        writer = written_to(path, ArrayRecordWriter, str(begun), "group_size:1,uncompressed")
        for first, second in samples:
            if isinstance(first, str):
                left_out.add(first, second)
                record = {"reason": first}
            else:
                rows = features[start : start + len(first)]
                start += len(first)
                data = packed(rows, settings["--dtype"])
                record = {"captions": first.tobytes(), "features": data}
            written_to(path, writer.write, msgpack.packb(record))
        written_to(path, writer.close)
        sealed = seal(path)
    facts = {
        **sealed,
        "count": len(samples),
        **{key: settings[key] for key in _MADE_BY},
        "skipped": left_out.to_json(),
    }
    write_json(facts_of(path), facts)
    return facts


def _features(tokens: Sequence[np.ndarray], encode: Callable) -> np.ndarray:
    """Computes the features of the captions of some samples, of equal ones once."""
    if not tokens:
        return np.zeros((0, 0), np.float32)
    different, places = np.unique(np.concatenate(tokens), axis=0, return_inverse=True)
    features = encode(different)
    if not np.isfinite(features).all():
        raise ValueError("the text tower's features are not finite: are its weights whole?")
    return features[places.reshape(-1)]


def _finish(output, settings, facts, before: Tally, max_bad: float) -> dict[str, Any]:
    remedy = (
        f"Repair the data and give {COMMAND} another folder, or give the same command with a "
        "larger --config.data.max_bad: what is written stays"
    )
    bound = dict(key="data.max_bad", remedy=remedy)
    skipped = health.left_out(before, facts, settings["samples"], max_bad, **bound)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "skipped": skipped.to_json(),
        "shards": [{k: v for k, v in shard.items() if k != "skipped"} for shard in facts],
    }
    write_json(output / MANIFEST, manifest)
    sweep(output)
    return manifest


def _path(output: Path, number: int) -> Path:
    return output / f"{number:06}{SUFFIX}"
