"""Kills the generate command repeatedly, and compares its files with those of an undisturbed run.

    python -m benchmarks.generate_kills [--kills 20] [--images 2000] [--seed 0]

SIGKILL is sent at random moments: some milliseconds after the process has written up to three more
shards of codes or of pixels, or while it writes the archive. The same command is started again
until it is finished. Exit code 1 if a file differs.
"""

import argparse
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import jax
from flax import nnx
from ml_collections import ConfigDict

from benchmarks import kills
from configs import generate, tiny
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.generate import loading
from unitok_jax.generate.model import Generator
from unitok_jax.models.layers import Keys
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load


def make_weights(folder: pathlib.Path) -> None:
    """Writes the smallest tokenizer, and a generator on its codes."""
    config = tiny.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    params = init_params(config.model.to_dict(), jax.random.key(0))
    load.write(folder / "tokenizer.safetensors", config, params)
    model = generate.get_config().model
    model.update(size="nano", num_codebooks=4, vocab_size=256, grid=(2, 2), classes=10)
    model.update(head_depth=1, dtype="float32")
    fresh = nnx.to_pure_dict(nnx.state(Generator(**model.to_dict(), rngs=Keys(0))))
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(fresh))))
    noisy = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(next(keys), a.shape), fresh)
    found = ConfigDict({"model": model.to_dict()}), noisy
    made_by = weights_hash(config.model.to_dict(), params)
    loading.write(folder / "generator.safetensors", loading.Weights(*found, made_by))


def written(output: pathlib.Path) -> int:
    """Counts whole shards of codes and of pixels, and the files of the archive."""
    patterns = "codes/0*.json", "parts/*.pixels", "samples.npz*"
    return sum(len(list(output.glob(pattern))) for pattern in patterns)


def life(command: list[str], output: pathlib.Path, rng: random.Random, log) -> str | None:
    """Runs and kills one process; returns the phase of the kill, or None if it ended before."""
    process = subprocess.Popen(command, stdout=log, stderr=log)
    wanted = written(output) + rng.randrange(1, 8)
    while process.poll() is None and written(output) < wanted:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return f"at the {'archive' if list(output.glob('samples.npz*')) else 'shards'}"


def reopen(output: pathlib.Path, rng: random.Random) -> None:
    """Removes some shards and the archive of a finished output, which are made again."""
    for path in kills.some(list(output.glob("codes/0*.json")), rng):
        path.unlink()
    (output / "samples.npz").unlink()
    (output / "generation.json").unlink()


def main() -> None:
    """Runs the test, and prints a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        make_weights(folder)

        def command(output):
            return [
                *(sys.executable, "-m", "unitok_jax", "generate", "--labels=balanced"),
                f"--checkpoint={folder}/generator.safetensors",
                f"--tokenizer={folder}/tokenizer.safetensors",
                *(f"--count={args.images}", "--shard_size=50", "--write=png,npz"),
                *("--scale=1.5", f"--output={output}"),
            ]

        same, told = kills.torture(command, folder / "runs", life, reopen, args.kills, args.seed)
    print(f"{args.images} images, {told}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
