"""Conversations of the demo page with a multimodal model: about pictures, and drawings by words."""

import functools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unitok_jax.data.images.transforms import decode_image
from unitok_jax.demo import actions, drawing
from unitok_jax.multimodal.asking import placed, spoken, turns_of

MAX_TURNS = 16  # questions of a conversation, which is run again as a whole for each
LIMIT = 128  # ids of an answer
SILENCE = "..."  # stands for an answer without a word, as a message needs one


class Said(NamedTuple):
    """Question, its answer, and the file that was shown with it."""

    question: str  # with the places of its pictures
    answer: str
    picture: str | None  # None: none, or that of a question before


class Chat:
    """A `MultimodalModel` with its tokenizer, and the codes of the latest pictures."""

    def __init__(self, model):
        """Takes a model that has a tokenizer."""
        self.model = model
        self.codes = functools.lru_cache(maxsize=8)(self._codes)

    def _codes(self, path: str) -> np.ndarray:
        content = Path(path).read_bytes()
        pixels = decode_image(content, os.path.basename(path), actions.MAX_FILE_PIXELS)
        return np.asarray(self.model.encode([pixels])[0])

    def ask(self, said: list[Said], path: str | None, question: str | None) -> list[Said]:
        """Answers a question, and returns the conversation with it.

        Args:
          said: the conversation before.
          path: the uploaded file, which is shown with the question if it was not shown last; None:
            no picture.
          question: the text.

        Raises:
          ValueError: no question or one that is too long, places that no picture belongs to, or a
            conversation that is too long.
          OSError: the file cannot be read.
        """
        drawing.check_text(question, "question")
        if len(said) >= MAX_TURNS:
            raise ValueError(f"{MAX_TURNS} questions were asked: begin a new conversation")
        pictures = [turn.picture for turn in said if turn.picture]
        new = path if path and path not in pictures[-1:] else None
        (turn,) = placed(turns_of(question, "the question"), int(bool(new)), "the question")
        pictures += [new] if new else []
        messages = [*messages_of(said), {"role": "user", "content": turn.question}]
        codes = [self.codes(picture) for picture in pictures]
        answer = self.model.answer(codes, messages, limit=LIMIT)
        return [*said, Said(turn.question, spoken(answer) or SILENCE, new)]

    def draw(self, text: str | None, settings: drawing.Settings):
        """Draws pictures of one text: as `drawing.draw`, with the model's own tokenizer."""
        drawing.check_text(text)
        codes = self.model.draw([text] * drawing.PICTURES, **drawing.keywords(settings))
        books, tokens = codes.shape[1:]
        facts = f"{tokens} tokens of {books} codes drawn for each picture, seed {settings.seed}."
        return drawing.show(self.model.tokenizer, codes), facts


class Conversation:
    """What a visitor and the model said since it was begun."""

    def __init__(self):
        self.said: list[Said] = []

    def begin(self) -> None:
        """Forgets what was said, and drops the answer to a question that is being answered."""
        self.said = []

    def ask(self, chat: Chat, path: str | None, question: str | None) -> None:
        """Asks the next question; arguments and errors are those of `Chat.ask`."""
        said = self.said  # nobody looks at it any more once the conversation is begun anew
        said[:] = chat.ask(list(said), path, question)


def messages_of(said: list[Said]) -> list[dict[str, str]]:
    """Returns a conversation as messages in turn, {'role': 'user' or 'assistant', 'content'}."""
    return [
        {"role": role, "content": text}
        for turn in said
        for role, text in (("user", turn.question), ("assistant", turn.answer))
    ]
