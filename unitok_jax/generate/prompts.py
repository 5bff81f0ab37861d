"""Prompts of records of codes: labels, captions, or stored features of captions."""

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unitok_jax.data.text import TextTokenizer
from unitok_jax.system.paths import expand, printable

log = logging.getLogger(__name__)

_LOOKED_AT = 1000  # captions whose length is looked at before training
_DIGESTED = 256  # records whose features are bound into a run


class Labels:
    """Labels as prompts.

    A call takes a record and returns {'labels': int32 scalar}; `rng` is not used.
    """

    def __init__(self, classes: int):
        """Takes the number of classes of the model."""
        self._classes = classes

    def __call__(self, record: dict[str, Any], rng=None) -> dict[str, np.ndarray]:
        label = record["label"]
        if label is None:
            raise ValueError(
                f"the codes of {record['key']} have no label; tokenize --data=labelled:PATH"
            )
        if not 0 <= label < self._classes:
            raise ValueError(
                f"the codes of {record['key']} have label {label}, and model.classes="
                f"{self._classes}: labels are 0 to {self._classes - 1}"
            )
        return {"labels": np.int32(label)}


class Captions:
    """Token ids of captions as prompts, for a text tower; a long caption loses its last tokens.

    A call takes a record and returns {'text': int32 (L,)} of the first caption, or of any by `rng`.
    """

    def __init__(self, length: int):
        """Takes L, tokens of a prompt."""
        self._tokenizer = TextTokenizer(length)

    def __call__(self, record: dict[str, Any], rng=None) -> dict[str, np.ndarray]:
        captions = record["captions"]
        if not captions:
            raise ValueError(
                f"the codes of {record['key']} have no caption, which model.prompt=text needs; "
                "tokenize data with captions"
            )
        caption = captions[0 if rng is None else rng.integers(len(captions))]
        return {"text": self._tokenizer(caption)[0]}

    def tell_cuts(self, records: Sequence[dict[str, Any]]) -> None:
        """Logs which part of the captions of the first records will be cut."""
        captions = [text for record in records[:_LOOKED_AT] for text in record["captions"]]
        length = self._tokenizer.context_length
        cut = sum(self._tokenizer.length(text) > length for text in captions)
        if cut:
            log.warning(
                "%d of the first %d captions are longer than model.text_tokens=%d and lose their "
                "last tokens",
                cut,
                len(captions),
                length,
            )


class Features:
    """Stored features of captions as prompts: an array (n, F) for each record, in KEY.npy.

    A call takes a record and returns {'features': float32 (T, F), 'valid': bool (T,), 'null': bool
    scalar}: n features at the end and zeros before; no features are the null prompt. `rng` is not
    used.
    """

    def __init__(self, folder: str, tokens: int, width: int):
        """Takes the folder, T and F.

        Raises:
          FileNotFoundError: there is no such folder.
        """
        self._folder, self._shape = expand(folder), (tokens, width)
        if not self._folder.is_dir():
            raise FileNotFoundError(f"data.text_features={folder}: there is no such folder")

    def __call__(self, record: dict[str, Any], rng=None) -> dict[str, np.ndarray]:
        found = self._read(self._path(record["key"]))
        features, valid = np.zeros(self._shape, np.float32), np.zeros(self._shape[0], bool)
        first = self._shape[0] - len(found)
        features[first:], valid[first:] = found, True
        return {"features": features, "valid": valid, "null": np.bool_(not len(found))}

    def digest(self, records: Sequence[dict[str, Any]]) -> int:
        """Computes a checksum of the features of records, of up to 256 spread over all.

        Features made anew, by another model or in another order, change every file.
        """
        count, digest = len(records), 0
        for number in range(min(count, _DIGESTED)):
            found = self(records[number * count // min(count, _DIGESTED)])
            digest = zlib.crc32(found["features"], zlib.crc32(found["valid"], digest))
        return digest

    def _path(self, key: str) -> Path:
        name = PurePosixPath(key.lstrip("/"))
        if ".." in name.parts or "\0" in key or not name.name:
            raise ValueError(f"the key {key!r} names no file below data.text_features")
        return self._folder / f"{name}.npy"

    def _read(self, path: Path) -> np.ndarray:
        tokens, width = self._shape
        try:
            with path.open("rb") as file:
                found = np.lib.format.read_array(file, allow_pickle=False)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"data.text_features: there is no {printable(path)}; each record of the codes "
                "needs its KEY.npy"
            ) from error
        except ValueError as error:
            raise ValueError(f"{printable(path)} is no array of NumPy: {error}") from error
        fits = found.ndim == 2 and found.dtype in (np.float16, np.float32)
        if not fits or found.shape[1] != width or len(found) > tokens:
            raise ValueError(
                f"{printable(path)} holds {found.dtype} {found.shape}, not float16 or float32 (n, "
                f"model.text_features={width}) with n up to model.text_tokens={tokens}"
            )
        if not np.isfinite(found).all():
            raise ValueError(f"{printable(path)} holds values that are not finite")
        return found


def open_prompts(config) -> Labels | Captions | Features:
    """Opens what reads the prompts that a configuration names.

    Raises:
      FileNotFoundError: the folder of the features is missing.
    """
    model = config.model
    if model.prompt == "class":
        return Labels(model.classes)
    if config.data.text_features:
        return Features(config.data.text_features, model.text_tokens, model.text_features)
    return Captions(model.text_tokens)
