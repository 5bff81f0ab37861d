"""Conversations about images as LLaVA writes them: questions and answers, with names of images."""

from typing import Any, NamedTuple

from unitok_jax.data.formats.json_records import JsonRecords, json_records
from unitok_jax.data.health import SampleError

PLACEHOLDER = "<image>"  # stands in a question or an answer where an image does
ASKS = ("human", "user")
ANSWERS = ("gpt", "assistant")
SYSTEM = "system"
_FORM = '{"image": NAME, "conversations": [{"from": "human", "value": TEXT}, {"from": "gpt", ...}]}'


class Conversation(NamedTuple):
    """Turns of a conversation, each with an answer, and the names of its images in their order."""

    name: str  # where it is from, for messages
    system: str | None  # instruction before the first question; None: none is given
    turns: tuple[tuple[str, str], ...]  # (question, answer)
    images: tuple[str, ...]


class Conversations:
    """Conversations of a file by position.

    Args:
        records: objects {'conversations': [{'from': role, 'value': text}, ...]} and perhaps
            'image', a name or a list of names.
    """

    def __init__(self, records: JsonRecords):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Conversation:
        """Returns a conversation, checked.

        Raises:
            SampleError: an object of another form, a question without words and image, no answer,
                or another number of images than places for them.
            OSError: the file cannot be read.
        """
        return read(self._records[index], self._records.name(index))


def conversations(path: str, key: str) -> Conversations:
    """Opens a file of conversations, .json or .jsonl; errors are those of `json_records`."""
    return Conversations(json_records(path, key))


def read(record: dict[str, Any], name: str) -> Conversation:
    """Reads a conversation of LLaVA's form; errors are those of `Conversations`.

    Args:
        record: the object.
        name: of the record, for messages.
    """
    images = record["image"] if "image" in record else []
    images = [images] if isinstance(images, str) else images
    images = [] if images is None else images
    if not isinstance(images, list) or not all(isinstance(each, str) for each in images):
        raise SampleError(f"{name}: 'image' is no name and no list of names", "bad_record")
    said = _said(record, name)
    system = said.pop(0)[1] if said and said[0][0] == SYSTEM else None
    roles = [role for role, _ in said]
    if not any(role in ANSWERS for role in roles):
        raise SampleError(f"{name}: nothing is answered, so there is nothing to learn", "no_answer")
    asked = [role in ASKS for role in roles]
    if asked != [number % 2 == 0 for number in range(len(asked))]:
        raise SampleError(f"{name}: questions and answers do not alternate: {roles}", "bad_record")
    texts = [text for _, text in said]
    turns = tuple(zip(texts[::2], texts[1::2], strict=False))  # a last question is unanswered
    for number, (question, answer) in enumerate(turns, start=1):
        if not question.strip():
            raise SampleError(f"{name}: question {number} is empty", "no_text")
        if not answer.strip():
            raise SampleError(f"{name}: answer {number} is empty", "no_answer")
    places = sum(text.count(PLACEHOLDER) for turn in turns for text in turn)
    if places != len(images):
        raise SampleError(
            f"{name}: {places} places {PLACEHOLDER} in the text for {len(images)} images: write "
            "one where each image stands",
            "image_places",
        )
    return Conversation(name, system, turns, tuple(images))


def _said(record: dict[str, Any], name: str) -> list[tuple[str, str]]:
    """Returns (role, text) of everything that is said."""
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise SampleError(f"{name} has no list 'conversations'; expected {_FORM}", "bad_record")
    said = []
    for turn in turns:
        fits = isinstance(turn, dict) and isinstance(turn.get("value"), str)
        if not fits or turn.get("from") not in (*ASKS, *ANSWERS, SYSTEM):
            raise SampleError(f"{name}: {turn!r:.80} is no turn; expected {_FORM}", "bad_record")
        said.append((turn["from"], turn["value"]))
    return said
