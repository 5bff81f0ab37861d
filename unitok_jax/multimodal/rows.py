"""Samples as ids of text with places of images: what is read, and what the model learns to say.

K codes of each of the L visual tokens of an image. Layouts are those of Liquid and of UniTok's
release (arXiv 2502.20321); **bold** has labels:

    text          bos **text**
    caption       bos boi IMAGE eoi **caption eos**
    draw          bos caption, instruction **boi IMAGE eoi eos**
    edit          bos boi IMAGE eoi instruction **boi IMAGE eoi eos**
    conversation  bos question, boi IMAGE eoi anywhere in it, **answer eos** question **answer eos**
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unitok_jax.data.health import SampleError, TooLong
from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.multimodal.prompt import IMAGE, Encoded

KINDS = ("draw", "caption", "questions", "chat", "edit", "text")
"""Kinds of samples, as `data.mixture` names them."""
NO_LABEL = -100
NO_IMAGE = -1
INSTRUCTION = " Generate an image based on this description."
UNCONDITIONAL = "<unconditional>"  # plain text, of several ids

_LONGEST_TOKEN = 64  # characters; text behind so many for every id of a row is not read


class Sample(NamedTuple):
    """Sample of t ids and visual tokens, with m images."""

    ids: np.ndarray  # int32 (t,), `pad` at images
    labels: np.ndarray  # int32 (t,), the id itself where it is learnt, else `NO_LABEL`
    image_at: np.ndarray  # int32 (t,), place among the m L visual tokens, else `NO_IMAGE`
    codes: np.ndarray  # int32 (m, K, L)
    drawn: np.ndarray  # bool (m,), images that are learnt
    kind: int = 0  # number of its kind in `KINDS`


@dataclasses.dataclass(frozen=True)
class Rows:
    """Makes samples; one that is longer than a row is a `TooLong`, and no image is ever cut."""

    tokenizer: LanguageTokenizer
    length: int  # ids and visual tokens of a row
    images: int  # images of a row, at most
    caption_ids: int = 1750  # a longer caption loses its last ids
    bare_images: bool = False  # conversations have no boi and eoi, as in the release
    draws: bool = True  # the model draws images; False: none may stand in an answer

    def text(self, text: str) -> Sample:
        """Makes a sample of text alone, cut at the end of a row; nothing says that it ends."""
        start = self.tokenizer.special.start
        ids = [*start, *self._encoded(text)][: self.length]
        return self._sample(ids, [n >= len(start) for n in range(len(ids))], [], "a text")

    def caption(self, codes: np.ndarray, caption: str) -> Sample:
        """Makes a sample that says what an image (K, L) shows."""
        named = self.tokenizer.special
        said = [*self._cut(caption), named.eos]
        seen = [*named.start, named.boi, IMAGE, named.eoi]
        marks = [False] * len(seen) + [True] * len(said)
        return self._sample([*seen, *said], marks, [codes], "a caption")

    def draw(self, codes: np.ndarray, caption: str | None) -> Sample:
        """Makes a sample that draws an image (K, L) from a caption, or from none (None)."""
        if caption is None:
            words = self.tokenizer.encode(UNCONDITIONAL)
        else:
            words = self._cut(caption, INSTRUCTION)
        return self._drawing([*self.tokenizer.special.start, *words], [codes], "a drawing")

    def edit(self, before: np.ndarray, instruction: str, after: np.ndarray) -> Sample:
        """Makes a sample that draws an image (K, L) from another and words."""
        named = self.tokenizer.special
        asked = [*named.start, named.boi, IMAGE, named.eoi, *self._cut(instruction)]
        return self._drawing(asked, [before, after], "an edit")

    def conversation(self, said: Encoded, images: Sequence[np.ndarray]) -> Sample:
        """Makes a sample of a conversation.

        Args:
          said: ids of its pieces, `IMAGE` where an image stands; the ends of answers are in them.
          images: codes (K, L) of each, in order.

        Raises:
          SampleError: another number of images than places, nothing that is answered, or an image
            in an answer to a model that draws none.
        """
        named = self.tokenizer.special
        places = int(np.sum(said.ids == IMAGE))
        if places != len(images):
            message = f"{places} places in a conversation for {len(images)} images"
            raise SampleError(message, "image_places")
        if not said.is_answer.any():
            raise SampleError("a conversation has no answer to learn", "no_answer")
        if not self.draws and (said.is_answer & (said.ids == IMAGE)).any():
            raise SampleError(
                "an image stands in an answer, and model.projection=full draws nothing: set "
                "model.projection=causal, or leave the conversation out",
                "drawn_image",
            )
        around = [IMAGE] if self.bare_images else [named.boi, IMAGE, named.eoi]
        ids, marks = list(named.start), [False] * len(named.start)
        for number, is_answer in zip(said.ids.tolist(), said.is_answer.tolist(), strict=True):
            more = around if number == IMAGE else [number]
            ids += more
            marks += [is_answer] * len(more)
        return self._sample(ids, marks, images, "a conversation")

    def _drawing(self, asked: list[int], images, name: str) -> Sample:
        named = self.tokenizer.special
        drawn = [named.boi, IMAGE, named.eoi, named.eos]
        marks = [False] * len(asked) + [True] * len(drawn)
        return self._sample([*asked, *drawn], marks, images, name)

    def _encoded(self, text: str) -> list[int]:
        return self.tokenizer.encode(text[: _LONGEST_TOKEN * self.length])

    def _cut(self, text: str, behind: str = "") -> list[int]:
        """Returns the ids of a text, cut where needed, with words behind it that are never cut."""
        ids = self._encoded(text)
        if len(ids) > self.caption_ids:
            return ids[: self.caption_ids] + (self.tokenizer.encode(behind) if behind else [])
        return self._encoded(text + behind) if behind else ids

    def _sample(self, ids: list[int], marks: list[bool], images, name: str) -> Sample:
        length = len(ids) + sum(codes.shape[-1] - 1 for codes in images)
        if length > self.length or len(images) > self.images:
            raise TooLong(
                f"{name} of {length} ids and visual tokens with {len(images)} images: "
                f"data.length={self.length} and {self.images} images are what a row holds"
            )
        return expand(ids, marks, images, self.tokenizer.special.pad)


def expand(
    ids: Sequence[int], marks: Sequence[bool], images: Sequence[np.ndarray], pad: int
) -> Sample:
    """Puts images into their places among ids.

    Args:
      ids: `IMAGE` where an image stands.
      marks: as many, what is learnt.
      images: codes (K, L) of each, in order; at least as many as places.
      pad: id at the places of visual tokens.
    """
    ids, marks = np.asarray(ids, np.int32), np.asarray(marks, bool)
    is_image = ids == IMAGE
    tokens = images[0].shape[-1] if len(images) else 0
    counts = np.where(is_image, tokens, 1)
    inside = np.repeat(is_image, counts)  # (t,)
    image_at = np.full(len(inside), NO_IMAGE, np.int32)
    image_at[inside] = np.arange(inside.sum())
    whole = np.where(inside, pad, np.repeat(ids, counts)).astype(np.int32)
    learnt = np.repeat(marks, counts) & ~inside
    codes = np.stack(images).astype(np.int32) if len(images) else np.zeros((0, 0, 0), np.int32)
    labels = np.where(learnt, whole, NO_LABEL).astype(np.int32)
    return Sample(whole, labels, image_at, codes, marks[is_image])


def pick_caption(captions: Sequence[str], rng: np.random.Generator) -> str:
    """Picks one of several captions: of two, the longer one in four of five cases."""
    if len(captions) == 2:
        return sorted(captions, key=len)[int(rng.random() < 0.8)]
    return captions[rng.integers(len(captions))]
