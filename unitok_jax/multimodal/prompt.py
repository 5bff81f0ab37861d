"""Conversations as text with the words that models of a family were trained on, image by image.

A conversation becomes pieces, of which each is text, one special token or an image, and says if it
is of an answer: labels follow exactly, whatever the template.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unitok_jax.data.language_tokenizer import LanguageTokenizer

PLACEHOLDER = "<image>"
"""Word of questions and answers in whose place an image stands."""

IMAGE = -200
"""Value in place of an id where an image stands, until its vectors do."""


class Piece(NamedTuple):
    """Part of a conversation."""

    text: str = ""  # '' for an image
    is_answer: bool = False  # the model learns to say it
    is_token: bool = False  # `text` is the name of one special token
    is_image: bool = False

    def __str__(self) -> str:
        return PLACEHOLDER if self.is_image else self.text


class Turn(NamedTuple):
    """Question and answer; an answer of None is for the model to give."""

    question: str
    answer: str | None = None


class Template(NamedTuple):
    """Words and special tokens around what is said."""

    render: Callable[[Sequence[Turn], str, str], list[Piece]]  # turns, system, end
    system: str  # instruction before the first question, where none is given
    end: str  # token behind an answer; '' is the tokenizer's end of text


class Encoded(NamedTuple):
    """Ids of a conversation."""

    ids: np.ndarray  # int32 (T,), `IMAGE` where an image stands
    is_answer: np.ndarray  # bool (T,)


def conversation(
    turns: Sequence[Turn],
    tokenizer: LanguageTokenizer,
    template: str | None = None,
    system: str | None = None,
) -> list[Piece]:
    """Writes a conversation as a family of models knows it, without what begins a row.

    Args:
      turns: in order; only the last may lack an answer, before which the pieces then end.
      tokenizer: of the model.
      template: a key of `TEMPLATES`; None: the one that fits the tokenizer.
      system: instruction that comes first; '' is none, None the template's own.

    Raises:
      ValueError: an unknown template, one whose special tokens the tokenizer lacks, no turns, or an
        answer that is missing before the last turn.
    """
    name = template_of(tokenizer) if template is None else template
    if name not in TEMPLATES:
        raise ValueError(f"template={name!r} is not one of {', '.join(TEMPLATES)}")
    if not turns:
        raise ValueError("a conversation needs a question")
    if any(turn.answer is None for turn in turns[:-1]):
        raise ValueError("a turn before the last has no answer")
    chosen = TEMPLATES[name]
    if system is None:
        system = system_of(tokenizer, name)
    pieces = chosen.render(turns, system, chosen.end or tokenizer.end)
    for piece in pieces:
        if piece.is_token and tokenizer.id_of(piece.text) is None:
            raise ValueError(f"template={name}: the tokenizer has no {piece.text}")
    return [piece for piece in pieces if piece.text or piece.is_image]


def template_of(tokenizer: LanguageTokenizer) -> str:
    """Returns the template that fits a tokenizer, by the special tokens that it has."""
    marks = {"chatml": "<|im_start|>", "llama3": "<|start_header_id|>"}
    found = (name for name, mark in marks.items() if tokenizer.id_of(mark) is not None)
    return next(found, "vicuna")


def system_of(tokenizer: LanguageTokenizer, template: str) -> str:
    """Returns the instruction that comes first where none is given: of ChatML the tokenizer's."""
    return _own_system(tokenizer) if template == "chatml" else TEMPLATES[template].system


def end_of(tokenizer: LanguageTokenizer, template: str | None = None) -> int:
    """Returns the id that ends an answer."""
    end = TEMPLATES[template or template_of(tokenizer)].end
    return tokenizer.special.eos if not end else tokenizer.id_of(end)


