"""Prompts of a multimodal model: what is asked, as ids with places of images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.multimodal import prompt
from unitok_jax.multimodal.prompt import IMAGE, PLACEHOLDER, Turn
from unitok_jax.multimodal.rows import INSTRUCTION, UNCONDITIONAL, Sample, expand
from unitok_jax.multimodal.sampling import Prompt

ROLES = ("user", "assistant")

_LONGEST_TOKEN = 64  # characters; longer text than of a row of such tokens is not encoded


class Asker(NamedTuple):
    """Makes prompts in the form that a model was trained on."""

    tokenizer: LanguageTokenizer
    template: str | None  # a key of `prompt.TEMPLATES`; None: the one that fits the tokenizer
    bare_images: bool  # no ids stand around images of conversations
    length: int  # ids and visual tokens of a prompt with what follows it, at most

    @property
    def facts(self) -> dict[str, str | bool]:
        """Facts that the ids of a question depend on beside its words, as JSON values."""
        template = self.template or prompt.template_of(self.tokenizer)
        return {
            "tokenizer of the text": self.tokenizer.hash,
            "template": template,
            "system": prompt.system_of(self.tokenizer, template),
            "bare_images": self.bare_images,
        }

    def question(
        self, asked, images: Sequence[np.ndarray], limit: int, system: str | None, name: str
    ) -> Sample:
        """Makes the prompt of an answer.

        Args:
          asked: a question, or messages: as for `turns_of`.
          images: codes (K, L) of each, in the order of their places; without any places they stand
            before the first question.
          limit: ids of the answer, at most.
          system: instruction before the first question; None: the template's own.
          name: of the question, for messages.

        Raises:
          ValueError, TypeError: nothing is asked, other places than images, or a prompt that is too
            long.
        """
        turns = turns_of(asked, name)
        self._check_length("".join(text for turn in turns for text in turn if text), name)
        turns = placed(turns, len(images), name)
        said = prompt.encode(
            prompt.conversation(turns, self.tokenizer, self.template, system), self.tokenizer
        )
        named = self.tokenizer.special
        around = [IMAGE] if self.bare_images else [named.boi, IMAGE, named.eoi]
        ids = [i for n in said.ids.tolist() for i in (around if n == IMAGE else [n])]
        return self._made([*named.start, *ids], images, limit, name)

    def drawing(self, text: str, tokens: int, name: str) -> Sample:
        """Makes the prompt of an image of so many visual tokens from its description."""
        return self._drawing(check_text(text, name) + INSTRUCTION, tokens, name)

    def unconditional(self, tokens: int) -> Sample:
        """Makes the prompt of an image without a description."""
        return self._drawing(UNCONDITIONAL, tokens, "no text")

    def edit(self, image: np.ndarray, text: str, name: str) -> Sample:
        """Makes the prompt of an image from another, codes (K, L), and an instruction."""
        named, words = self.tokenizer.special, check_text(text, name)
        self._check_length(words, name)
        ids = [named.boi, IMAGE, named.eoi, *self.tokenizer.encode(words), named.boi]
        return self._made([*named.start, *ids], [image], image.shape[-1], name)

    def _drawing(self, words, tokens, name):
        self._check_length(words, name)
        named = self.tokenizer.special
        ids = [*named.start, *self.tokenizer.encode(words), named.boi]
        return self._made(ids, [], tokens, name)

    def _made(self, ids, images, more, name) -> Sample:
        row = expand(ids, [False] * len(ids), images, self.tokenizer.special.pad)
        if len(row.ids) + more > self.length:
            raise ValueError(
                f"{name} has {len(row.ids)} ids and visual tokens, and with {more} that follow "
                f"they are over length={self.length}: ask for less, or load the model with another "
                "length"
            )
        return row

    def _check_length(self, text: str, name: str) -> None:
        if len(text) > _LONGEST_TOKEN * self.length:
            raise ValueError(
                f"{name} has {len(text)} characters, over {_LONGEST_TOKEN} for each of the "
                f"length={self.length} ids of a prompt"
            )


def turns_of(asked, name: str) -> list[Turn]:
    """Returns the turns of a conversation, the last without an answer.

    Args:
      asked: a question; or messages in order, {'role': 'user' or 'assistant', 'content': text}, in
        turn, from the first question to the one that is to be answered.
      name: of the question, for messages of errors.

    Raises:
      ValueError, TypeError: another form, or a blank question; an answer may be blank.
    """
    if isinstance(asked, str):
        return [Turn(check_text(asked, name))]
    if not isinstance(asked, Sequence) or not all(isinstance(each, Mapping) for each in asked):
        raise TypeError(f"{name} is {type(asked).__name__}: expected text, or a list of messages")
    roles = [each.get("role") for each in asked]
    if not len(asked) % 2 or roles != [ROLES[n % 2] for n in range(len(asked))]:
        raise ValueError(
            f"{name}: the roles of its messages are {roles}; expected user, assistant, ..., user"
        )
    texts = [
        check_text(each.get("content"), name, blank=role == "assistant")
        for each, role in zip(asked, roles, strict=True)
    ]
    return [Turn(*pair) for pair in zip(texts[::2], [*texts[1::2], None], strict=True)]


def spoken(answer: str) -> str:
    """Returns an answer as it goes on in a conversation: the word for a place shows no image."""
    return answer.replace(PLACEHOLDER, "image")


def placed(turns: Sequence[Turn], images: int, name: str) -> list[Turn]:
    """Returns turns with a place for each image: as they are, or before the first question.

    Raises:
      ValueError: there are other places than images.
    """
    places = sum(prompt.count_images(text) for turn in turns for text in turn if text)
    if places == images:
        return list(turns)
    if places:
        raise ValueError(
            f"{name} has {places} places {PLACEHOLDER} for {images} images: give an image for "
            "each, or no place at all, which puts the images before the question"
        )
    first, *rest = turns
    return [first._replace(question=f"{PLACEHOLDER}\n" * images + first.question), *rest]


def check_text(text, name: str, blank: bool = False) -> str:
    """Returns a text.

    Raises:
      ValueError, TypeError: not a text, or a blank one unless these are allowed.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} is {type(text).__name__}: expected text")
    if not blank and not text.strip():
        raise ValueError(f"{name} is empty: it needs a word")
    return text


def stacked(rows: Sequence[Sample], books: int, tokens: int, images: int) -> Prompt:
    """Pads rows on the left to one length, and their images to one number, at least `images`."""
    length = max(len(row.ids) for row in rows)
    most = max(images, *(len(row.codes) for row in rows))
    out = Prompt(
        ids=np.zeros((len(rows), length), np.int32),
        image_at=np.full((len(rows), length), -1, np.int32),
        codes=np.zeros((len(rows), most, books, tokens), np.int32),
        valid=np.zeros((len(rows), length), bool),
    )
    for n, row in enumerate(rows):
        here = slice(length - len(row.ids), None)
        out.ids[n, here], out.image_at[n, here], out.valid[n, here] = row.ids, row.image_at, True
        if len(row.codes):
            out.codes[n, : len(row.codes)] = row.codes
    return out
