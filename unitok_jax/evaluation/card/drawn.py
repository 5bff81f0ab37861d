"""Figures of a card of drawn images, and the references that they are compared with."""

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from unitok_jax.codes import STRIDE
from unitok_jax.data.pipeline import eval_batches
from unitok_jax.data.records import Source
from unitok_jax.evaluation import drawn, samples
from unitok_jax.evaluation.card import statistics
from unitok_jax.evaluation.card.measure import Notes
from unitok_jax.evaluation.drawn import ImageFeatures, InceptionPass
from unitok_jax.evaluation.evaluator import digest
from unitok_jax.evaluation.metrics.clip_score import clip_score
from unitok_jax.models.pretrained.inception import SIDE
from unitok_jax.runtime import processes, sharding
from unitok_jax.system.foreign_files import check_file, check_lines
from unitok_jax.system.paths import expand, printable
from unitok_jax.system.progress import Progress
from unitok_jax.weights import pretrained

PUBLISHED = 50_000  # images of published gFIDs
SHOWN = 64  # samples in the card's picture
_UNKNOWN = f"not known: no {samples.SETTINGS} beside the samples"
# Squared distance of two means, in its expectation for a random subset, beyond which the features
# are not of one network: measured ones are some thousands of times that.
_FOREIGN = 100


