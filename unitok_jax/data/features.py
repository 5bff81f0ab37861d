"""Records of features on disk, one for each sample of a source, in a frozen network's place."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from unitok_jax.data.formats.array_records import Part, RecordFiles
from unitok_jax.data.health import REASONS, SampleError
from unitok_jax.data.identity import probed
from unitok_jax.data.records import Source
from unitok_jax.data.writing.folders import MANIFEST, SETTINGS
from unitok_jax.data.writing.manifests import Whole, check_shard, read_manifest
from unitok_jax.system.passing import with_text
from unitok_jax.system.paths import expand


class Kind(NamedTuple):
    """Kind of stored features."""

    format: str
    version: int
    command: str  # that writes them
    key: str  # of the configuration that names a folder of them, for messages
    made_by: tuple[str, ...]  # settings repeated in every shard: sets never mix
    what: str  # they are, for messages

    @property
    def remedy(self) -> str:
        """Returns what to do about features that do not fit, for messages."""
        return f"make them again, into another folder: {self.command}"


class Features:
    """Records of a folder of features, by the sample's position.

    Threads may read concurrently; data workers may hold a copy.

    Attributes:
        settings: what the features were made from, as `writing.features.plan` returns it.
        sha256: of every shard, in their order.
        where: the key of the configuration and the folder, for messages.
    """

    def __init__(self, kind: Kind, path: str, manifest: Mapping[str, Any], files: RecordFiles):
        self.kind, self.where = kind, f"{kind.key}={path}"
        self._path, self._files = path, files
        self.settings = manifest["settings"]
        self.sha256 = [shard["sha256"] for shard in manifest["shards"]]

    def __len__(self) -> int:
        return len(self._files)

    def record(self, index: int, name: str, unpack: Callable[[dict], Any]) -> Any:
        """Reads the record of a sample.

        Args:
            index: its position in the source.
            name: its name, for messages.
            unpack: takes a map as it was written; anything that it raises means a damaged record.

        Raises:
            SampleError: the sample could not be used when the features were made.
            ValueError: the record is damaged.
        """
        packed = self._files[index]
        try:
            record = msgpack.unpackb(packed)
            reason = record.get("reason")
            if reason is None:
                return unpack(record)
            if reason not in REASONS:
                raise ValueError("an unknown reason")
        except (AttributeError, ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            where = self._files.name(index)
            raise ValueError(f"{where} was not written by {self.kind.command}") from error
        raise SampleError(
            f"{name}: without {self.kind.what} in {self._path}, as it was {reason} when they were "
            "made",
            reason,
        )

    def check_source(self, source: Source, read: Callable[[int, dict], Any]) -> None:
        """Checks that the features are of a source; some samples are read.

        Args:
            source: the source that is trained on.
            read: reads the features of the sample at a position, and compares both.

        Raises:
            ValueError: they are of other data.
        """
        if len(self) != len(source):
            raise ValueError(
                f"{self.where} is of {len(self)} samples, and the data have {len(source)}: they "
                f"are of other data; {self.kind.remedy}"
            )
        for place in probed(len(source)):
            try:
                read(place, source[place])
            except (SampleError, OSError):
                continue  # training replaces it

    def of_others(self, index: int, name: str, what: str) -> ValueError:
        """Returns the error for a sample whose captions or image are other ones."""
        return ValueError(
            f"{self.where} has the features of {what} for sample {index}, {name}: they are of "
            f"other data; {self.kind.remedy}"
        )


def open_folder(kind: Kind, path: str, check: Callable[[Whole, dict], Any]) -> tuple:
    """Opens a folder of features.

    Args:
        kind: what it must hold.
        path: the folder.
        check: checks the settings of the manifest.

    Returns:
        The arguments of `Features`.

    Raises:
        FileNotFoundError: the folder or a shard is missing.
        ValueError: an unfinished or foreign folder, or a shard of another size.
    """
    folder = expand(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{kind.key}={path} is no folder; {kind.command} --output={path} makes one"
        )
    try:
        manifest = _manifest(kind, folder, check)
        parts = [_part(folder / shard["file"], shard) for shard in manifest["shards"]]
    except (ValueError, OSError) as error:
        raise with_text(error, f"{kind.key}={path}: {error}") from error
    return kind, path, manifest, RecordFiles(parts, "copy it again")


def _manifest(kind: Kind, folder: Path, check) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        if (folder / SETTINGS).is_file():
            raise ValueError(f"it is not finished; give the command in {SETTINGS} again")
        raise ValueError(f"it has no {MANIFEST}, which {kind.command} writes")
    manifest = read_manifest(file, kind.format, kind.version, kind.command)
    whole = Whole(file, kind.command)
    check(whole, whole.get(manifest, "settings", dict))
    for shard in manifest["shards"]:
        whole.get(shard, "sha256", str)
    return manifest


def _part(path: Path, shard: Mapping[str, Any]) -> Part:
    check_shard(path, shard)
    return Part(str(path), shard["count"], 0, shard["count"])
