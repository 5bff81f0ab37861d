"""Facts of the shards of a folder: a JSON file beside each, and the manifest of all.

A shard that has facts is whole: `folders.seal` gave it its name, and the facts came after.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.data import health
from unitok_jax.data.formats.array_records import SUFFIX
from unitok_jax.data.health import Tally
from unitok_jax.data.writing.folders import MANIFEST, sweep, write_json
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.paths import is_regular

_POLL = 0.5  # seconds between checks of the other processes' files
_NOTHING: Mapping[str, Any] = {}


def shards_of(settings: Mapping[str, Any]) -> range:
    """Returns the numbers of all shards."""
    return range(-(-settings["samples"] // settings["--shard_size"]))


def samples_of(settings: Mapping[str, Any], number: int) -> range:
    """Returns the positions of the samples of a shard."""
    size = settings["--shard_size"]
    return range(settings["samples"])[number * size : (number + 1) * size]


def shard_path(output: Path, number: int, suffix: str = SUFFIX) -> Path:
    """Returns the path of shard `number`."""
    return output / f"{number:06}{suffix}"


def facts_of(path: Path) -> Path:
    """Returns the path of the JSON file that describes a shard."""
    return path.with_suffix(".json")


def facts_if_whole(path: Path, made_by: Mapping[str, Any] = _NOTHING) -> dict[str, Any] | None:
    """Returns the facts of a shard; None if it is to be written, once more or for the first time.

    So it is if the shard or its facts are missing or damaged, if its size is another, or if it was
    not `made_by` the same.
    """
    if not (is_regular(path) and is_regular(facts_of(path))):
        return None
    try:
        facts = parse_object(facts_of(path).read_bytes(), str(facts_of(path)))
        Tally.from_json(facts["skipped"])
        file, size, count = facts["file"], facts["bytes"], facts["count"]
        whole = type(facts["sha256"]) is str and type(count) is int and count >= 0
        whole &= (file, size) == (path.name, path.stat().st_size)
        same = all(facts.get(key) == value for key, value in made_by.items())
        return facts if whole and same else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def write_facts(
    path: Path,
    sealed: Mapping[str, Any],
    count: int,
    left_out: Tally,
    more: Mapping[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Writes the facts of a shard; returns them.

    Args:
        path: the shard.
        sealed: the result of `folders.seal`.
        count: number of its records.
        left_out: its samples that could not be used.
        more: facts of this kind of shard, such as what it was made by.
    """
    facts = {**sealed, "count": count, **more, "skipped": left_out.to_json()}
    write_json(facts_of(path), facts)
    return facts


def all_facts(
    numbers: Iterable[int],
    own: Mapping[int, dict[str, Any]],
    find: Callable[[int], dict[str, Any] | None],
) -> list[dict[str, Any]]:
    """Returns the facts of all shards, in order; waits for those that other processes write.

    Args:
        numbers: of all shards.
        own: the facts of this process's shards.
        find: returns the facts of a shard, None while it is not whole.
    """
    found = []
    for number in numbers:  # one check at a time: many processes share the disk
        while (whole := own.get(number) or find(number)) is None:
            time.sleep(_POLL)
        found.append(whole)
    return found


def finish(
    output: Path,
    settings: Mapping[str, Any],
    facts: Sequence[Mapping[str, Any]],
    before: Tally,
    max_bad: float,
    *,
    key: str,
    remedy: str,
    more: Mapping[str, Any] = _NOTHING,
) -> dict[str, Any]:
    """Writes the manifest once all shards are written; returns it.

    Args:
        output: the folder.
        settings: of the folder, with 'format', 'version' and 'samples'.
        facts: the facts of every shard, in order.
        before: samples skipped when the source was opened.
        max_bad: the largest share of the samples that may be skipped.
        key: name of `max_bad`, for the message.
        remedy: what to do about too many, for the message.
        more: entries of this kind of manifest.

    Raises:
        TooManyBadSamples: lists the skipped samples; shards are kept, no manifest is written.
    """
    bound = dict(key=key, remedy=remedy)
    skipped = health.left_out(before, facts, settings["samples"], max_bad, **bound)
    manifest = {
        "format": settings["format"],
        "version": settings["version"],
        "settings": settings,
        **more,
        "count": sum(shard["count"] for shard in facts),
        "skipped": skipped.to_json(),
        "shards": [{k: v for k, v in shard.items() if k != "skipped"} for shard in facts],
    }
    write_json(output / MANIFEST, manifest)
    sweep(output)
    return manifest
