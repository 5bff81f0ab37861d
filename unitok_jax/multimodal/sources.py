"""Parts of the data of a multimodal model, and their mixture: codes with captions, conversations,
questions about drawn shapes, edits, and text alone."""

import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from unitok_jax.data.codes.names import CodesByName
from unitok_jax.data.codes.records import CodeRecords, open_codes
from unitok_jax.data.codes.views import CENTRE
from unitok_jax.data.formats.conversations import conversations
from unitok_jax.data.formats.json_records import json_records
from unitok_jax.data.formats.shape_questions import ask_several
from unitok_jax.data.formats.shapes import EditedShapes, split_of
from unitok_jax.data.formats.texts import text_source
from unitok_jax.data.health import SampleError
from unitok_jax.data.mixture import Mixture
from unitok_jax.multimodal import prompt
from unitok_jax.multimodal.rows import KINDS, Rows, Sample, pick_caption
from unitok_jax.system.passing import with_text

FIELDS = ("image", "instruction", "edited")  # of a line of edits

_EXAMPLE = '((0.5, "draw", "codes/photos"), (0.5, "chat", "llava.jsonl", "codes/photos"))'


class ImageCodes(NamedTuple):
    """Facts of the codes that a model takes."""

    num_codebooks: int
    codebook_size: int
    grid: tuple[int, int]
    tokenizer: str = ""  # `Tokenizer.hash`; '' is any, and one for all folders

    @property
    def shape(self) -> tuple[int, int]:
        """Returns (K, L)."""
        return self.num_codebooks, math.prod(self.grid)


class Opened(NamedTuple):
    """Data of a run."""

    mixture: Mixture  # its parts have `sample(index, rng)`
    kinds: tuple[int, ...]  # of the samples of each part, numbers in `KINDS`
    codes: ImageCodes  # with their tokenizer
    digest: str  # of all codes, 8 hexadecimal digits


class Drawings:
    """Images of a folder of codes, drawn from their captions.

    Args:
        records: the codes.
        rows: makes the samples.
        unconditional: share that is drawn without its caption, as are images without any.
    """

    def __init__(self, records: CodeRecords, rows: Rows, unconditional: float):
        self.records, self._rows, self._unconditional = records, rows, unconditional

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Makes the sample of an image, with one of its captions."""
        record = self.records[index]
        captions = record["captions"]
        with_caption = rng.random() >= self._unconditional and bool(captions)
        caption = pick_caption(captions, rng) if with_caption else None
        return self._rows.draw(centre(record), caption)


class Captions:
    """Images of a folder of codes, described by one of their captions."""

    def __init__(self, records: CodeRecords, rows: Rows):
        self.records, self._rows = records, rows

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Makes the sample of an image; one without a caption is a `SampleError`."""
        record = self.records[index]
        if not record["captions"]:
            raise SampleError(f"the codes of {record['key']} have no caption", "no_caption")
        return self._rows.caption(centre(record), pick_caption(record["captions"], rng))


class ShapeQuestions:
    """Questions about drawn shapes, made anew at every reading: `formats.shape_questions`.

    Args:
        records: codes of pictures of shapes, whose names tell what is on them.
        rows: makes the samples.
        template: as in `prompt.conversation`.
        most: questions about a picture, asked in turn.
    """

    def __init__(self, records: CodeRecords, rows: Rows, template: str | None, most: int):
        self.records, self._rows, self._template, self._most = records, rows, template, most
        split_of(records[0]["key"])

    def __len__(self) -> int:
        return len(self.records)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Makes the sample of a picture and one or more questions."""
        record = self.records[index]
        split, number = split_of(record["key"])
        found = ask_several(split.scene(number), rng, self._most, split.pairs)
        turns = [prompt.Turn(each.question, each.answer) for each in found]
        turns[0] = turns[0]._replace(question=f"{prompt.PLACEHOLDER}\n{turns[0].question}")
        said = _encoded(turns, self._rows, self._template, None)
        return self._rows.conversation(said, [centre(record)])


class Chats:
    """Conversations about images, whose codes are found by the names of the images.

    Args:
        path: of the conversations, .json or .jsonl of LLaVA's form.
        codes: codes of the images; None where none of them has any.
        rows: makes the samples.
        template: as in `prompt.conversation`.
        key: of the path in the config, for messages.
    """

    def __init__(self, path: str, codes: CodeRecords | None, rows: Rows, template, key: str):
        self._said, self._rows, self._template = conversations(path, key), rows, template
        self._codes = None if codes is None else CodesByName(codes)

    def __len__(self) -> int:
        return len(self._said)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Makes the sample of a conversation; one that cannot be used is a `SampleError`."""
        found = self._said[index]
        turns = [prompt.Turn(*turn) for turn in found.turns]
        images = [_named(self._codes, image, found.name) for image in found.images]
        return self._rows.conversation(
            _encoded(turns, self._rows, self._template, found.system), images
        )


