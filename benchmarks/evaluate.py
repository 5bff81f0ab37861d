"""Speed of the pass that measures a tokenizer, beside plain encoding and decoding in memory.

    python -m benchmarks.evaluate [--config configs/tiny.py] [--images 64] [--batch 16] [--rounds 3]

Both run on the same devices and take turns in one process; the ratio is of neighbouring rounds. The
pass reads, decodes and measures drawn shapes, without Inception and LPIPS unless `--networks` names
them (with random weights: they do not change the time).
"""

import argparse
import importlib
import statistics
import time

import jax
import numpy as np
from flax import nnx

from unitok_jax import frozen, sharding
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config
from unitok_jax.data.subset import subset
from unitok_jax.evaluation import Evaluator
from unitok_jax.models.unitok import abstract_model
from unitok_jax.step import init_params, to_float


def main() -> None:
    """Prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs.tiny")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--networks", nargs="*", default=[], choices=("lpips", "inception"))
    args = parser.parse_args()
    name = args.config.removesuffix(".py").replace("/", ".")
    config = importlib.import_module(name).get_config()
    config.model.dtype = args.dtype
    model, mesh = config.model.to_dict(), sharding.make_mesh(-1, 1)
    params = sharding.replicate(
        jax.device_get(jax.jit(lambda: init_params(model, jax.random.key(0)))()), mesh
    )
    networks = {
        kind: frozen.load(kind, frozen.SEEDED, "float32", key=kind, turn_off="")[1]
        for kind in args.networks
    }
    networks = sharding.replicate(networks, mesh)
    evaluator = Evaluator(model, mesh, dict.fromkeys(args.networks, "float32"))
    size = evaluator.batch_size(args.batch, args.images)
    data = data_config("shapes:held_out", image_size=config.data.image_size, context_length=77)
    source = subset(open_source(data, require_captions=False), range(args.images))
    graph, _ = abstract_model(model)
    plain = jax.jit(lambda p, x: nnx.merge(graph, p).reconstruct(to_float(x))[0])
    images = np.random.default_rng(0).integers(0, 256, (size, *data.image_size, 3), np.uint8)
    batch = sharding.shard_whole(images, mesh)

    def both():
        begin = time.perf_counter()
        for _ in range(0, args.images, size):
            out = plain(params, batch)
        jax.block_until_ready(out)
        return time.perf_counter() - begin, evaluator.run(params, networks, source, data, size)

    both()
    rounds = [both() for _ in range(args.rounds)]
    seconds = statistics.median(alone for alone, _ in rounds)
    measured = statistics.median(found.seconds for _, found in rounds)
    waited = statistics.median(found.waited / found.seconds for _, found in rounds)
    ratio = statistics.median(alone / found.seconds for alone, found in rounds)
    columns = ["images", "encode + decode, images/s", "pass, images/s", "pass / plain", "waiting"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    cells = [args.images, f"{args.images / seconds:.3g}", f"{args.images / measured:.3g}"]
    cells += [f"{ratio:.2f}", f"{waited:.1%}"]
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
