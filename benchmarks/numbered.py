"""Samples with their number as caption, read through the training pipeline."""

import contextlib
import functools
import io

from PIL import Image

from configs import tiny
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.sources import open_source
from unitok_jax.data.text import TextTokenizer


class _Numbered:
    """Source of as many samples as the embedded photographs; each caption is a sample's number."""

    def __init__(self, count: int):
        picture = io.BytesIO()
        Image.new("RGB", (16, 16)).save(picture, "PNG")
        self._count, self._picture = count, picture.getvalue()

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        return {"image": self._picture, "captions": (f"{index}",), "name": f"{index}"}


@functools.cache
def count() -> int:
    """Returns the number of samples of an epoch."""
    return len(open_source(tiny.get_config().data))


def read(begin: int, end: int, batch: int) -> dict[int, list[int]]:
    """Reads the batches of a process that resumes after step `begin`, until step `end`.

    Returns:
      Step -> the numbers of the samples of its batch.
    """
    config = tiny.get_config()
    config.data.batch_size, config.data.num_threads = batch, 1
    config.data.image_size = (16, 16)
    tokenizer = TextTokenizer(config.data.context_length)
    numbers = {tokenizer(f"{i}")[0].tobytes(): i for i in range(count())}
    source = _Numbered(count())
    batches = train_batches(config.data, config.seed, source=source, start_step=begin)
    with contextlib.closing(batches):
        return {
            step: [numbers[row.tobytes()] for row in next(batches)["text"]]
            for step in range(begin + 1, end + 1)
        }
