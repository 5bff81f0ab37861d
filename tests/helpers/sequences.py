"""What the tests of a multimodal model's data share: codes of shapes, without a tokenizer."""

import numpy as np
from ml_collections import ConfigDict

from helpers import coded
from unitok_jax.data.formats.shapes import SPLITS
from unitok_jax.multimodal.sources import ImageCodes

CODES = ImageCodes(coded.BOOKS, coded.ENTRIES, coded.GRID)
TOKENS = coded.GRID[0] * coded.GRID[1]


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
