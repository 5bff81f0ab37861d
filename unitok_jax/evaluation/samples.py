"""Drawn images on disk: `samples.npz` as ADM's evaluator reads it, or a folder of PNGs.

A folder that `unitok generate` wrote holds:

    generation.json   `Generation`, the settings that the images were drawn with
    samples.npz       arr_0 uint8 (N, H, W, 3) and arr_1 integer labels (N,); or
    images/           NUMBER.png of every image, from 0; the order is the number's
    codes/            codes of the images, with their labels or captions
    sheet.png         contact sheet of the first images, which is no sample

Images are read in order, a batch at a time: `arr_0` of 50 000 images takes 9.8 GB.
"""

import concurrent.futures
import dataclasses
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unitok_jax.data.codes.records import open_codes
from unitok_jax.data.formats.folders import IMAGE_SUFFIXES
from unitok_jax.data.images.transforms import decode_image, to_uint8
from unitok_jax.data.writing.folders import write_json
from unitok_jax.evaluation import npz
from unitok_jax.system.foreign_files import check_file
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.paths import expand, printable

SETTINGS, ARCHIVE, PICTURES, SHEET = "generation.json", "samples.npz", "images", "sheet.png"
CODES = "codes"
LABELS = ("balanced", "random", "given", "captions")
_MOST_LABELS = 1 << 27  # bytes of arr_1
_THREADS = 8  # that decode PNGs


def _half_up(images: np.ndarray) -> np.ndarray:
    levels = np.floor(127.5 * np.asarray(images, np.float32) + 128)
    return np.clip(levels, 0, 255).astype(np.uint8)


ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half_even": to_uint8,
    "half_up": _half_up,
}
"""Roundings of floats in [-1, 1] to 8 bits: this package's, and ADM's floor(127.5 x + 128)."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """Settings that a folder of images was drawn with: `generation.json`.

    Attributes:
      checkpoint_hash, tokenizer_hash: of the weights that drew the codes and decoded them.
      count: N images.
      labels: 'balanced', each class equally often; 'random'; 'given', a list; or 'captions'.
      scale: of guidance; 1: none.
      guidance: the schedule of the scale, in words; 'constant' without one.
      temperature, top_k, top_p: filters of the logits; 0 and 1: no filter.
      key: seed of the samples.
      rounding: a key of `ROUNDINGS`.

    Raises:
      ValueError: `labels` or `rounding` is unknown, or `count` is not positive.
    """

    checkpoint_hash: str
    tokenizer_hash: str
    count: int
    labels: str
    scale: float
    guidance: str
    temperature: float
    top_k: int
    top_p: float
    key: int
    rounding: str

    def __post_init__(self):
        for name, known in (("labels", LABELS), ("rounding", tuple(ROUNDINGS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(known)}")
        if self.count < 1:
            raise ValueError(f"count={self.count} must be at least 1")

    def write(self, folder: str | os.PathLike, **more: Any) -> None:
        """Writes `generation.json` into a folder, whole or not at all; with `more` JSON values."""
        write_json(Path(folder) / SETTINGS, dataclasses.asdict(self) | more)

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Generation":
        """Reads `generation.json` of a folder; entries of no meaning here are left out.

        Raises:
          FileNotFoundError: the folder has none.
          ValueError: an entry is missing, or of another type or value.
        """
        path = Path(folder) / SETTINGS
        check_file(path)
        found = parse_object(path.read_bytes(), printable(path))
        values = {}
        for field in dataclasses.fields(cls):
            value = found.get(field.name)
            kinds = (int, float) if field.type is float else (field.type,)
            if type(value) not in kinds:
                raise ValueError(
                    f"{printable(path)}: {field.name}={value!r:.100} is no {field.type.__name__}"
                )
            values[field.name] = field.type(value)
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{printable(path)}: {error}") from error


@dataclasses.dataclass(frozen=True)
class DrawnImages:
    """Images of one size, in order; `open_samples` opens them.

    Attributes:
      place: the path, for messages and cards.
      count: N.
      size: (height, width).
      labels: (N,) int64; None: they have none.
      generation: settings that they were drawn with; None: nothing tells them.
      captions: N texts that they were drawn from; None: they have none.
      read: yields batches of at most the given number, uint8 (n, H, W, 3), from the first on.
    """

    place: str
    count: int
    size: tuple[int, int]
    labels: np.ndarray | None
    generation: Generation | None
    read: Callable[[int], Iterator[np.ndarray]]
    captions: Sequence[str] | None = None

    def batches(self, batch_size: int, count: int = 0) -> Iterator[np.ndarray]:
        """Yields the first `count` images, by default all, in batches of at most `batch_size`."""
        missing = min(count, self.count) if count else self.count
        for batch in self.read(batch_size):
            yield batch[:missing]
            missing -= len(batch)
            if missing <= 0:
                return


def open_samples(path: str | os.PathLike, flag: str = "--samples") -> DrawnImages:
    """Opens an .npz, a folder of PNGs, or a folder that `unitok generate` wrote.

    Args:
      path: of the file or folder.
      flag: that gave the path, for messages.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: it holds no images, or other than uint8 (N, H, W, 3); labels that do not fit;
        fewer or more images than its `generation.json` or codes tell; it is not finished.
    """
    path = expand(path)
    if not path.is_dir():
        return _open_archive(path, flag)
    if not (path / SETTINGS).is_file():
        if (path / CODES).is_dir():
            raise ValueError(
                f"{flag}={printable(path)} holds {CODES} and no {SETTINGS}: unitok generate has "
                "not finished it; give the same command again"
            )
        return _open_folder(path, flag)
    generation, name = Generation.read(path), printable(path)
    is_archive = (path / ARCHIVE).is_file()
    images = (_open_archive if is_archive else _open_folder)(
        path / (ARCHIVE if is_archive else PICTURES), flag
    )
    labels, captions = _prompts(path / CODES) if (path / CODES).is_dir() else (None, None)
    for count, what in ((generation.count, SETTINGS), (len(labels or captions or ()), CODES)):
        if count and count != images.count:
            raise ValueError(
                f"{flag}={name} holds {images.count} images, and its {what} tells of {count}: give "
                "the command that drew them again"
            )
    if labels is not None and images.labels is None:
        images = dataclasses.replace(images, labels=np.array(labels, np.int64))
    return dataclasses.replace(images, place=name, generation=generation, captions=captions)


def _prompts(path: Path) -> tuple[list[int] | None, list[str] | None]:
    """Reads the labels and captions of codes; None where one has none."""
    labels, captions = [], []
    for record in open_codes(path):
        labels.append(record["label"])
        captions.append(record["captions"][0] if record["captions"] else None)
    return None if None in labels else labels, None if None in captions else captions


def _open_archive(path: Path, flag: str) -> DrawnImages:
    name = f"{flag}={printable(path)}"
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            shape = image_shape(archive)
            labels = _labels(archive, shape[0]) if npz.holds(archive, "arr_1") else None
    except npz.DAMAGE as error:
        raise ValueError(f"{name} is not a file of images as ADM's evaluator reads: {error}") from (
            error
        )
    return DrawnImages(
        printable(path), shape[0], shape[1:3], labels, None, lambda size: archived(path, size)
    )


def image_shape(archive: zipfile.ZipFile) -> tuple[int, int, int, int]:
    """Returns the shape of an archive's `arr_0`, whose values are not read.

    Raises:
      ValueError: it is missing, not uint8 (N, H, W, 3) in rows, empty, or of other bytes.
    """
    with npz.open_array(archive, "arr_0") as file:
        shape, fortran, dtype = npz.read_header(file)
        values = npz.stored(archive, "arr_0") - file.tell()
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or fortran:
        order = ", columns first" if fortran else ""
        one = "; of one image save array[None]" if len(shape) == 3 and shape[2] == 3 else ""
        raise ValueError(f"arr_0 is {dtype} {shape}{order}, not uint8 (N, height, width, 3){one}")
    if values != (needed := math.prod(shape)):
        raise ValueError(f"arr_0 holds {values:,} bytes, and {shape} takes {needed:,}")
    return shape


def archived(path: Path, batch_size: int) -> Iterator[np.ndarray]:
    """Yields the images `arr_0` of an .npz in batches, without reading it whole.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            count, *shape = image_shape(archive)
            with npz.open_array(archive, "arr_0") as file:
                npz.read_header(file)
                for start in range(0, count, batch_size):
                    rows = min(batch_size, count - start)
                    data = file.read(rows * math.prod(shape))
                    # Too few bytes do not reshape.
                    yield np.frombuffer(data, np.uint8).reshape(rows, *shape)
    except npz.DAMAGE as error:
        raise ValueError(f"{printable(path)}: arr_0 is damaged: {error}") from error


