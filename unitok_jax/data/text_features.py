"""Features of captions on disk, as `unitok data text` writes them, in a text tower's place.

A record belongs to the sample at its position in the source, and holds a digest of each caption
beside its feature: a feature is never read for another caption.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from ftfy.fixes import fix_surrogates

from unitok_jax.data.codes.files import digest
from unitok_jax.data.formats.array_records import Part, RecordFiles
from unitok_jax.data.formats.shard_names import check_file
from unitok_jax.data.health import REASONS, SampleError
from unitok_jax.data.identity import probed
from unitok_jax.data.records import Source
from unitok_jax.data.writing.folders import MANIFEST, SETTINGS
from unitok_jax.data.writing.manifests import Whole, read_manifest
from unitok_jax.system.paths import expand

FORMAT = "unitok_jax.text_features"
VERSION = 1
COMMAND = "unitok data text"
DTYPES = ("float32", "bfloat16")
KEY = "data.text_features"  # of the configuration, for messages
MAX_WIDTH = 2**16


class TextFeatures:
    """Features of all captions of a source, by the sample's position.

    Threads may read concurrently; data workers may hold a copy.

    Attributes:
        settings: what the features were made from, as `writing.text_features.plan` returns it.
        sha256: of every shard, in their order.
    """

    def __init__(self, path: str, manifest: Mapping[str, Any], files: RecordFiles):
        self._path, self._files = path, files
        self.settings = manifest["settings"]
        self.sha256 = [shard["sha256"] for shard in manifest["shards"]]

    def __len__(self) -> int:
        return len(self._files)

    def of(self, index: int, name: str, captions: Sequence[str]) -> np.ndarray:
        """Reads the features of all captions of a sample, float32 (captions, E).

        Args:
            index: its position in the source.
            name: its name, for messages.
            captions: its captions, in the order of the source.

        Raises:
            SampleError: the sample could not be used when the features were made.
            ValueError: the record is of other captions, or damaged.
        """
        found = self._record(index)
        if "reason" in found:
            raise SampleError(
                f"{name}: without text features in {self._path}, as it was {found['reason']} when "
                "they were made",
                found["reason"],
            )
        if not np.array_equal(found["captions"], digests(captions)):
            raise ValueError(
                f"{KEY}={self._path} has the features of other captions for sample {index}, "
                f"{name}: they are of other data; {_REMEDY}"
            )
        return found["features"]

    def check(self, source: Source, model: Mapping[str, Any]) -> None:
        """Checks that the features are of a source's captions, and fit a model.

        Some samples are read; `of` compares every caption with its digest.

        Args:
            source: the source that is trained on.
            model: `config.model` of a tokenizer, as a dict.

        Raises:
            ValueError: they are of other data, or of a text tower of another shape.
        """
        where, width = f"{KEY}={self._path}", self.settings["width"]
        if width != model["embed_dim"]:
            raise ValueError(
                f"{where} has features of {width} numbers, and model.embed_dim={model['embed_dim']}"
                f"; set model.embed_dim={width}, or {_REMEDY}"
            )
        for key, ours in model["text"].items():
            theirs = self.settings["text"].get(key)
            if theirs != ours:
                raise ValueError(
                    f"{where} is of a text tower with model.text.{key}={theirs}, and "
                    f"model.text.{key}={ours}; set it, or {_REMEDY}"
                )
        if len(self) != len(source):
            raise ValueError(
                f"{where} is of {len(self)} samples, and the data have {len(source)}: they are of "
                f"other data; {_REMEDY}"
            )
        for place in probed(len(source)):
            try:
                record = source[place]
                self.of(place, record["name"], record["captions"])
            except (SampleError, OSError):
                continue  # training replaces it

    def check_tower(self, tower: str) -> None:
        """Checks that the features are of a text tower of this hash.

        Raises:
            ValueError: they are of another one.
        """
        theirs = self.settings["tower"]
        if theirs != tower:
            raise ValueError(
                f"{KEY}={self._path} is of text tower {theirs}, and this run's is {tower}: name "
                f"the file that the features were made with as init.path, or {_REMEDY}"
            )

    def _record(self, index: int) -> dict[str, Any]:
        packed, width = self._files[index], self.settings["width"]
        try:
            record = msgpack.unpackb(packed)
            if "reason" in record:
                if record["reason"] not in REASONS:
                    raise ValueError("an unknown reason")
                return record
            captions = np.frombuffer(record["captions"], "<u8")
            features = unpacked(record["features"], self.settings["--dtype"])
            return {"captions": captions, "features": features.reshape(len(captions), width)}
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise ValueError(f"{self._files.name(index)} was not written by {COMMAND}") from error


def open_text_features(path: str) -> TextFeatures:
    """Opens the features that `unitok data text` wrote.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: the folder or a shard is missing.
        ValueError: an unfinished or foreign folder, or a shard of another size.
    """
    folder = expand(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{KEY}={path} is no folder; {COMMAND} --output={path} makes one")
    try:
        manifest = _manifest(folder)
        parts = [_part(folder / shard["file"], shard) for shard in manifest["shards"]]
    except (ValueError, OSError) as error:
        raise type(error)(f"{KEY}={path}: {error}") from error
    return TextFeatures(path, manifest, RecordFiles(parts, "copy it again"))


def digests(captions: Sequence[str]) -> np.ndarray:
    """Returns a digest of each caption, uint64 (n,); `unitok data pack` changes none."""
    return np.array([digest(fix_surrogates(caption)) for caption in captions], "<u8")


def packed(features: np.ndarray, dtype: str) -> bytes:
    """Returns float32 features as bytes of one of `DTYPES`, bfloat16 rounded to even."""
    bits = np.ascontiguousarray(features, "<f4").view("<u4")
    if dtype == "bfloat16":
        bits = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
    return bits.tobytes()


def unpacked(data: bytes, dtype: str) -> np.ndarray:
    """Inverts `packed`, but for the shape: float32 (n,)."""
    if dtype == "bfloat16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32)
    return np.frombuffer(data, "<f4").astype(np.float32)


_REMEDY = f"make them again, into another folder: {COMMAND}"


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        if (folder / SETTINGS).is_file():
            raise ValueError(f"it is not finished; give the command in {SETTINGS} again")
        raise ValueError(f"it has no {MANIFEST}, which {COMMAND} writes")
    manifest = read_manifest(file, FORMAT, VERSION, COMMAND)
    whole = Whole(file, COMMAND)
    settings = whole.get(manifest, "settings", dict)
    whole.get(settings, "tower", str)
    whole.get(settings, "text", dict)
    whole.number(settings, "width", 1, MAX_WIDTH)
    whole.check(whole.get(settings, "--dtype", str) in DTYPES, f"'--dtype' is none of {DTYPES}")
    for shard in manifest["shards"]:
        whole.get(shard, "sha256", str)
    return manifest


def _part(path: Path, shard: Mapping[str, Any]) -> Part:
    if not path.exists():
        raise FileNotFoundError(f"{path}, which {MANIFEST} names, is gone; copy it again")
    size = check_file(path).st_size
    if size != shard["bytes"]:
        raise ValueError(
            f"{path} has {size} bytes, not the {shard['bytes']} of {MANIFEST}; copy it again"
        )
    return Part(str(path), shard["count"], 0, shard["count"])
