"""Manifests of folders of shards: read, and validated before use."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unitok_jax.data.formats.shard_names import check_file, inside
from unitok_jax.data.writing.folders import MANIFEST
from unitok_jax.system.foreign_json import parse_object

MAX_COUNT = 2**48  # limit on records or bytes


def read_manifest(file: Path, kind: str, version: int, command: str) -> dict[str, Any]:
    """Reads the manifest of a folder.

    Args:
        file: an existing file.
        kind, version: the required 'format' and 'version'.
        command: the command that writes such folders.

    Returns:
        An object whose 'shards' are objects of {'file': str, 'bytes': int, 'count': int, ...}, the
        files different and inside the folder, the numbers in 0..`MAX_COUNT`.

    Raises:
        ValueError: another kind of manifest, or a damaged one.
    """
    check_file(file)
    try:
        manifest = parse_object(file.read_bytes(), str(file))
        found = manifest["format"], manifest["version"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{file} was not written by {command}") from error
    if found != (kind, version):
        raise ValueError(
            f"{file} says {found[0]!s:.80} {found[1]!s:.80}; this reads {kind} {version}"
        )
    whole = Whole(file, command)
    shards = whole.get(manifest, "shards", list)
    for shard in shards:
        name = whole.get(shard, "file", str)
        inside(file.parent, name, file)
        for key in ("bytes", "count"):
            whole.number(shard, key, 0, MAX_COUNT)
    whole.check(len({shard["file"] for shard in shards}) == len(shards), "a shard comes twice")
    whole.check(sum(shard["count"] for shard in shards) <= MAX_COUNT, "it counts too many records")
    return manifest


class Whole:
    """Checks the content of a JSON file; errors name the file and the command that writes it."""

    def __init__(self, file: Path, command: str):
        self._file, self._command = file, command

    def check(self, fits: bool, why: str) -> None:
        """Raises a ValueError with the reason unless `fits` is true."""
        if not fits:
            raise ValueError(f"{self._file} was not written by {self._command}: {why}")

    def get(self, content: Any, key: str, kind: type) -> Any:
        """Returns the value of a key, which must have one JSON type."""
        self.check(type(content) is dict and key in content, f"{key!r} is missing")
        value = content[key]
        self.check(type(value) is kind, f"{key!r} is {type(value).__name__}, not {kind.__name__}")
        return value

    def number(self, content: Any, key: str, least: int, most: int) -> int:
        """Returns the value of a key, which must be an integer in least..most."""
        value = self.get(content, key, int)
        self.check(least <= value <= most, f"{key!r} is not in {least}..{most}")
        return value

    def texts(self, content: Any, key: str) -> Sequence[str]:
        """Returns the value of a key, which must be a list of strings."""
        value = self.get(content, key, list)
        self.check(all(type(text) is str for text in value), f"{key!r} are not all texts")
        return value


def check_shard(path: Path, shard: Mapping[str, Any]) -> None:
    """Checks that a shard is there, with the size that its manifest tells.

    Args:
        path: the shard.
        shard: its entry in the manifest.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it has another size, or is no regular file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}, which {MANIFEST} names, is gone; copy it again")
    size = check_file(path).st_size
    if size != shard["bytes"]:
        raise ValueError(
            f"{path} has {size} bytes, not the {shard['bytes']} of {MANIFEST}; copy it again"
        )
