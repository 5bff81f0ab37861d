"""Shards of codes: planning, writing with keys and facts, and the manifest of all shards."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ftfy.fixes import fix_surrogates

from unitok_jax.data.codes.files import (
    FORMAT,
    KEYS,
    MAX_ROWS,
    SUFFIXES,
    VERSION,
    WRITERS,
    digest,
    digests,
)
from unitok_jax.data.codes.records import records_of
from unitok_jax.data.codes.views import VIEWS
from unitok_jax.data.health import Tally
from unitok_jax.data.records import LabelledSource, Source
from unitok_jax.data.writing import facts as shard_files
from unitok_jax.data.writing.folders import MANIFEST, probes, seal, write_bytes, writing
from unitok_jax.system.foreign_json import parse_object

MADE_BY = ("tokenizer", "precision")  # settings repeated in every shard: sets never mix


def plan(
    source: Source,
    data,
    *,
    storage: str,
    shard_size: int,
    views: str,
    crop_scale: float,
    tokenizer: dict[str, Any],
) -> dict[str, Any]:
    """Returns every setting that affects the bytes written, as JSON values.

    Args:
        source: the source that `data` opens.
        data: the `data` config.
        storage: one of `SUFFIXES`.
        shard_size: samples of the source per shard.
        views, crop_scale: as in `views.views`.
        tokenizer: 'tokenizer' (its hash), 'precision', 'grid' (rows, columns), 'num_codebooks' K,
            'codebook_size' V, 'tokens' N, and any other setting that affects codes.

    Raises:
        ValueError: codes that 16 bits cannot hold, or a value out of its range.
    """
    if shard_size < 1:
        raise ValueError(f"--shard_size={shard_size} must be at least 1 sample")
    if not 1 <= crop_scale <= 8:
        raise ValueError(f"--crop_scale={crop_scale} must be in 1..8")
    if tokenizer["codebook_size"] > MAX_ROWS:
        raise ValueError(
            f"the tokenizer's codebooks have {tokenizer['codebook_size']} rows; codes are stored "
            f"as uint16, which names {MAX_ROWS}"
        )
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "--format": storage,
        "--data": f"{data.source}:{data.path}",
        "--captions": data.captions,
        "--shard_size": shard_size,
        "--size": list(data.image_size),
        "--views": views,
        "--crop_scale": crop_scale if views == "ten" else None,
        **tokenizer,
        "samples": len(source),
        "records": probes(source),
    }
    if isinstance(source, LabelledSource):
        settings["class_names"] = source.class_names
    return json.loads(json.dumps(settings))


def shard_path(output: Path, settings: dict[str, Any], number: int) -> Path:
    """Returns the path of shard `number`."""
    return shard_files.shard_path(output, number, SUFFIXES[settings["--format"]])


def shard_facts(output: Path, settings: dict[str, Any], number: int) -> dict[str, Any] | None:
    """Returns the facts of a complete shard of this tokenizer and precision, else None."""
    path = shard_path(output, settings, number)
    facts, keys = shard_files.facts_if_whole(path, _made_by(settings)), path.with_suffix(KEYS)
    if facts is None or not keys.is_file() or keys.stat().st_size != 8 * facts["count"]:
        return None
    return facts


def write_shard(
    output: Path, settings: dict[str, Any], number: int, batches: Iterable[tuple]
) -> dict[str, Any]:
    """Writes a shard, the digests of its keys, and its facts; returns the facts.

    Args:
        batches: (facts of samples as `ShardedViews.stream` yields them, uint16 (n, views, K, N)).

    Raises:
        ValueError: a key is repeated, or cannot be written.
    """
    path = shard_path(output, settings, number)
    left_out, keys = Tally(), {}
    with writing(path) as begun:
        writer = WRITERS[settings["--format"]](begun, settings)
        for samples, codes in batches:
            for sample, row in zip(samples, codes, strict=True):
                if sample is None:
                    continue
                if "reason" in sample:
                    left_out.add(sample["reason"], sample["message"])
                    continue
                key = sample["name"]
                if key in keys:
                    raise ValueError(_twice(key, path.name, path.name))
                keys[key] = None
                # JSON may hold a lone surrogate, which UTF-8 cannot encode.
                captions = [fix_surrogates(caption) for caption in sample["captions"]]
                writer.write(key, sample.get("label"), captions, row)
        writer.close()
        digests = np.fromiter(map(digest, keys), np.uint64, len(keys))
        write_bytes(path.with_suffix(KEYS), digests.astype("<u8").tobytes())
        sealed = seal(path)
    return shard_files.write_facts(path, sealed, len(keys), left_out, _made_by(settings))


def finish(
    output: Path, settings: dict[str, Any], facts: Sequence[dict], before: Tally, max_bad: float
) -> dict[str, Any]:
    """Writes the manifest once all shards are written; returns it.

    Args:
        facts: the facts of every shard, in order.
        before: samples skipped when the source was opened.
        max_bad: the largest share of the samples that may be skipped.

    Raises:
        TooManyBadSamples: lists the skipped samples; shards are kept, no manifest is written.
        ValueError: a key is repeated.
    """
    remedy = (
        "Give the same command with a larger --max_bad: what is written stays; or repair the "
        "source and tokenize it into another folder"
    )
    _check_keys(output, settings, facts)
    more = {"views": VIEWS[settings["--views"]]}
    bound = dict(key="--max_bad", remedy=remedy, more=more)
    return shard_files.finish(output, settings, facts, before, max_bad, **bound)


def is_finished(output: Path, settings: dict[str, Any]) -> bool:
    """Returns True if the manifest and its files exist and match these settings."""
    try:
        manifest = parse_object((output / MANIFEST).read_bytes(), MANIFEST)
        found = manifest["settings"], [shard["sha256"] for shard in manifest["shards"]]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False  # missing or damaged: the manifest is rewritten
    facts = (shard_facts(output, settings, number) for number in shard_files.shards_of(settings))
    return found == (settings, [shard and shard["sha256"] for shard in facts])


def _made_by(settings):
    return {key: settings.get(key) for key in MADE_BY}


def _check_keys(output: Path, settings: dict[str, Any], facts: Sequence[dict]) -> None:
    paths = [output / shard["file"] for shard in facts]
    counts = [shard["count"] for shard in facts]
    all_digests = np.concatenate([np.zeros(0, np.uint64), *map(digests, paths, counts)])
    order = np.argsort(all_digests, kind="stable")
    ordered = all_digests[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(again):
        return
    records, ends = records_of(output, settings, facts), np.cumsum(counts)
    for place in again:
        first, second = (int(order[place + step]) for step in (0, 1))
        if records[first]["key"] == records[second]["key"]:  # digests may collide
            files = [paths[np.searchsorted(ends, i, side="right")].name for i in (first, second)]
            raise ValueError(_twice(records[first]["key"], *files))


def _twice(key: str, first: str, second: str) -> str:
    where = f"in {first}" if first == second else f"in {first} and {second}"
    return (
        f"the key {key!r} comes twice ({where}), and would not tell which codes are whose; give "
        "the samples different names and tokenize into another folder"
    )
