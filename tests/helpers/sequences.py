"""What the tests of a multimodal model's data share: codes of shapes, and the reference's batch."""

import types

import numpy as np
from ml_collections import ConfigDict

from helpers import coded, parity
from unitok_jax.data.formats.shapes import SPLITS
from unitok_jax.data.language_tokenizer import SpecialIds
from unitok_jax.multimodal.prompt import Encoded
from unitok_jax.multimodal.rows import INSTRUCTION, NO_LABEL, UNCONDITIONAL, Rows
from unitok_jax.multimodal.sources import ImageCodes

CODES = ImageCodes(coded.BOOKS, coded.ENTRIES, coded.GRID)
TOKENS = coded.GRID[0] * coded.GRID[1]
SPECIAL = SpecialIds(bos=1, eos=2, pad=0, boi=3, eoi=4)


def shapes(output, count=24, split="train", **changes):
    """Writes codes that are named and captioned as pictures of a split of `shapes`."""
    pictures = SPLITS[split]()
    return coded.write(
        output,
        count,
        names=lambda i: f"shapes/{split}/{i:010d}.png",
        captions=lambda i: pictures[i]["captions"],
        **{"--views": "center", "class_names": None} | changes,
    )


def codes_of(number):
    """The codes (K, L) of a record, which tell its number."""
    return np.full((coded.BOOKS, TOKENS), number % coded.ENTRIES)


def data(*mixture, **keys):
    """The `data` section of a configuration, on small rows."""
    from configs import multimodal

    section = ConfigDict(multimodal.get_config().data.to_dict())
    section.mixture = tuple(mixture)
    section.length, section.caption_ids, section.template = 128, 64, "plain"
    section.batch_size, section.num_threads = 8, 1
    section.group_rows, section.group_samples = 4, 12
    section.update(keys)
    return section


def made(encode, length=64, images=4, special=SPECIAL, **options):
    """Makes samples of texts whose ids are given: a function, or a table."""
    encode = encode if callable(encode) else encode.__getitem__
    return Rows(types.SimpleNamespace(special=special, encode=encode), length, images, **options)


def reference_samples():
    """The reference's batch. Ids of text are the reference's; everything else is made here."""
    golden = parity.load("multimodal")
    ids = [row[row != 0].tolist() for row in golden["step.ids"]]
    texts = {
        f"a caption{INSTRUCTION}": ids[0][1:-4],
        "a caption": [9],
        UNCONDITIONAL: ids[1][1:-4],
        "an answer": ids[2][4:-1],
        "a text": ids[4][1:],
    }
    said = np.array(ids[3][1:], np.int32)
    answered = golden["step.labels"][3][1 : len(ids[3])] != NO_LABEL
    image = list(golden["step.codes"])
    make = made(texts, bare_images=True)
    return [
        make.draw(image[0], "a caption"),
        make.draw(image[1], None),
        make.caption(image[2], "an answer"),
        make.conversation(Encoded(said, answered), [image[3]]),
        make.text("a text"),
    ]
