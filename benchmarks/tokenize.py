"""Speed of the tokenize command, beside encoding of the same batches from memory.

    python -m benchmarks.tokenize [--size tiny] [--images 200] [--rounds 3] [--side 256]
        [--views center ten] [--batch N]

Both run in one process and take turns, because on a shared machine only ratios of neighbouring
measurements are meaningful. Plain encoding has all its views in memory, decoded and cropped, and
calls `Tokenizer.encode_batches`; tokenizing reads JPEG files of 500 x 375 pixels and writes shards.
Waiting is the fraction of the time of tokenizing in which the loop waited for images. Weights are
random: they do not change the time.
"""

import argparse
import io
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np
from PIL import Image

from benchmarks import timing
from unitok_jax.commands import tokenize
from unitok_jax.data.codes.batches import ShardedViews
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config
from unitok_jax.data.writing.folders import claim
from unitok_jax.tokenizer.api import Tokenizer
from unitok_jax.tokenizer.step import init_params


class Watched(ShardedViews):
    """Source of views that counts the seconds its consumer waits."""

    waited = 0.0

    def stream(self, data):
        """Streams as `ShardedViews.stream`, and counts the waits."""
        return _Timed(super().stream(data))


class _Timed:
    def __init__(self, batches):
        self._batches = batches

    def __iter__(self):
        return self

    def __next__(self):
        begin = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            Watched.waited += time.perf_counter() - begin

    def close(self):
        self._batches.close()


def make_tokenizer(config, batch: int | None) -> Tokenizer:
    """Builds a tokenizer with random weights."""
    params = init_params(config.model.to_dict(), jax.random.key(0))
    return Tokenizer(config, params, batch, precision=config.model.dtype)


def make_images(folder: pathlib.Path, count: int) -> None:
    """Writes JPEG files of smooth noise, as large as a photograph of ImageNet."""
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (24, 32, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((500, 375)).save(file, "JPEG", quality=90)
        (folder / f"{index:06}.jpg").write_bytes(file.getvalue())


def measure(tokenizer: Tokenizer, folder: pathlib.Path, kind: str, rounds: int) -> dict[str, dict]:
    """Measures tokenizing of a folder of images, and plain encoding of as many.

    Returns:
      'plain' and 'tokenize': {'seconds', 'images'}; for tokenizing also `plain_over_whole`, the
      median of the ratios of the two times, and `waiting`, the fraction spent waiting for images.
    """
    data = data_config(f"folder:{folder}", image_size=tokenizer.image_size, context_length=77)
    source = open_source(data, require_captions=False)
    whole = ShardedViews(
        source, [0], len(source), tokenizer.batch_size, tokenizer.image_size, kind, 1.1
    )
    held = [batch["image"] for batch in whole.stream(data)]
    shape = (-1, tokenizer.batch_size, *held[0].shape[2:])
    pieces = [piece for images in held for piece in images.reshape(shape)]
    settings = tokenize.settings_of(
        *(tokenizer, source, data),
        storage="array_record",
        shard_size=100,
        views=kind,
        crop_scale=1.1,
    )
    tokenize.ShardedViews = Watched
    tokenizer.encode(pieces[0])
    plain, whole, waited = [], [], []

    def encode():
        begin = time.perf_counter()
        for _ in tokenizer.encode_batches(pieces):
            pass
        plain.append(time.perf_counter() - begin)

    def write():
        with tempfile.TemporaryDirectory() as output:
            output, Watched.waited = pathlib.Path(output) / "codes", 0.0
            claim(output, settings, "this")
            begin = time.perf_counter()
            tokenize.tokenize(tokenizer, source, data, settings, output)
            whole.append(time.perf_counter() - begin)
            waited.append(Watched.waited / whole[-1])

    for number in range(rounds):
        for work in (encode, write) if number % 2 else (write, encode):
            work()
    ratios = [before / after for before, after in zip(plain, whole, strict=True)]
    return {
        "plain": {"seconds": statistics.median(plain), "images": len(source)},
        "tokenize": {
            "seconds": statistics.median(whole),
            "images": len(source),
            "plain_over_whole": statistics.median(ratios),
            "waiting": statistics.median(waited),
        },
    }


def main() -> None:
    """Measures, and prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny", choices=timing.HEADS)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="default: the tokenizer's")
    parser.add_argument("--views", nargs="+", default=["center", "ten"])
    args = parser.parse_args()
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config = timing.configuration("default", dtype)
    config.model.size, config.model.quant_heads = args.size, timing.HEADS[args.size]
    config.data.image_size = args.side, args.side
    tokenizer, rows = make_tokenizer(config, args.batch), []
    with tempfile.TemporaryDirectory() as folder:
        make_images(pathlib.Path(folder), args.images)
        for kind in args.views:
            found = measure(tokenizer, pathlib.Path(folder), kind, args.rounds)
            speeds = [args.images / found[name]["seconds"] for name in ("plain", "tokenize")]
            whole = found["tokenize"]
            rows.append(
                [args.size, args.side, tokenizer.batch_size, kind, *speeds]
                + [whole["plain_over_whole"], f"{whole['waiting']:.1%}"]
            )
    columns = ["size", "px", "batch", "views", "plain encode images/s", "tokenize images/s"]
    print(timing.table([*columns, "ratio", "waiting for input"], rows))


if __name__ == "__main__":
    main()
