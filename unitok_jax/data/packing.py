"""Shards of ArrayRecord out of any source, written by several processes; stopped, they go on."""

import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
from ftfy.fixes import fix_surrogates
from tqdm import tqdm

from unitok_jax.data.array_records import FORMAT, MANIFEST, NAME_ERRORS, SETTINGS, SUFFIX, VERSION
from unitok_jax.data.health import TooManyBadSamples
from unitok_jax.data.records import LabelledSource, SampleError, Source, Tally
from unitok_jax.data.transforms import decode_image
from unitok_jax.data.workers import end_with_parent

PARTIAL = ".partial"  # the end of the name of a file that is being written
PROBES = 16  # records that tell a source from another


def plan(data, source: Source, *, shard_size: int, check: bool, require_captions: bool) -> dict:
    """What decides the bytes that are written, as JSON values.

    Args:
        data: the `data` config.
        source: what it opens.
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
        "records": [_probe(source, i * len(source) // PROBES) for i in range(PROBES)],
    }
    if isinstance(source, LabelledSource):
        settings["class_names"] = source.class_names
        settings["class_templates"] = source.class_templates
    return json.loads(json.dumps(settings))


def pack(source: Source, settings: dict, output: Path, *, workers: int, max_bad: float) -> dict:
    """Writes a source as shards and, when all are there, their manifest.

    Shard k holds samples k * shard_size and on, without those that are bad. It is written under
    another name, synced, renamed, and then described by a JSON file: what has one is whole, and is
    not written again.

    Args:
        source: what `settings` were made from.
        settings: what `plan` returned.
        output: a folder that `claim` made.
        workers: processes.
        max_bad: the largest part of the samples that may be left out.

    Returns:
        the manifest.

    Raises:
        TooManyBadSamples: with all that was left out; every shard stays, no manifest is written.
        OSError: writing failed.
    """
    size, samples = settings["--shard_size"], len(source)
    shards = range(-(-samples // size))
    facts = {number: _written(output, number) for number in shards}
    missing = [number for number in shards if facts[number] is None]
    there = samples - sum(min(size, samples - number * size) for number in missing)
    with tqdm(total=samples, initial=there, unit="sample", unit_scale=True) as progress:
        with concurrent.futures.ProcessPoolExecutor(
            min(workers, max(1, len(missing))),
            multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(source, settings, output),
        ) as executor:
            running = {executor.submit(_write_shard, number): number for number in missing}
            try:
                for done in concurrent.futures.as_completed(running):
                    facts[running[done]] = done.result()
                    progress.update(min(size, samples - running[done] * size))
            finally:
                executor.shutdown(wait=False, cancel_futures=True)
    before = getattr(source, "tally", Tally())
    left_out = Tally()
    left_out.update([before, *(Tally.from_json(shard.pop("skipped")) for shard in facts.values())])
    total = samples + before.total
    if left_out.total > max_bad * total:
        raise TooManyBadSamples(
            f"{left_out.total} of {total} samples cannot be used, more than "
            f"data.max_bad={max_bad:g} allows:\n{left_out}\nRepair the source and pack it into "
            "another folder, or give the same command with a larger --config.data.max_bad: what "
            "is written stays"
        )
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "count": sum(shard["count"] for shard in facts.values()),
        "skipped": left_out.to_json(),
        "shards": [facts[number] for number in shards],
    }
    for key in ("class_names", "class_templates"):
        if key in settings:
            manifest[key] = settings[key]
    _write_json(output / MANIFEST, manifest)
    return manifest


def claim(output: Path, settings: dict) -> None:
    """Makes the folder of a packing, or checks that what is in it is the same packing.

    Raises:
        ValueError: it holds something else, or a packing with other settings.
        OSError: it cannot be made.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"--output={output} is not a folder")
    output.mkdir(parents=True, exist_ok=True)
    file = output / SETTINGS
    if not file.is_file():
        strangers = sorted(
            entry.name for entry in output.iterdir() if entry.name != SETTINGS + PARTIAL
        )
        if strangers:
            raise ValueError(
                f"--output={output} is not empty ({', '.join(strangers[:5])}) and holds no "
                f"{SETTINGS}; give an empty folder"
            )
        _write_json(file, settings)
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        if before["format"] != FORMAT:
            raise KeyError(before["format"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} was not written by python -m unitok_jax.data.pack; give an empty folder"
        ) from error
    changed = [
        _difference(key, before.get(key), settings.get(key))
        for key in sorted(set(before) | set(settings))
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise ValueError(
            f"--output={output} was begun with other settings or another source:\n  "
            + "\n  ".join(changed)
            + "\nGive the same again, or another folder"
        )


_job: tuple[Source, dict, Path]  # of a worker process


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = zip(before, now, strict=True)
        before, now = next((old, new) for old, new in pairs if old != new)
    return f"{key}: {before!r:.200} before, {now!r:.200} now"


def _start(source: Source, settings: dict, output: Path) -> None:
    global _job
    _job = source, settings, output
    end_with_parent()


def _write_shard(number: int) -> dict[str, Any]:
    """Writes a shard and its facts; returns them."""
    from array_record.python.array_record_module import ArrayRecordWriter

    source, settings, output = _job
    labelled = "class_names" in settings
    first, size = number * settings["--shard_size"], settings["--shard_size"]
    final = _path(output, number)
    partial = final.with_name(final.name + PARTIAL)
    left_out, labels, count = Tally(), [], 0
    # Images are compressed already: zstd would only take time.
    writer = _written_to(partial, ArrayRecordWriter, str(partial), "group_size:1,uncompressed")
    for index in range(first, min(first + size, len(source))):
        try:
            record = source[index]
            if settings["--check"]:
                decode_image(record["image"], record["name"])
        except SampleError as error:
            left_out.add(error.reason, str(error))
            continue
        except OSError as error:
            left_out.add("unreadable", str(error))
            continue
        record = {key: record[key] for key in ("name", "image", "captions")}
        # JSON can hold half of a pair, which UTF-8 cannot: U+FFFD, as the tokenizer makes of it.
        record["captions"] = [fix_surrogates(caption) for caption in record["captions"]]
        if labelled:
            record["label"] = source.label(index)
            labels.append(record["label"])
        _written_to(partial, writer.write, msgpack.packb(record, unicode_errors=NAME_ERRORS))
        count += 1
    _written_to(partial, writer.close)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    os.replace(partial, final)
    facts = {
        "file": final.name,
        "count": count,
        "bytes": final.stat().st_size,
        "sha256": digest,
        "skipped": left_out.to_json(),
    }
    if labelled:
        facts["labels"] = labels
    _write_json(final.with_suffix(".json"), facts)
    return facts


def _written_to(path: Path, call: Callable, *arguments):
    """What `call` returns; ArrayRecord makes a RuntimeError of a full disk."""
    try:
        return call(*arguments)
    except RuntimeError as error:
        raise OSError(f"{path}: {error}") from error


def _written(output: Path, number: int) -> dict[str, Any] | None:
    """The facts of a shard that is whole."""
    final = _path(output, number)
    try:
        facts = json.loads(final.with_suffix(".json").read_text(encoding="utf-8"))
        return facts if final.stat().st_size == facts["bytes"] else None
    except FileNotFoundError:
        return None


def _path(output: Path, number: int) -> Path:
    return output / f"{number:06}{SUFFIX}"


def _write_json(path: Path, content: dict) -> None:
    partial = path.with_name(path.name + PARTIAL)
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _probe(source: Source, index: int) -> str:
    """A record in few characters."""
    try:
        record = source[index]
    except SampleError as error:
        return error.reason
    except OSError:
        return "unreadable"
    return f"{record['name']} {zlib.crc32(record['image']):08x} {' | '.join(record['captions'])}"
