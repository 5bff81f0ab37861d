"""Cost of checkpoints: the time that a save blocks the loop, and the time of a restore.

    python -m benchmarks.checkpoint save    [--config b16] [--step-seconds 4] [--every 200]
    python -m benchmarks.checkpoint restore [--config l16]

`save` builds the whole state of both players, saves the state as training does, and measures the
seconds for which the call blocks the loop, the seconds of the background save, and the slowdown of
work on the same cores meanwhile. Before each save the state changes, as after a step, so that no
digest can be reused. The share is for a run that saves every `--every` steps of `--step-seconds`.
`restore` saves once, drops the file cache as far as permitted, and measures a resume: reading,
comparing the digests, arrays on the device. Weights are random numbers, which do not compress.
"""

import argparse
import contextlib
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp

from benchmarks import timing
from unitok_jax.checkpoints import reader
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.tokenizer.step import TokenizerSteps


def abstract_items(config) -> dict:
    """Returns the items of a training state as shapes on one device."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = jax.eval_shape(TokenizerSteps(config).init)
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), state.items()
    )


def save(config, folder: pathlib.Path, repeats: int) -> list[dict]:
    """Measures the cost of each of `repeats` saves, after a first one.

    Returns:
      Per save: `seconds` that the save blocks the loop, `digests`, the part of these seconds for
      digests, `background`, seconds after the call, `lost`, seconds that other work lost
      meanwhile, and `bytes` of the state.
    """
    items = timing.fill(abstract_items(config))
    size = sum(a.nbytes for a in jax.tree.leaves(items))
    change = jax.jit(
        lambda tree: jax.tree.map(lambda a: a * jnp.asarray(0.999, a.dtype), tree), donate_argnums=0
    )
    square = jnp.ones((2048, 2048))
    work = jax.jit(lambda x: jax.lax.fori_loop(0, 8, lambda _, y: y @ x * 1e-3, x))
    work(square).block_until_ready()

    def one():
        begun = time.perf_counter()
        work(square).block_until_ready()
        return time.perf_counter() - begun

    alone, found = statistics.median(one() for _ in range(20)), []
    with Checkpoints(folder, config.checkpoint, create=True) as checkpoints:
        for number in range(1, repeats + 2):
            items = jax.block_until_ready(change(items))
            begun = time.perf_counter()
            jax.block_until_ready(reader.digests(items))
            digests = time.perf_counter() - begun
            begun = time.perf_counter()
            checkpoints.save(number, items, config, {})
            blocked = time.perf_counter() - begun
            lost = 0.0
            while any(
                ".orbax-checkpoint-tmp" in name for name in os.listdir(folder / "checkpoints")
            ):
                lost += one() - alone
            checkpoints.wait()
            background = time.perf_counter() - begun - blocked
            row = {"seconds": blocked, "digests": digests, "background": background}
            found.append(row | {"lost": max(lost, 0.0), "bytes": size})
    return found


def restore(config, folder: pathlib.Path) -> dict:
    """Measures `seconds` of a resume, and `bytes` of the state."""
    targets = abstract_items(config)
    with Checkpoints(folder, config.checkpoint) as checkpoints:
        begun = time.perf_counter()
        items = jax.block_until_ready(checkpoints.restore(targets, config))
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "bytes": sum(a.nbytes for a in jax.tree.leaves(items))}


def measure(config, repeats: int) -> dict[str, dict]:
    """Measures the last of `repeats` saves after the first one, and a restore."""
    with tempfile.TemporaryDirectory(prefix="checkpoint") as folder:
        folder = pathlib.Path(folder)
        saves = save(config, folder, repeats)
        _forget(folder)
        return {"save": saves[-1], "restore": restore(config, folder)}


def write(config, folder: pathlib.Path) -> None:
    """Saves a state once."""
    with Checkpoints(folder, config.checkpoint, create=True) as checkpoints:
        checkpoints.save(1, timing.fill(abstract_items(config)), config, {})


def _forget(folder):
    """Drops the pages of all files from the system's file cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _print_saves(found, arguments):
    steps = arguments.every * arguments.step_seconds
    print(f"state: {found[0]['bytes'] / 1e9:.2f} GB")
    for number, row in enumerate(found, 1):
        print(
            f"save {number}{' (first)' if number == 1 else ''}: holds up {row['seconds']:.2f} s, "
            f"of which digests {row['digests']:.2f}; background {row['background']:.1f} s, in "
            f"which other work lost {row['lost']:.2f} s; {row['seconds'] / steps:.2%} of "
            f"{arguments.every} steps of {arguments.step_seconds:.1f} s, "
            f"{(row['seconds'] + row['lost']) / steps:.2%} in all"
        )


def main() -> None:
    """Runs `save` or `restore`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["save", "restore", "write", "read"])
    parser.add_argument("--config", default="b16", help="a name in configs/")
    parser.add_argument("--step-seconds", type=float, default=4.0)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=pathlib.Path, help="on the disk to measure; a new one")
    arguments = parser.parse_args()
    config = timing.configuration(arguments.config)
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = pathlib.Path(tempfile.mkdtemp(prefix="checkpoint"))
            stack.callback(shutil.rmtree, folder)
        if arguments.what == "save":
            _print_saves(save(config, folder, arguments.repeats), arguments)
        elif arguments.what == "restore":
            # In separate processes, so that memory and caches of the writer are gone.
            command = [sys.executable, "-m", "benchmarks.checkpoint"]
            more = ["--config", arguments.config, "--folder", str(folder)]
            subprocess.run([*command, "write", *more], check=True)
            _forget(folder)
            subprocess.run([*command, "read", *more], check=True)
            return
        elif arguments.what == "write":
            write(config, folder)
        else:
            found = restore(config, folder)
            size, seconds = found["bytes"] / 1e9, found["seconds"]
            print(f"restore: {size:.2f} GB in {seconds:.1f} s, {size / seconds:.2f} GB/s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{arguments.what}: peak resident memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
