"""Packing of any source into ArrayRecord shards, by several processes, resumable."""

import concurrent.futures
import json
import multiprocessing
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from ftfy.fixes import fix_surrogates

from unitok_jax.data.formats.array_records import FORMAT, NAME_ERRORS, SHAPES, VERSION
from unitok_jax.data.health import SampleError, Tally
from unitok_jax.data.images.transforms import decode_image, upright_shape
from unitok_jax.data.patience import read_for_good
from unitok_jax.data.records import LabelledSource, Source
from unitok_jax.data.workers import end_with_parent, starting
from unitok_jax.data.writing.facts import (
    facts_if_whole,
    finish,
    samples_of,
    shard_path,
    shards_of,
    write_facts,
)
from unitok_jax.data.writing.folders import probes, seal, write_bytes, writing, written_to
from unitok_jax.system.progress import Progress


def plan(data, source: Source, *, shard_size: int, check: bool, require_captions: bool) -> dict:
    """Returns every setting that affects the bytes written, as JSON values.

    Args:
        data: the `data` config.
        source: the source that `data` opens.
        shard_size: samples of the source per shard.
        check: whether every image is decoded.
        require_captions: as in `open_source`.
    """
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "data.source": data.source,
        "data.path": data.path,
        "data.captions": data.captions,
        "data.mixture": data.mixture,
        "--shard_size": shard_size,
        "--check": check,
        "--require_captions": require_captions,
        "samples": len(source),
        "records": probes(source),
    }
    if isinstance(source, LabelledSource):
        settings["class_names"] = source.class_names
        settings["class_templates"] = source.class_templates
    return json.loads(json.dumps(settings))


def pack(source: Source, settings: dict, output: Path, *, workers: int, max_bad: float) -> dict:
    """Writes a source as shards and, once all are written, their images' shapes and manifest.

    Shard k holds samples k * shard_size and on, without those that are bad.

    Args:
        source: the source that `settings` were made from.
        settings: the result of `plan`.
        output: a folder that `claim` made.
        workers: number of processes.
        max_bad: the largest share of the samples that may be skipped.

    Returns:
        the manifest.

    Raises:
        TooManyBadSamples: lists the skipped samples; shards are kept, no manifest is written.
        OSError: writing failed.
    """
    facts, shapes = {}, {}

    def take(number, found):
        shapes[number] = np.array(found.pop("shapes"), "<i4").reshape(-1, 2)
        facts[number] = found

    for number in shards_of(settings):
        if found := _facts_if_whole(shard_path(output, number)):
            take(number, found)
    missing = [number for number in shards_of(settings) if number not in facts]
    there = len(source) - sum(len(samples_of(settings, number)) for number in missing)
    with Progress(len(source), "sample", there) as progress:
        with concurrent.futures.ProcessPoolExecutor(
            min(workers, max(1, len(missing))),
            multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(source, settings, output),
        ) as executor:
            others = set(multiprocessing.active_children())
            with starting():
                running = {executor.submit(_write_shard, number): number for number in missing}
            try:
                for done in concurrent.futures.as_completed(running):
                    take(running[done], done.result())
                    progress.update(len(samples_of(settings, running[done])))
            except KeyboardInterrupt:
                for worker in set(multiprocessing.active_children()) - others:
                    worker.terminate()  # unfinished shards are written again
                raise
            finally:
                executor.shutdown(wait=False, cancel_futures=True)
    before = getattr(source, "tally", Tally())
    remedy = (
        "Repair the source and pack it into another folder, or give the same command with a "
        "larger --config.data.max_bad: what is written stays"
    )
    whole = np.concatenate([np.zeros((0, 2), "<i4"), *(shapes[n] for n in shards_of(settings))])
    write_bytes(output / SHAPES, whole.tobytes())
    more = {key: settings[key] for key in ("class_names", "class_templates") if key in settings}
    bound = dict(key="data.max_bad", remedy=remedy, more=more)
    every = [facts[number] for number in shards_of(settings)]
    return finish(output, settings, every, before, max_bad, **bound)


_job: tuple[Source, dict, Path]  # the job of a worker process


def _start(source: Source, settings: dict, output: Path) -> None:
    global _job
    _job = source, settings, output
    end_with_parent()


def _write_shard(number: int) -> dict[str, Any]:
    """Writes a shard and its facts; returns the facts."""
    from array_record.python.array_record_module import ArrayRecordWriter

    source, settings, output = _job
    labelled = "class_names" in settings
    final = shard_path(output, number)
    left_out, labels, shapes, count = Tally(), [], [], 0
    with writing(final) as path:
        # Images are compressed already: zstd would only cost time.
        writer = written_to(path, ArrayRecordWriter, str(path), "group_size:1,uncompressed")
        for index in samples_of(settings, number):
            try:
                record = read_for_good(source, index)
                if settings["--check"]:
                    decode_image(record["image"], record["name"])
            except SampleError as error:
                left_out.add(error.reason, str(error))
                continue
            record = {key: record[key] for key in ("name", "image", "captions")}
            # JSON may hold a lone surrogate, which UTF-8 cannot encode: U+FFFD, as the tokenizer.
            record["captions"] = [fix_surrogates(caption) for caption in record["captions"]]
            if labelled:
                record["label"] = source.label(index)
                labels.append(record["label"])
            shapes.append(upright_shape(record["image"]))
            written_to(path, writer.write, msgpack.packb(record, unicode_errors=NAME_ERRORS))
            count += 1
        written_to(path, writer.close)
        sealed = seal(final)
    more = {"shapes": shapes} | ({"labels": labels} if labelled else {})
    return write_facts(final, sealed, count, left_out, more)


def _facts_if_whole(path: Path) -> dict[str, Any] | None:
    """Returns the facts of a shard; None too if they are of a version that noted no shapes."""
    facts = facts_if_whole(path)
    return facts if facts and len(facts.get("shapes", ())) == facts["count"] else None
