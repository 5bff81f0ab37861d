"""What the tests of data formats share: small images, a config, some batches."""

import contextlib
import io
import itertools

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
