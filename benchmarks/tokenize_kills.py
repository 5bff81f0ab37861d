"""Kills the tokenize command repeatedly, and compares its files with those of an undisturbed run.

    python -m benchmarks.tokenize_kills [--kills 20] [--seed 0] [--format array_record parquet]

SIGKILL is sent at random moments: while the process starts, or some milliseconds after it has
written up to two more shards, so between two files and within them. The same command is started
again until it is finished. A folder passes if it has the same files with the same bytes as the
undisturbed one. Exit code 1 if one differs.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks import kills
from unitok_jax.data.formats.shapes import shape_source
from unitok_jax.data.writing.folders import PARTIAL

PICTURES, SHARD_SIZE = 60, 2


def make_input(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes weights of the smallest model, and pictures."""
    import jax

    from configs import tiny
    from unitok_jax.tokenizer.step import init_params
    from unitok_jax.weights import load

    config = tiny.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    params = init_params(config.model.to_dict(), jax.random.key(0))
    load.write(folder / "nano.safetensors", config, params)
    source, pictures = shape_source("train"), folder / "pictures"
    pictures.mkdir()
    for index in range(PICTURES):
        record = source[index]
        (pictures / f"{index:04}.png").write_bytes(record["image"])
        (pictures / f"{index:04}.txt").write_text("\n".join(record["captions"]))
    return folder / "nano.safetensors", pictures


def written(output: pathlib.Path) -> int:
    """Counts the shards with a description."""
    names = os.listdir(output) if output.is_dir() else []
    return sum(name[0].isdigit() and name.endswith(".json") for name in names)


def partials(output: pathlib.Path) -> set[str]:
    """Lists partial files; those of killed processes stay until the output is complete."""
    names = os.listdir(output) if output.is_dir() else []
    return {name for name in names if name.endswith(PARTIAL)}


def life(command: list[str], output: pathlib.Path, rng: random.Random, log) -> str | None:
    """Runs and kills one process; returns the phase of the kill, or None if it ended before."""
    old = partials(output)
    process = subprocess.Popen(command, stdout=log, stderr=log)
    begin, before = time.monotonic(), written(output)
    if rng.random() < 0.2:
        end = begin + rng.uniform(0, 3)
        more = PICTURES
    else:
        end, more = begin + 120, rng.randrange(3)
    while process.poll() is None and time.monotonic() < end:
        claimed = (output / "settings.json").exists()
        if claimed and written(output) >= before + more and time.monotonic() > begin + 1:
            break
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.03))
    if process.poll() is not None:
        return None
    writing = bool(partials(output) - old)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not writing:
        return "before the first file" if written(output) == before else "between two files"
    return "within a file"


def reopen(output: pathlib.Path, rng: random.Random) -> None:
    """Removes some shards' descriptions of a finished output, which are made again."""
    for path in kills.some(list(output.glob("0*.json")), rng):
        path.unlink()
    (output / "manifest.json").unlink()


def torture(storage: str, count: int, seed: int, folder: pathlib.Path) -> bool:
    """Returns True if the killed processes write the same files as an undisturbed one."""
    checkpoint, pictures = folder / "nano.safetensors", folder / "pictures"

    def command(output):
        return [
            *(sys.executable, "-m", "unitok_jax", "tokenize", f"--checkpoint={checkpoint}"),
            *(f"--data={pictures}", f"--output={output}", f"--format={storage}"),
            *(f"--shard_size={SHARD_SIZE}", "--views=ten", "--num_threads=1"),
        ]

    same, told = kills.torture(command, folder / storage, life, reopen, count, seed)
    print(f"{storage}: {told}", flush=True)
    return same


def main() -> None:
    """Runs the test of each format, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", nargs="+", default=["array_record", "parquet"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_input(pathlib.Path(folder))
        same = [torture(f, args.kills, args.seed, pathlib.Path(folder)) for f in args.format]
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