class Edits:
    """Images edited by words, as the lines of a .jsonl file name them."""

    def __init__(self, path: str, codes: CodeRecords, rows: Rows, key: str):
        self._lines, self._codes, self._rows = json_records(path, key), CodesByName(codes), rows

    def __len__(self) -> int:
        return len(self._lines)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Makes the sample of an edit; a line of another form is a `SampleError`."""
        line, name = self._lines[index], self._lines.name(index)
        texts = [line.get(field) for field in FIELDS]
        if not all(isinstance(text, str) for text in texts):
            message = f"{name}: needs a text under each of {', '.join(FIELDS)}"
            raise SampleError(message, "bad_record")
        if not texts[1].strip():
            raise SampleError(f"{name}: the instruction is empty", "no_text")
        before, after = (_named(self._codes, text, name) for text in texts[::2])
        return self._rows.edit(before, texts[1], after)


class ShapeEdits:
    """Edits of drawn shapes, from codes of `--data=shapes:edits`."""

    def __init__(self, records: CodeRecords, rows: Rows):
        self._codes, self._rows = CodesByName(records), rows
        self._length = len(records) // 2
        if not self._length or not isinstance(split_of(records[0]["key"])[0], EditedShapes):
            raise ValueError("these are no pictures in pairs: tokenize --data=shapes:edits")

    def __len__(self) -> int:
        return self._length

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Makes the sample of a pair of pictures."""
        words = EditedShapes().edit(index)[2]
        names = [f"shapes/edits/{number:010d}.png" for number in (2 * index, 2 * index + 1)]
        before, after = (_named(self._codes, name, "the edit") for name in names)
        return self._rows.edit(before, words, after)


