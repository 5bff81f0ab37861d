"""Batches of packed rows for a multimodal model.

The position in the data is the step. Rows are packed in groups: group g holds the samples from
g * samples on, so each row is a function of (seed, its position in the stream), for any number of
processes and for any step that a run resumes at.
"""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unitok_jax.data import language_tokenizer, order
from unitok_jax.data.formats.cache import Cache
from unitok_jax.data.health import Health, Notes, SampleError
from unitok_jax.data.identity import order_facts, probed
from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.data.pipeline import Batches
from unitok_jax.data.reading import stream
from unitok_jax.data.replacement import usable
from unitok_jax.multimodal import prompt
from unitok_jax.multimodal.packing import fill, pack
from unitok_jax.multimodal.rows import Rows, Sample
from unitok_jax.multimodal.sources import ImageCodes, Opened, open_mixture
from unitok_jax.multimodal.words import shape_tokenizer
from unitok_jax.system.passing import with_text

_KEPT_GROUPS = 64  # packed groups kept in a process, for threads that read rows of one


def images_of(data, tokens: int) -> int:
    """Returns M, the images that a row can hold: `data.images`, or as many as have room."""
    return data.images or max(1, data.length // (tokens + (0 if data.bare_images else 2)))


def rows_of(data, tokenizer, tokens: int, draws: bool = True) -> Rows:
    """Returns what makes the samples of a run.

    Args:
        data: the `data` config.
        tokenizer: a `LanguageTokenizer`.
        tokens: visual tokens of an image.
        draws: the model draws images.
    """
    limits = data.length, images_of(data, tokens), data.caption_ids
    return Rows(tokenizer, *limits, data.bare_images, draws)


def open_text(path: str) -> LanguageTokenizer:
    """Opens the tokenizer of the text that `data.text` names.

    Args:
        path: a folder with a tokenizer.json, of a language model if it has a config.json;
            `hf://owner/name`; or 'shapes': the words of drawn shapes.

    Raises:
        ValueError: no path, or a tokenizer that cannot be used.
        OSError: the folder does not exist, or holds no tokenizer.
    """
    if path == "shapes":
        return shape_tokenizer()
    if not path:
        raise ValueError("data.text is empty: name a folder with a tokenizer.json, or shapes")
    # Data workers import this file, and need no weights.
    from unitok_jax.multimodal import trunk
    from unitok_jax.weights import hub, load

    try:
        folder = load.local(path, trunk.FILES)
        if (folder / language_tokenizer.FILE).is_file() and not (folder / hub.CONFIG).is_file():
            return language_tokenizer.read(folder)
        return trunk.open_folder(path).tokenizer
    except (ValueError, OSError) as error:
        raise with_text(error, f"data.text={path}: {error}") from error


def open_data(
    data, tokenizer, codes: ImageCodes, name: str = "data.mixture", *, draws: bool = True
) -> "Packed":
    """Opens the data of a run.

    Args:
        data: the `data` config.
        tokenizer: a `LanguageTokenizer`.
        codes: what the model takes.
        name: of the key of the mixture, for messages.
        draws: as for `rows_of`.

    Raises:
        ValueError, OSError: a value of the config, or a part of the mixture, that does not fit.
    """
    check(data, codes.shape[1])
    try:
        prompt.conversation([prompt.Turn("?", "!")], tokenizer, data.template or None)
    except ValueError as error:
        raise ValueError(f"data.{error}") from error
    rows = rows_of(data, tokenizer, codes.shape[1], draws)
    opened = open_mixture(data, rows, codes, name)
    return Packed(opened, rows, data.group_rows, data.group_samples, data.window)


def check(data, tokens: int) -> None:
    """Checks the keys of a `data` config.

    Raises:
        ValueError: the message names the key, its value and a remedy.
    """
    counts = "length", "caption_ids", "questions", "batch_size", "window"
    for key in (*counts, "group_rows", "group_samples"):
        if data[key] < 1:
            raise ValueError(f"data.{key}={data[key]} must be at least 1")
    if data.images < 0:
        raise ValueError(f"data.images={data.images} must be at least 1, or 0: as have room")
    if not 0 <= data.unconditional <= 1:
        raise ValueError(f"data.unconditional={data.unconditional} is a share: give 0 to 1")
    if data.template and data.template not in prompt.TEMPLATES:
        raise ValueError(
            f"data.template={data.template!r} is not one of {', '.join(prompt.TEMPLATES)}; empty "
            "is the one that fits the text tokenizer"
        )
    if data.length < tokens + 4:
        raise ValueError(
            f"data.length={data.length} holds no image of {tokens} tokens with the ids around it: "
            f"set it to at least {tokens + 4}"
        )


class Packed:
    """Packed rows by position of the endless stream, once a seed is given.

    Attributes:
        mixture: the parts.
        codes: facts of all codes.
        images: M.
        group_rows: rows packed together.
    """

    def __init__(
        self, opened: Opened, rows: Rows, group_rows: int, group_samples: int, window: int
    ):
        self.mixture, self._kinds, self.codes, self._digest = opened
        self.images, self.group_rows = rows.images, group_rows
        self._rows, self._window, self._group_samples = rows, window, group_samples

    def __len__(self) -> int:
        """Returns the number of samples of all parts."""
        return len(self.mixture)

    @property
    def facts(self) -> dict[str, Any]:
        """Facts that the meaning of the position in the data depends on, as short JSON values."""
        blocks = [order_facts(part)["blocks"] for part in self.mixture.parts]
        window = {"data.window": self._window} if any(blocks) else {}
        return {
            "parts of the data": [[type(part).__name__, len(part)] for part in self.mixture.parts],
            "order of the data": {"blocks of the parts": blocks} | window,
            "samples of the parts": list(map(_digest, self.mixture.parts)),
            "weights of the parts": list(self.mixture.weights),
            "digest of the codes": self._digest,
            "tokenizer of the codes": self.codes.tokenizer,
            "tokenizer of the text": self._rows.tokenizer.hash,
            "packing": [self._rows.length, self.images, self.group_rows, self._group_samples],
        }

    def batches(
        self, data, seed: int, *, start_step: int = 0, rows: Sequence[int] | None = None
    ) -> Batches:
        """Opens this process's rows of the global batches from `start_step` on, without end.

        A sample that cannot be used is replaced by the next good one of its part and counted, as
        one that is too long for a row; samples for which a group has no room are counted and left
        out of this turn. Its `health` counts `part/N`, samples of each part of the mixture;
        `left_out/too_long` and `left_out/no_room`; and places: `filled` of `places`.

        Args:
            data: the `data` config; `batch_size`, `max_bad`, `num_threads`, `num_workers` are read.
            seed: at least 0.
            start_step: the first global batch.
            rows: ascending rows of the global batch that this process reads; None: all.

        Yields:
            Arrays of `packing.fill`, each with a row axis in front.

        Raises:
            ValueError: from the iterator, `SampleError` after too many consecutive samples that
                cannot be used and `TooManyBadSamples` after too many in total.
        """
        rows = range(data.batch_size) if rows is None else rows
        read = _Rows(self, order.order(self.mixture, seed, self._window), seed)
        batches = stream(read, data.batch_size, tuple(rows), data, first_batch=start_step)
        return Batches([batches], Health(data.max_bad))

    def group(self, number: int, positions, seed: int) -> tuple[list[dict[str, np.ndarray]], Notes]:
        """Packs a group: its rows, and what was read for them.

        Args:
            number: of the group.
            positions: order of the mixture.
            seed: of the run.
        """
        notes, samples, parts = Notes(), [], []
        first = number * self._group_samples
        for position in range(first, first + self._group_samples):
            draws = functools.partial(order.generator, seed, position)
            part, sample = self._sample(positions[position], draws, notes)
            samples.append(sample)
            parts.append(part)
        length, shape = self._rows.length, self.codes.shape
        placed = pack(samples, self.group_rows, length, self.images)
        pad = self._rows.tokenizer.special.pad
        filled = [
            fill(
                [samples[n] for n in each],
                length=length,
                images=self.images,
                image_shape=shape,
                pad=pad,
            )
            for each in placed
        ]
        for each in sorted(n for row in placed for n in row):
            notes.samples += 1
            notes.bytes += samples[each].codes.nbytes // 2 + samples[each].ids.nbytes
            notes.counts[f"part/{parts[each]}"] += 1
            notes.counts["filled"] += len(samples[each].ids)
        notes.counts["left_out/no_room"] += len(samples) - notes.samples
        notes.counts["places"] += self.group_rows * length
        return filled, notes

    def _sample(self, index: int, draws: Callable, notes: Notes) -> tuple[int, Sample]:
        """Reads a sample; each try begins the draws that `draws` returns anew."""
        number, place = self.mixture.place(index)
        part = self.mixture.parts[number]
        sample = usable(lambda tried: part.sample(tried, draws()), place, len(part), notes)
        return number, sample._replace(kind=self._kinds[number])


def _digest(part) -> str:
    """Returns the checksum of a few samples of a part, as 8 hexadecimal digits."""
    digest = 0
    for index in probed(len(part)):
        try:
            sample = part.sample(index, np.random.default_rng(index))
        except SampleError as error:
            facts = [error.reason.encode()]
        else:
            facts = [sample.ids.tobytes(), sample.labels.tobytes(), sample.codes.tobytes()]
        for fact in facts:
            digest = zlib.crc32(fact, digest)
    return f"{digest:08x}"


class _Rows:
    """Reads the rows at positions of the stream; threads share the groups of their rows."""

    image_shape = (0,)  # there are none

    def __init__(self, packed: Packed, positions, seed: int):
        self._packed, self._positions, self._seed = packed, positions, seed
        self._groups = Cache(_KEPT_GROUPS)

    def __call__(self, positions: Sequence[int], images: np.ndarray) -> dict[str, Any]:
        rows, notes = [], Notes()
        for position in positions:
            number, place = divmod(position, self._packed.group_rows)
            filled, found = self._groups.get(number, lambda number=number: self._group(number))
            rows.append(filled[place])
            if not place:  # a group is counted once, by whoever reads its first row
                notes.update(found)
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]} | {"notes": notes}

    def _group(self, number: int):
        return self._packed.group(number, self._positions, self._seed)
