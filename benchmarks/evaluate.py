"""Speed of the evaluation pass of a tokenizer, beside plain encoding and decoding in memory.

    python -m benchmarks.evaluate [--config configs/tiny.py] [--images 64] [--batch 16] [--rounds 3]

Both run on the same devices and take turns in one process; the ratio is of neighbouring rounds. The
pass reads, decodes and measures drawn shapes, without Inception and LPIPS unless `--networks` names
them (with random weights: they do not change the time).
"""

import argparse
import statistics
import time

import jax
import numpy as np

from benchmarks import timing
from unitok_jax.codes import STRIDE
from unitok_jax.data.records import subset
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config
from unitok_jax.evaluation.evaluator import Evaluator
from unitok_jax.models.functions import Functions
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import pretrained


def measure(config, images: int, batch: int, rounds: int, names=()) -> dict[str, dict]:
    """Measures the pass over `images` drawn shapes, and plain encoding and decoding of as many.

    Args:
      config: the whole configuration; both compute in the precision of its `model.dtype`.
      images: total number of images.
      batch: global batch size, rounded to a multiple of the number of devices.
      rounds: rounds in which the two take turns; a first one is not counted.
      names: networks that the pass runs too, 'lpips' and 'inception'.

    Returns:
      'plain' and 'pass': {'seconds', 'images'}; for the pass also `plain_over_pass`, the median of
      the ratios of the two times, and `waiting`, the fraction of its time spent waiting for images.
    """
    model, mesh = config.model.to_dict(), sharding.make_mesh(-1, 1)
    params = sharding.replicate(
        jax.device_get(jax.jit(lambda: init_params(model, jax.random.key(0)))()), mesh
    )
    networks = {
        kind: pretrained.load(kind, pretrained.SEEDED, "float32", key=kind, turn_off="")[1]
        for kind in names
    }
    networks = sharding.replicate(networks, mesh)
    evaluator = Evaluator(model, mesh, dict.fromkeys(names, "float32"), model["dtype"])
    size = evaluator.batch_size(batch, images)
    data = data_config("shapes:held_out", image_size=config.data.image_size, context_length=77)
    source = subset(open_source(data, require_captions=False), range(images))
    functions = Functions(model, model["dtype"], jax.default_backend())
    grid = tuple(side // STRIDE for side in data.image_size)

    @jax.jit
    def plain(params, images):
        return functions.decode(params, functions.encode(params, images), grid)

    pixels = np.random.default_rng(0).integers(0, 256, (size, *data.image_size, 3), np.uint8)
    pixels = sharding.shard_whole(pixels, mesh)

    def both():
        begin = time.perf_counter()
        for _ in range(0, images, size):
            out = plain(params, pixels)
        jax.block_until_ready(out)
        return time.perf_counter() - begin, evaluator.run(params, networks, source, data, size)

    both()
    found = [both() for _ in range(rounds)]
    return {
        "plain": {"seconds": statistics.median(alone for alone, _ in found), "images": images},
        "pass": {
            "seconds": statistics.median(whole.seconds for _, whole in found),
            "images": images,
            "plain_over_pass": statistics.median(alone / whole.seconds for alone, whole in found),
            "waiting": statistics.median(whole.waited / whole.seconds for _, whole in found),
        },
    }


def main() -> None:
    """Measures, and prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs.tiny")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--networks", nargs="*", default=[], choices=("lpips", "inception"))
    args = parser.parse_args()
    config = timing.configuration(args.config, args.dtype)
    found = measure(config, args.images, args.batch, args.rounds, args.networks)
    columns = ["images", "encode + decode, images/s", "pass, images/s", "pass / plain", "waiting"]
    speeds = [args.images / found[name]["seconds"] for name in ("plain", "pass")]
    row = [
        args.images,
        *speeds,
        found["pass"]["plain_over_pass"],
        f"{found['pass']['waiting']:.1%}",
    ]
    print(timing.table(columns, [row]))


if __name__ == "__main__":
    main()
