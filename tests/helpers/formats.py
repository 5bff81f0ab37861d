"""What the tests of data formats share: small images, a config, some batches."""

import collections
import contextlib
import io
import itertools
import random

import ml_collections
from PIL import Image


def jpeg(index, size=(20, 16)):
    """A picture of one colour, which tells `index`."""
    file = io.BytesIO()
    Image.new("RGB", size, (index * 9 % 256, index * 5 % 256, 80)).save(file, "JPEG")
    return file.getvalue()


def config(source, path, **values):
    """The `data` config of a source."""
    return ml_collections.ConfigDict(
        {
            "source": source,
            "path": str(path),
            "captions": "",
            "window": 2,
            "image_size": (16, 16),
            "batch_size": 4,
            "crop_scale": (0.9, 1.0),
            "crop_ratio": (0.9, 1.1),
            "context_length": 8,
            "num_threads": 2,
            "num_workers": 0,
            "max_bad": 1.0,
            "index": "",
            **values,
        }
    )


def take(batches, count):
    with contextlib.closing(batches):
        return list(itertools.islice(batches, count))


def damaged(data, chance):
    """The bytes with some of them changed, or cut, by a `random.Random`."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 4, 40])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.1 else data)


def outcomes(open_, files, turns, seed=0):
    """What becomes of samples of damaged files: 'good', or the kind of the error, counted.

    Args:
        open_: opens the source.
        files: of which one at a time is damaged; they are whole again at the end.
        turns: how often.

    Raises:
        Exception: what is neither a ValueError nor an OSError.
    """
    chance, seen = random.Random(seed), collections.Counter()
    whole = {file: file.read_bytes() for file in files}
    for _ in range(turns):
        file = chance.choice(files)
        file.write_bytes(damaged(whole[file], chance))
        try:
            source = open_()
        except (ValueError, OSError) as error:
            seen[f"open {type(error).__name__}"] += 1
        else:
            for index in range(min(len(source), 20)):
                try:
                    source[index]
                    seen["good"] += 1
                except (ValueError, OSError) as error:
                    seen[type(error).__name__] += 1
        file.write_bytes(whole[file])
    return seen
