"""What checkpoints cost: the time that a save holds up the loop, and that of a restore.

    python -m benchmarks.checkpoint save    [--config b16] [--step-seconds 4] [--every 200]
    python -m benchmarks.checkpoint restore [--config l16]

`save` builds the whole state of both players, saves it as training does, and measures the seconds
for which the call holds up the loop, those that the background takes, and how much slower a step of
work on the same cores is meanwhile. Before each save the state changes, as after a step: nothing is
known of it. The share is that of a run that saves every `--every` steps of `--step-seconds`.
`restore` saves once, drops the file cache as far as it may, and measures a resume: reading,
comparing the digests, arrays on the device. Weights are random numbers, which do not compress.
"""

import argparse
import contextlib
import importlib
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

from unitok_jax import stored
from unitok_jax.checkpoint import Checkpoints
from unitok_jax.step import Trainer


def abstract_items(config) -> dict:
    """The items of a state of training as shapes on one device."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = jax.eval_shape(Trainer(config).init)
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), state.items()
    )


def fill(items, seed: int):
    """Random float32 arrays, and zeros of other kinds, in place of shapes."""
    leaves, tree = jax.tree.flatten(items)
    make = jax.jit(lambda key, shape: jax.random.normal(key, shape), static_argnums=1)
    key = jax.random.key(seed)
    out = [
        make(jax.random.fold_in(key, i), a.shape)
        if a.dtype == jnp.float32
        else jnp.zeros(a.shape, a.dtype)
        for i, a in enumerate(leaves)
    ]
    return jax.block_until_ready(jax.tree.unflatten(tree, out))


def save(config, folder: pathlib.Path, repeats: int, step_seconds: float, every: int) -> None:
    """Prints the cost of saves."""
    items = fill(abstract_items(config), 0)
    size = sum(a.nbytes for a in jax.tree.leaves(items))
    print(f"state: {size / 1e9:.2f} GB in {len(jax.tree.leaves(items))} arrays")
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

    alone = statistics.median(one() for _ in range(20))
    with Checkpoints(folder, config.checkpoint, create=True) as checkpoints:
        for number in range(1, repeats + 2):
            items = jax.block_until_ready(change(items))
            begun = time.perf_counter()
            jax.block_until_ready(stored.digests(items))
            digests = time.perf_counter() - begun
            begun = time.perf_counter()
            checkpoints.save(number, items, config, {})
            blocked = time.perf_counter() - begun
            lost, steps = 0.0, 0
            while any(
                ".orbax-checkpoint-tmp" in name for name in os.listdir(folder / "checkpoints")
            ):
                lost += one() - alone
                steps += 1
            checkpoints.wait()
            total = time.perf_counter() - begun
            share = blocked / (every * step_seconds)
            print(
                f"save {number}{' (first)' if number == 1 else ''}: holds up {blocked:.2f} s, of "
                f"which digests {digests:.2f}; background {total - blocked:.1f} s, in which other "
                f"work lost {max(lost, 0):.2f} s; {share:.2%} of {every} steps of "
                f"{step_seconds:.1f} s, {share + max(lost, 0) / (every * step_seconds):.2%} in all",
                flush=True,
            )


def restore(config, folder: pathlib.Path) -> None:
    """Prints the time of a resume."""
    targets = abstract_items(config)
    with Checkpoints(folder, config.checkpoint) as checkpoints:
        begun = time.perf_counter()
        items = jax.block_until_ready(checkpoints.restore(targets, config))
        seconds = time.perf_counter() - begun
    size = sum(a.nbytes for a in jax.tree.leaves(items))
    print(f"restore: {size / 1e9:.2f} GB in {seconds:.1f} s, {size / 1e9 / seconds:.2f} GB/s")


def write(config, folder: pathlib.Path) -> None:
    """Saves a state once."""
    with Checkpoints(folder, config.checkpoint, create=True) as checkpoints:
        checkpoints.save(1, fill(abstract_items(config), 0), config, {})


def _forget(folder):
    """Drops the pages of all files from the cache of the system."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["save", "restore", "write", "read"])
    parser.add_argument("--config", default="b16", help="a name in configs/")
    parser.add_argument("--step-seconds", type=float, default=4.0)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=pathlib.Path, help="on the disk to measure; a new one")
    arguments = parser.parse_args()
    config = importlib.import_module(f"configs.{arguments.config}").get_config()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = pathlib.Path(tempfile.mkdtemp(prefix="checkpoint"))
            stack.callback(shutil.rmtree, folder)
        if arguments.what == "save":
            save(config, folder, arguments.repeats, arguments.step_seconds, arguments.every)
        elif arguments.what == "restore":
            # In a process each: the memory of the writer, and what it knows, are gone.
            command = [sys.executable, "-m", "benchmarks.checkpoint"]
            more = ["--config", arguments.config, "--folder", str(folder)]
            subprocess.run([*command, "write", *more], check=True)
            _forget(folder)
            subprocess.run([*command, "read", *more], check=True)
            return
        elif arguments.what == "write":
            write(config, folder)
        else:
            restore(config, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{arguments.what}: peak resident memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