class Texts:
    """Text alone."""

    def __init__(self, path: str, rows: Rows, key: str, window: int):
        self._texts, self._rows = text_source(path, key, window), rows
        blocks = getattr(self._texts, "blocks", None)
        if blocks is not None:
            self.blocks = blocks

    def __len__(self) -> int:
        return len(self._texts)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Makes the sample of a text."""
        return self._rows.text(self._texts[index])


def open_mixture(data, rows: Rows, codes: ImageCodes, name: str = "data.mixture") -> Opened:
    """Opens what `data.mixture` lists: (weight, kind, path) or (weight, kind, path, codes).

    Kinds are draw, caption and questions, whose path is a folder of codes; text, of JSON or
    Parquet; chat, a file of conversations and the codes of their images; edit, a file of edits and
    codes, or codes of `--data=shapes:edits` alone.

    Args:
        data: the `data` config: `mixture` and how its parts are read.
        rows: makes the samples.
        codes: what the model takes.
        name: of the key that lists them, for messages.

    Raises:
        ValueError: an entry that is not of this form, codes of another tokenizer than the model's
            or than other parts', a file or a folder that cannot be used; the message names the
            entry.
        FileNotFoundError: a path does not exist.
    """
    if not data.mixture:
        raise ValueError(f"{name} is empty: list (weight, kind, path), as {_EXAMPLE}")
    opened: dict[str, CodeRecords] = {}
    parts, weights = [], []
    for number, entry in enumerate(data.mixture):
        key = f"{name}[{number}]"
        check_entry(entry, f"{key}={entry!r}")
        weight, kind, path, folder = (*entry, "")[:4]
        # Where a path names codes, there is no further folder of them.
        folder = folder if kind in ("text", "chat") else folder or path
        try:
            if folder and folder not in opened:
                opened[folder] = _open_codes(folder, codes)
                codes = codes._replace(tokenizer=opened[folder].tokenizer_hash)
            records = opened[folder] if folder else None
            parts.append(_open_part(kind, path, folder, records, rows, data, key))
        except OSError as error:
            raise with_text(error, _with_key(error, key, path)) from error
        except ValueError as error:
            raise ValueError(_with_key(error, key, path)) from error
        weights.append(float(weight))
    digest = 0
    for records in opened.values():
        for shard in records.manifest["shards"]:
            digest = zlib.crc32(shard["sha256"].encode(), digest)
    kinds = tuple(KINDS.index(kind) for _, kind, *_ in data.mixture)
    return Opened(Mixture(parts, weights), kinds, codes, f"{digest:08x}")


def _with_key(error: Exception, key: str, path: str) -> str:
    text = str(error)
    return text if text.startswith(key) else f"{key}={path}: {text}"


def _open_part(kind, path, folder, records, rows: Rows, data, key):
    template = data.template or None
    if kind == "draw":
        return Drawings(records, rows, data.unconditional)
    if kind == "caption":
        return Captions(records, rows)
    if kind == "questions":
        return ShapeQuestions(records, rows, template, data.questions)
    if kind == "chat":
        return Chats(path, records, rows, template, key)
    if kind == "edit":
        return ShapeEdits(records, rows) if folder == path else Edits(path, records, rows, key)
    return Texts(path, rows, key, data.window)


def check_entry(entry: Any, where: str) -> None:
    """Checks the form of an entry of `data.mixture`; no file is looked at.

    Raises:
        ValueError: another form; the message begins with `where`.
    """
    fits = isinstance(entry, tuple | list) and len(entry) in (3, 4)
    if not fits or not all(isinstance(text, str) for text in entry[1:]):
        raise ValueError(f"{where} is not (weight, kind, path) or (weight, kind, path, codes)")
    weight, kind, path, folder = (*entry, "")[:4]
    number_like = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number_like or not 0 < weight < math.inf:
        raise ValueError(f"{where}: the weight must be a positive number; leave the part out")
    if kind not in KINDS:
        raise ValueError(f"{where}: {kind!r} is not one of {', '.join(KINDS)}")
    if not path:
        raise ValueError(f"{where}: the path is empty")
    if folder and kind not in ("chat", "edit"):
        raise ValueError(f"{where}: {kind} reads no further codes than its path; leave it out")


def _open_codes(folder: str, codes: ImageCodes) -> CodeRecords:
    records = open_codes(folder)
    if not len(records):
        raise ValueError(f"{folder} holds no codes")
    books, entries = records.codebook_shape
    found = ImageCodes(books, entries, records.grid, records.tokenizer_hash)
    for name, ours, theirs in zip(codes._fields, codes, found, strict=True):
        if ours and ours != theirs:
            raise ValueError(
                f"{folder} holds codes of {name}={theirs}, and the model takes {name}={ours}: "
                "tokenize the images with the tokenizer of the model"
            )
    if records.manifest["settings"]["tokens"] != math.prod(records.grid):
        raise ValueError(
            f"{folder} holds codes of more tokens than its grid of {records.grid}: those of a "
            "tokenizer with model.num_query=0 are wanted"
        )
    return records


def centre(record: dict[str, Any]) -> np.ndarray:
    """Returns the codes (K, L) of the centre crop of a record, in which left is left."""
    return record["codes"][CENTRE[len(record["codes"])]]


def _named(codes: CodesByName | None, image: str, name: str) -> np.ndarray:
    if codes is None:
        raise SampleError(f"{name}: {image!r:.200} needs codes, and none are given", "no_codes")
    try:
        return centre(codes[image])
    except KeyError as error:
        raise SampleError(f"{name}: {image!r:.200} is not in the codes", "no_codes") from error


def _encoded(turns: Sequence[prompt.Turn], rows: Rows, template, system) -> prompt.Encoded:
    pieces = prompt.conversation(turns, rows.tokenizer, template, system)
    return prompt.encode(pieces, rows.tokenizer)