def encode(pieces: Sequence[Piece], tokenizer: LanguageTokenizer) -> Encoded:
    """Returns the ids of pieces.

    Text that no special token or image interrupts is encoded as a whole, as models saw it; an id is
    of an answer if any of its characters is.
    """
    ids, marks, text, answers = [], [], "", []

    def flush():
        nonlocal text, answers
        spans = tokenizer.spans(text) if text else ()
        ids.extend(number for number, _ in spans)
        marks.extend(any(a < last and first < b for a, b in answers) for _, (first, last) in spans)
        text, answers = "", []

    for piece in pieces:
        if piece.is_image or piece.is_token:
            flush()
            ids.append(IMAGE if piece.is_image else tokenizer.id_of(piece.text))
            marks.append(piece.is_answer)
            continue
        if piece.is_answer:
            answers.append((len(text), len(text) + len(piece.text)))
        text += piece.text
    flush()
    return Encoded(np.array(ids, np.int32), np.array(marks, bool))


def count_images(text: str) -> int:
    """Counts the images that stand in a question or an answer."""
    return text.count(PLACEHOLDER)


def _said(text: str, is_answer: bool) -> list[Piece]:
    """Splits text at its images."""
    first, *rest = text.split(PLACEHOLDER)
    pieces = [Piece(first, is_answer)]
    for part in rest:
        pieces += [Piece(is_image=True, is_answer=is_answer), Piece(part, is_answer)]
    return pieces


def _vicuna(turns, system, end):
    """Writes vicuna v1.1: "SYSTEM USER: QUESTION ASSISTANT: ANSWER</s>USER: ..."."""
    pieces = [Piece(system and f"{system} ")]
    for question, answer in turns:
        pieces += [Piece("USER: "), *_said(question, False), Piece(" ASSISTANT:")]
        # The space is of the answer: a prompt ends at the colon.
        pieces += _answered(None if answer is None else f" {answer}", end)
    return pieces


def _plain(turns, system, end):
    """Writes "SYSTEM QUESTION ANSWER" and the end, for a vocabulary of a few words."""
    pieces = [Piece(system and f"{system} ")]
    for question, answer in turns:
        pieces += _said(question, False)
        pieces += _answered(None if answer is None else f" {answer}", end)
    return pieces


def _chatml(turns, system, end):
    """Writes Qwen's ChatML: a line with the role, what is said, and a token behind it."""

    def open_(role):
        return [Piece("<|im_start|>", is_token=True), Piece(f"{role}\n")]

    close = [Piece(end, is_token=True), Piece("\n")]
    pieces = [*open_("system"), Piece(system), *close] if system else []
    for question, answer in turns:
        pieces += [*open_("user"), *_said(question, False), *close, *open_("assistant")]
        pieces += _answered(answer, end)
        if answer is not None:
            pieces.append(Piece("\n"))
    return pieces


def _llama3(turns, system, end):
    """Writes Llama 3's headers; white space around what is said is left out."""

    def open_(role):
        tokens = [Piece(f"<|{side}_header_id|>", is_token=True) for side in ("start", "end")]
        return [tokens[0], Piece(role), tokens[1], Piece("\n\n")]

    close = [Piece(end, is_token=True)]
    pieces = [*open_("system"), Piece(system.strip()), *close] if system else []
    for question, answer in turns:
        pieces += [*open_("user"), *_said(question.strip(), False), *close, *open_("assistant")]
        pieces += _answered(answer and answer.strip(), end)
    return pieces


def _answered(answer: str | None, end: str) -> list[Piece]:
    """Returns an answer and its end, or nothing where the model is to answer."""
    if answer is None:
        return []
    return [*_said(answer, True), Piece(end, is_answer=True, is_token=True)]


_CHATML_SYSTEMS = (
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant",
)


def _own_system(tokenizer: LanguageTokenizer) -> str:
    """Returns the instruction that a tokenizer's own ChatML has where none is given: Qwen's."""
    found = (text for text in _CHATML_SYSTEMS if text in tokenizer.chat_template)
    return next(found, "")


TEMPLATES = {
    "vicuna": Template(
        _vicuna,
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions.",
        "",
    ),
    "llama3": Template(_llama3, "", "<|eot_id|>"),
    "chatml": Template(_chatml, "", "<|im_end|>"),
    "plain": Template(_plain, "", ""),
}
"""Templates by name."""
