"""Drawn shapes of the experiments, rendered once, and the measures of pictures against them."""

import contextlib
import functools
import itertools
from pathlib import Path

import numpy as np

from configs import shapes
from experiments.cells import CLASSES
from experiments.features import features
from unitok_jax.data.formats.shapes import SingleShapes
from unitok_jax.data.pipeline import eval_batches
from unitok_jax.data.records import subset
from unitok_jax.data.sources import open_source
from unitok_jax.data.writing.folders import claim
from unitok_jax.data.writing.packing import pack, plan
from unitok_jax.evaluation.metrics.frechet import FeatureMoments, frechet_distance
from unitok_jax.evaluation.metrics.shape_recogniser import share_read

COMMAND = "python -m experiments.generators"
PARTS = ("train", "held_out")


class Pictures:
    """Pictures of one shape each, packed into a folder: those trained on, and held-out ones."""

    def __init__(self, folder: Path, pictures: int, held_out: int):
        """Renders what is not there yet.

        Args:
          folder: gets a folder for each of `PARTS`.
          pictures, held_out: numbers of each, multiples of the 64 classes.
        """
        self.folder = folder
        data = shapes.get_config().data.copy_and_resolve_references()
        data.path = "single"
        source = open_source(data)
        numbers = simple(source, pictures + held_out)
        parts = numbers[:pictures], numbers[pictures:]
        for part, numbers in zip(PARTS, parts, strict=True):
            chosen = subset(source, numbers)
            settings = plan(data, chosen, shard_size=4096, check=False, require_captions=True)
            claim(folder / part, settings, COMMAND)
            pack(chosen, settings, folder / part, workers=1, max_bad=0.0)

    def data(self, part: str):
        """Returns the `data` config of a part."""
        data = shapes.get_config().data.copy_and_resolve_references()
        data.source, data.path, data.num_threads = "array_record", str(self.folder / part), 1
        return data

    def read(self, part: str, count: int) -> np.ndarray:
        """Reads the first pictures of a part, uint8 (count, 64, 64, 3)."""
        data = self.data(part)
        source = subset(open_source(data), range(count))
        with contextlib.closing(eval_batches(source, data, count)) as batches:
            return next(batches)["image"]

    @functools.cached_property
    def _reference(self):
        """Spread of each feature over the pictures trained on, and their moments."""
        found = features(self.read("train", len(open_source(self.data("train")))))
        spread = found.std(axis=0) + 1e-6
        return spread, _moments(found / spread)

    def measure(self, pictures: np.ndarray) -> dict[str, float]:
        """Measures pictures (N, 64, 64, 3) uint8, of all labels in turn.

        Returns:
          `fid`, the Fréchet distance to the pictures trained on, by the features of `features`,
          each divided by its spread; `colour`, `form` and `both`, the shares of the pictures in
          which the recogniser reads what the label asks for.
        """
        spread, reference = self._reference
        asked = [SingleShapes.pairs[number % CLASSES] for number in range(len(pictures))]
        fid = frechet_distance(_moments(features(pictures) / spread), reference)
        return {"fid": fid} | share_read(pictures, *zip(*asked, strict=True))


def simple(source: SingleShapes, count: int) -> list[int]:
    """Lists the first pictures of plain large shapes, `count` of them, with the labels in turn.

    An eighth of the source: small or textured shapes need more bits than a short training finds.
    """
    of_label = [[] for _ in range(CLASSES)]
    for number in itertools.count():
        shape = source.scene(number).shapes[0]
        if (shape.texture, shape.size) == ("plain", "large"):
            of_label[source.label(number)].append(number)
        if number % 1024 == 0 and min(map(len, of_label)) * CLASSES >= count:
            break
    return [number for turn in zip(*of_label, strict=False) for number in turn][:count]


def _moments(rows: np.ndarray):
    moments = FeatureMoments()
    moments.update(rows)
    return moments.result()