def _labels(archive, count):
    shape, _, dtype = npz.header(archive, "arr_1")
    if dtype.kind not in "iu" or shape != (count,) or npz.stored(archive, "arr_1") > _MOST_LABELS:
        raise ValueError(f"arr_1 is {dtype} {shape}, not the integer labels ({count},) of arr_0")
    return npz.read(archive, "arr_1").astype(np.int64)


def _open_folder(path: Path, flag: str) -> DrawnImages:
    names = list(path.iterdir()) if path.is_dir() else []
    files = sorted((p for p in names if p.suffix.lower() == ".png"), key=_by_number)
    if not files:
        raise ValueError(f"{flag}={printable(path)} holds no .png")
    others = sorted(p.name for p in names if p.suffix.lower() in set(IMAGE_SUFFIXES) - {".png"})
    if others:
        raise ValueError(
            f"{flag}={printable(path)} holds {printable(others[0])} beside {len(files)} .png: "
            "samples are PNGs; move other images out, or save them as such"
        )
    size = _decode(files[0]).shape[:2]

    def read(batch_size):
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(files), batch_size):
                chunk = files[start : start + batch_size]
                images = list(pool.map(_decode, chunk))
                for file, image in zip(chunk, images, strict=True):
                    if image.shape[:2] != size:
                        raise ValueError(
                            f"{flag}: {printable(file)} has {image.shape[0]}x{image.shape[1]} "
                            f"pixels, and {files[0].name} has {size[0]}x{size[1]}: samples are of "
                            "one size"
                        )
                yield np.stack(images)

    return DrawnImages(printable(path), len(files), size, None, None, read)


def _decode(file: Path) -> np.ndarray:
    check_file(file)
    return decode_image(file.read_bytes(), str(file))


def _by_number(file: Path) -> list:
    """Orders names as people count: 9.png before 10.png."""
    parts = re.split(r"([0-9]+)", file.name)  # texts and numbers in turn
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]
