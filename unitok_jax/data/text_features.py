"""Features of captions on disk, as `unitok data text` writes them, in a text tower's place.

A record belongs to the sample at its position in the source, and holds a digest of each caption
beside its feature: a feature is never read for another caption.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ftfy.fixes import fix_surrogates

from unitok_jax.data.codes.files import digest
from unitok_jax.data.features import Features, Kind, open_folder
from unitok_jax.data.records import Source
from unitok_jax.data.writing.manifests import Whole

KIND = Kind(
    *("unitok_jax.text_features", 1, "unitok data text", "data.text_features"),
    made_by=("tower", "--precision", "--dtype"),
    what="text features",
)
DTYPES = ("float32", "bfloat16")
MAX_WIDTH = 2**16


class TextFeatures(Features):
    """Features of all captions of a source, by the sample's position."""

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
        found, features = self.record(index, name, self._unpack)
        if not np.array_equal(found, digests(captions)):
            raise self.of_others(index, name, "other captions")
        return features

    def check(self, source: Source, model: Mapping[str, Any]) -> None:
        """Checks that the features are of a source's captions, and fit a model.

        Some samples are read; `of` compares every caption with its digest.

        Args:
            source: the source that is trained on.
            model: `config.model` of a tokenizer, as a dict.

        Raises:
            ValueError: they are of other data, or of a text tower of another shape.
        """
        width = self.settings["width"]
        if width != model["embed_dim"]:
            raise ValueError(
                f"{self.where} has features of {width} numbers, and model.embed_dim="
                f"{model['embed_dim']}; set model.embed_dim={width}, or {self.kind.remedy}"
            )
        for key, ours in model["text"].items():
            theirs = self.settings["text"].get(key)
            if theirs != ours:
                raise ValueError(
                    f"{self.where} is of a text tower with model.text.{key}={theirs}, and "
                    f"model.text.{key}={ours}; set it, or {self.kind.remedy}"
                )
        self.check_source(
            source, lambda place, record: self.of(place, record["name"], record["captions"])
        )

    def check_tower(self, tower: str) -> None:
        """Checks that the features are of a text tower of this hash.

        Raises:
            ValueError: they are of another one.
        """
        theirs = self.settings["tower"]
        if theirs != tower:
            raise ValueError(
                f"{self.where} is of text tower {theirs}, and this run's is {tower}: name the file "
                f"that the features were made with as init.path, or {self.kind.remedy}"
            )

    def _unpack(self, record):
        captions = np.frombuffer(record["captions"], "<u8")
        features = unpacked(record["features"], self.settings["--dtype"])
        return captions, features.reshape(len(captions), self.settings["width"])


def open_text_features(path: str) -> TextFeatures:
    """Opens the features that `unitok data text` wrote.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: the folder or a shard is missing.
        ValueError: an unfinished or foreign folder, or a shard of another size.
    """
    return TextFeatures(*open_folder(KIND, path, _check_settings))


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


def _check_settings(whole: Whole, settings: dict[str, Any]) -> None:
    whole.get(settings, "tower", str)
    whole.get(settings, "text", dict)
    whole.number(settings, "width", 1, MAX_WIDTH)
    whole.check(whole.get(settings, "--dtype", str) in DTYPES, f"'--dtype' is none of {DTYPES}")