@dataclasses.dataclass(frozen=True)
class DrawnSettings:
    """Choices of a card of drawn images; messages name each value as the command's flag.

    Attributes:
      samples: what `samples.open_samples` opens.
      inception: file of weights, or 'seeded'; empty: no figure that needs it.
      reference: an .npz with statistics to compare with; empty: none.
      data: what the card and messages call a source to compare with; empty: none.
      save_reference: a new .npz for the statistics of the source; None: none.
      checkpoint: what the card calls the tokenizer of the CLIP score; empty: no CLIP score.
      captions: a text file, line by line the caption of each sample; empty: those of the codes
        beside the samples.
      max_images: the first of the samples; 0: all.
      batch_size: of all devices, rounded up to a multiple of them.

    Raises:
      ValueError: values that are out of range or do not go together.
    """

    samples: str
    inception: str = ""
    reference: str = ""
    data: str = ""
    save_reference: pathlib.Path | None = None
    checkpoint: str = ""
    captions: str = ""
    max_images: int = PUBLISHED
    batch_size: int = 64

    def __post_init__(self):
        for name, least in (("max_images", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}={getattr(self, name)} must be at least {least}")
        if self.reference and self.data:
            raise ValueError(
                f"--reference={self.reference} and --data={self.data} are two references: give one"
            )
        if (self.reference or self.data) and not self.inception:
            raise ValueError(
                "gFID needs Inception: give its weights as --inception=FILE, or leave out "
                "--reference and --data"
            )
        if self.save_reference and not self.data:
            raise ValueError("--save_reference writes the statistics of --data: give --data")
        if self.captions and not self.checkpoint:
            raise ValueError(
                f"--captions={self.captions} are for the CLIP score, which takes the towers of a "
                "--checkpoint: give one"
            )
        if not (self.inception or self.checkpoint):
            raise ValueError("nothing to measure: give --inception=FILE, or --checkpoint=DIR")


@dataclasses.dataclass
class DrawnCard:
    """Contents of a card of drawn images; figures as in `card.json`."""

    samples: str
    images: int
    metrics: dict[str, float]
    shown: np.ndarray  # uint8 (n, H, W, 3), the first samples
    warnings: list[str]
    not_measured: list[dict[str, str]]
    provenance: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Reference:
    """Features to compare with, and lines for the card's provenance."""

    features: ImageFeatures
    lines: dict[str, str]


def measure_drawn(
    settings: DrawnSettings,
    tokenizer=None,
    open_data: Callable[[tuple[int, int]], tuple[Source, Any]] | None = None,
) -> DrawnCard:
    """Measures drawn images. All processes call it, and each reads all of the images.

    Args:
      settings: what to measure.
      tokenizer: a `Tokenizer`, for the CLIP score; None without one.
      open_data: returns the source to compare with and its `data` config, for the (height, width)
        of the samples; None without one.

    Returns:
      The card; its figures are on process 0 alone.

    Raises:
      ValueError, OSError, ImportError: samples, reference or weights that do not fit.
    """
    notes = Notes()
    with processes.fail_together():
        images = samples.open_samples(settings.samples)
        count = min(images.count, settings.max_images or images.count)
        captions = None
        if tokenizer:
            _check_towers(settings.samples, images.size)
            captions = _captions(settings.captions, images)[:count]
        job = _Job(settings, images, count, notes) if settings.inception else None
        source, data = open_data(images.size) if open_data else (None, None)
    processes.agree({"samples": count, "weights of inception": job.weights if job else ""})
    if count < images.count:
        notes.warn(
            f"the first {count:,} of {images.count:,} samples were measured: --max_images=0 "
            "measures all"
        )
    metrics, lines, pixels = {}, {}, hashlib.sha256()
    if job is None:
        notes.skip("gFID and all of Inception", "no weights were named", "Give --inception=FILE.")
    else:
        reference = job.reference(source, data)
        metrics, lines = job.measure(reference, pixels)
    if captions is None:
        how = "Give --checkpoint, and --captions=FILE unless codes beside the samples have some."
        notes.skip("CLIP score", "no checkpoint was named", how)
    elif processes.is_lead():
        metrics["clip_score"] = _clip_score(tokenizer, images, captions)
    if settings.inception == pretrained.SEEDED:
        notes.warn("inception has random weights: its figures mean nothing beside published ones")
    provenance = {
        "images": count,
        "samples": images.place,
        "size": f"{images.size[0]}x{images.size[1]}",
        "labels": _labels(images, count),
        **_generation(images.generation),
        **lines,
        "batch_size": settings.batch_size,
    }
    if job is not None:
        provenance["pixels"] = f"sha256 {pixels.hexdigest()}"
    if tokenizer is not None:
        provenance["clip_towers"] = f"{settings.checkpoint}, tokenizer hash {tokenizer.hash}"
        provenance["captions"] = printable(settings.captions or "of the codes")
    shown = np.concatenate(list(images.batches(SHOWN, min(SHOWN, count))))
    return DrawnCard(
        *(images.place, count, metrics, shown),
        *(notes.warnings, notes.not_measured, provenance),
    )


class _Job:
    """Inception, the samples and the reference of a card, checked before any work."""

    def __init__(self, settings, images, count, notes):
        self._settings, self._images, self._count, self._notes = settings, images, count, notes
        if count < 2:
            raise ValueError(f"--samples={settings.samples}: gFID needs at least 2 images, not 1")
        params = pretrained.load(
            *("inception", settings.inception, "float32"),
            key="--inception",
            turn_off="no --inception",
        )[1]
        self.weights = digest(params)
        self._given = statistics.read_all(settings.reference) if settings.reference else None
        if self._given:
            self._check(self._given)
        self._pass = InceptionPass(params, sharding.make_mesh(-1, 1), settings.batch_size)

    @property
    def _facts(self) -> dict[str, Any]:
        """Facts that the reference must have alike."""
        return statistics.compared(self._images.size, self.weights)

    def _check(self, given: statistics.Reference):
        """Refuses a reference of images of another size, or that tells of other preprocessing."""
        path, size = self._settings.reference, self._images.size
        statistics.check(f"--reference={path}", given.facts, self._facts)
        if given.images and given.images[1:] != size:
            raise ValueError(
                f"--reference={path} is of {given.images[1]}x{given.images[2]} images, and the "
                f"samples have {size[0]}x{size[1]}: draw them at that size, or give its reference"
            )

    def reference(self, source: Source | None, data) -> _Reference | None:
        """Reads or computes the features to compare with."""
        notes = self._notes
        if source is not None:
            return self._of_source(source, data)
        if self._given is None:
            how = "Give --reference=FILE.npz, or --data."
            notes.skip("gFID, sFID, precision, recall", "no reference was named", how)
            return None
        path, given = self._settings.reference, self._given
        if not given.facts:
            notes.warn(f"--reference={path} does not say what it was made with")
        if given.spatial is None:
            reason = "the reference has no mu_s and sigma_s"
            notes.skip("sFID", reason, "Give one that has them.")
        rows = given.rows
        if rows is None and given.images:
            rows = self._rows_of_images(given)
        if rows is None:
            reason = "the reference has neither images nor features of single images"
            how = "Give one with arr_0, as ADM's, or of --save_reference."
            notes.skip("precision, recall", reason, how)
        count = f"{given.pool3.count:,}" if given.pool3.count else "not told"
        features = ImageFeatures(given.pool3, given.spatial, rows)
        return _Reference(features, self._lines(path, features, count))

    def _rows_of_images(self, given: statistics.Reference) -> np.ndarray:
        """Computes the features of ADM's images, by which its Inception is recognised, too.

        Raises:
          ValueError: their mean is far from that of the statistics.
        """
        path = self._settings.reference
        images = samples.archived(expand(path), self._settings.batch_size)
        found = self._pass(self._progress(images, "reference", given.images[0]), logits=False)
        expected = np.trace(given.pool3.covariance) / found.pool3.count
        apart = ((found.pool3.mean - given.pool3.mean) ** 2).sum()
        if apart > _FOREIGN * expected:
            raise ValueError(
                f"--reference={path}: its images have other features in "
                f"--inception={self._settings.inception} than its statistics tell (squared "
                f"distance of the means {apart:.3g}, by chance about {expected:.3g}): it was made "
                "with another Inception or resize"
            )
        return found.rows

    def _of_source(self, source, data) -> _Reference:
        settings, count = self._settings, len(source)
        if count < 2:
            raise ValueError(f"--data={settings.data}: statistics need at least 2 images")
        kept = min(count, statistics.ROWS)
        batches = eval_batches(source, data, settings.batch_size, stride=1)
        with contextlib.closing(batches):
            images = (batch["image"][batch["mask"]] for batch in batches)
            found = self._pass(
                self._progress(images, "reference", count),
                keep=[i * count // kept for i in range(kept)],
                logits=False,
            )
        facts = self._facts | {"data": statistics.source_facts(data, source)}
        if settings.save_reference and processes.is_lead():
            statistics.write(
                *(settings.save_reference, found.pool3, facts),
                spatial=found.spatial,
                rows=found.rows,
            )
        lines = self._lines(settings.data, found, f"{count:,}")
        return _Reference(found, lines | {"reference_preprocessing": statistics.RESIZE})

    def _lines(self, name: str, features: ImageFeatures, count: str) -> dict[str, str]:
        """Lines of the card; the hash is of mu and sigma, by which two cards' references compare"""
        value = digest([features.pool3.mean, features.pool3.covariance])
        lines = {
            "reference": printable(name),
            "reference_statistics": f"sha256 {value}",
            "reference_images": count,
        }
        if features.rows is not None:
            lines["precision_recall"] = (
                f"against {len(features.rows):,} images of the reference, {drawn.NEIGHBOURS} "
                "neighbours, float16 distances as ADM"
            )
        return lines

    def measure(self, reference: _Reference | None, pixels) -> tuple[dict[str, float], dict]:
        """Returns the figures, on process 0 alone, and lines of the card's provenance.

        Args:
          reference: features to compare with.
          pixels: a hash, which is given all pixels.
        """
        settings, count, notes = self._settings, self._count, self._notes

        def hashed():
            for batch in self._images.batches(settings.batch_size, count):
                pixels.update(np.ascontiguousarray(batch))
                yield batch

        found = self._pass(self._progress(hashed(), "samples", count))
        _warn_of_few(count, notes)
        lines = {
            "inception_weights": f"{settings.inception}, sha256 {self.weights}",
            "resize": f"TensorFlow 1's bilinear to {SIDE}x{SIDE}, without antialiasing; no other",
            "inception_score_splits": f"{drawn.SPLITS} in the order of the samples",
        }
        if count < drawn.SPLITS:
            reason = f"needs at least {drawn.SPLITS} images, and there are {count}"
            notes.skip("inception score", reason, "Draw more.")
        if not processes.is_lead():
            return {}, lines
        if reference is None:
            return drawn.scores(found), lines
        figures = drawn.generation_figures(found, reference.features)
        if reference.features.rows is not None and "precision" not in figures:
            reason = f"need more than {drawn.NEIGHBOURS} images of each kind"
            notes.skip("precision, recall", reason, "Draw more, or give more.")
        return figures, reference.lines | lines

    def _progress(self, batches, doing: str, count: int) -> Iterator[np.ndarray]:
        """Yields batches; process 0 tells how many images were read."""
        if not processes.is_lead():
            yield from batches
            return
        with Progress(count, "image", what=doing) as progress:
            for batch in batches:
                yield batch
                progress.update(len(batch))


def _warn_of_few(count: int, notes: Notes) -> None:
    width = statistics.WIDTH
    if count < width:
        notes.warn(
            f"{count:,} samples have a singular covariance of {width} features: gFID is far too "
            "high, and says little"
        )
    elif count < PUBLISHED:
        notes.warn(
            f"gFID of {count:,} samples is too high by a bias that falls with their number: "
            f"compare it only with gFIDs of as many; published ones have {PUBLISHED:,}"
        )


def _labels(images: samples.DrawnImages, count: int) -> str:
    """Words for the labels: how they were chosen, if known, and how many each class has."""
    told = images.generation.labels if images.generation else _UNKNOWN
    if images.labels is None:
        return told
    classes, counts = np.unique(images.labels[:count], return_counts=True)
    each = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts[0]}"
    return f"{told}; counted: {len(classes):,} classes, {each} samples each"


def _generation(generation: samples.Generation | None) -> dict[str, Any]:
    """Lines of the settings that the samples were drawn with."""
    if generation is None:
        return {"drawn_with": _UNKNOWN, "rounding": _UNKNOWN}
    told = {"half_even": "half to even", "half_up": "floor(127.5 x + 128), as ADM"}
    return {
        "generator_hash": generation.checkpoint_hash,
        "tokenizer_hash": generation.tokenizer_hash,
        "scale": f"{generation.scale:g}, {generation.guidance}",
        "temperature": f"{generation.temperature:g}",
        "filters": f"top-k {generation.top_k or 'off'}, top-p "
        f"{generation.top_p if generation.top_p < 1 else 'off'}",
        "key": generation.key,
        "rounding": told[generation.rounding],
    }


def _captions(path: str, images: samples.DrawnImages) -> Sequence[str]:
    """Returns a caption of each sample, from a file of lines or from the samples' own codes.

    A line ends at a newline alone, and not at U+2028, say: as `unitok generate --prompts` reads it.

    Raises:
      ValueError: no captions, not as many lines as samples, an empty one, a file of records, such
        as .jsonl, or not UTF-8.
    """
    if not path and images.captions is None:
        raise ValueError(
            f"--checkpoint is for the CLIP score, and --samples={images.place} has no captions: "
            "give --captions=FILE, a line for each sample"
        )
    if not path:
        return images.captions
    file = expand(path)
    check_file(file)
    check_lines(file, f"--captions={path}", "a text a line, as .txt")
    try:
        captions = file.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"--captions={path} is no UTF-8 text: {error}") from error
    if len(captions) != images.count:
        raise ValueError(
            f"--captions={path} has {len(captions):,} lines, and there are {images.count:,} "
            "samples: give a line for each"
        )
    empty = next((line for line, text in enumerate(captions, 1) if not text.strip()), None)
    if empty:
        raise ValueError(f"--captions={path}: line {empty} is empty")
    return captions


def _check_towers(name: str, size: tuple[int, int]) -> None:
    """Refuses samples of a size that the towers of the CLIP score cannot take."""
    if any(side % STRIDE for side in size):
        raise ValueError(
            f"--samples={name} have {size[0]}x{size[1]} pixels, and the towers of --checkpoint "
            f"take multiples of {STRIDE}: draw them at such a size, or leave out --checkpoint and "
            "with it the CLIP score"
        )


def _clip_score(tokenizer, images: samples.DrawnImages, captions: Sequence[str]) -> float:
    texts, features = tokenizer.encode_text(captions), []
    with Progress(len(captions), "image", what="CLIP score") as progress:
        for batch in images.batches(tokenizer.batch_size, len(captions)):
            features.append(tokenizer.encode_image(batch))
            progress.update(len(batch))
    return clip_score(np.concatenate(features), texts)
