"""What a teacher says of images and captions, as `unitok data teacher` wrote it, in its place.

A record belongs to the sample at its position in the source, and holds a digest of the image file
and of each caption beside what was computed of them.
"""

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from unitok_jax.data.features import Features, Kind, open_folder
from unitok_jax.data.records import Source
from unitok_jax.data.text_features import digests
from unitok_jax.data.writing.manifests import Whole

KIND = Kind(
    *("unitok_jax.teacher_features", 1, "unitok data teacher", "teacher.features"),
    made_by=("teacher", "--precision", "arrays"),
    what="a teacher's features",
)
# Arrays of a record. Tokens are many, and float16 is closer to them than bfloat16.
DTYPES = {"deep": "<f2", "shallow": "<f2", "image": "<f4", "text": "<f4"}
OF_CAPTIONS = ("text",)
"""Arrays with a row for every caption of a sample."""
MAX_NUMBERS = 2**28  # of one array


class TeacherFeatures(Features):
    """Features of all images, and perhaps of all captions, of a source.

    Attributes:
        names: of the arrays that `of` reads, some of `DTYPES`.
    """

    names: tuple[str, ...] = ()

    def of(
        self, index: int, name: str, image: bytes, captions: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Reads the features of a sample.

        Args:
            index: its position in the source.
            name: its name, for messages.
            image: the encoded image.
            captions: its captions, in the order of the source.

        Returns:
            The arrays `names`: float16 'deep' and 'shallow' (N, D), float32 'image' (E,), float32
            'text' (captions, E).

        Raises:
            SampleError: the sample could not be used when the features were made.
            ValueError: the record is of another image or of other captions, or damaged.
        """
        seen, read, arrays = self.record(index, name, self._unpack)
        if seen != image_digest(image):
            raise self.of_others(index, name, "another image")
        if set(self.names) & set(OF_CAPTIONS) and not np.array_equal(read, digests(captions)):
            raise self.of_others(index, name, "other captions")
        return arrays

    @property
    def row_bytes(self) -> int:
        """Bytes of the features of one image and one caption."""
        shapes = self.settings["arrays"]
        return sum(math.prod(shapes[n]) * np.dtype(DTYPES[n]).itemsize for n in self.names)

    def check(self, source: Source, wanted: Mapping[str, Any], names: Sequence[str]) -> None:
        """Checks that the features are of a source and a teacher, and keeps `names`.

        Some samples are read; `of` compares every image and caption with its digest.

        Args:
            source: the source that is trained on.
            wanted: settings of the teacher and its inputs that must be these.
            names: arrays that the losses take.

        Raises:
            ValueError: they are of other data, of another teacher, or do not hold what is needed.
        """
        missing = [name for name in names if name not in self.settings["arrays"]]
        if missing:
            raise ValueError(
                f"{self.where} holds {', '.join(self.settings['arrays'])}, and not the features "
                f"{', '.join(missing)} that the weights of loss.teacher_* and teacher.shallow ask "
                f"for; with these keys {self.kind.remedy}"
            )
        for key, ours in wanted.items():
            theirs = self.settings.get(key)
            if theirs != ours:
                raise ValueError(
                    f"{self.where} was made with {key}={theirs}, and {key}={ours}; set it, or "
                    f"{self.kind.remedy}"
                )
        self.names = tuple(names)
        self.check_source(
            source,
            lambda place, record: self.of(
                place, record["name"], record["image"], record["captions"]
            ),
        )

    def check_teacher(self, teacher: Mapping[str, int]) -> None:
        """Checks that the features are of a teacher with these digests, of parts that both know.

        Raises:
            ValueError: they are of another one.
        """
        theirs = self.settings["teacher"]
        for part in teacher.keys() & theirs.keys():
            if theirs[part] != teacher[part]:
                raise ValueError(
                    f"{self.where} is of another file of the teacher than frozen.teacher (digest "
                    f"{theirs[part]}, and {teacher[part]}): set frozen.teacher='', or the file "
                    f"that the features were made with, or {self.kind.remedy}"
                )

    def _unpack(self, record):
        captions, arrays = np.frombuffer(record["captions"], "<u8"), {}
        for name in self.names:
            rows = (len(captions),) if name in OF_CAPTIONS else ()
            shape = (*rows, *self.settings["arrays"][name])
            arrays[name] = np.frombuffer(record[name], DTYPES[name]).reshape(shape)
        return record["image_digest"], captions, arrays


def open_teacher_features(path: str) -> TeacherFeatures:
    """Opens the features that `unitok data teacher` wrote.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: the folder or a shard is missing.
        ValueError: an unfinished or foreign folder, or a shard of another size.
    """
    return TeacherFeatures(*open_folder(KIND, path, _check_settings))


def image_digest(image: bytes) -> bytes:
    """Returns a digest of an encoded image; `unitok data pack` changes none."""
    return blake2b(image, digest_size=8).digest()


def _check_settings(whole: Whole, settings: dict[str, Any]) -> None:
    teacher = whole.get(settings, "teacher", dict)
    whole.check(all(type(each) is int for each in teacher.values()), "'teacher' has no digests")
    arrays = whole.get(settings, "arrays", dict)
    whole.check(arrays.keys() <= DTYPES.keys(), f"'arrays' are not some of {', '.join(DTYPES)}")
    for name in arrays:
        shape = whole.get(arrays, name, list)
        whole.check(all(type(side) is int and side > 0 for side in shape), f"{name!r} is no shape")
        whole.check(math.prod(shape) <= MAX_NUMBERS, f"{name!r} is too large")
