"""What the tests of codes on disk share: pictures, and the command on them."""

import contextlib
import hashlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image

from helpers.jobs import environment
from unitok_jax.commands import arguments
from unitok_jax.weights import load

ROOT = pathlib.Path(__file__).parents[2]


def make_images(folder, count, size=(70, 90), start=0):
    """Captioned noise of one size, or of as many as are given, in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [size] if isinstance(size[0], int) else size
    for index in range(start, start + count):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 7, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize(sizes[index % len(sizes)]).save(file, "PNG")
        (folder / f"{index:04}.png").write_bytes(file.getvalue())
        (folder / f"{index:04}.txt").write_text(f"picture {index}\nnumber {index}\n")
    return folder


def command(weights, data, output, *more):
    return [
        *(sys.executable, "-m", "unitok_jax", "tokenize", f"--checkpoint={weights}"),
        *(f"--data={data}", f"--output={output}", "--num_threads=1", *more),
    ]


def start(arguments, devices=1, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(arguments, cwd=ROOT, env=environment(devices), **options)


def run(arguments, devices=1):
    """Exit code, what is printed, and errors."""
    process = start(arguments, devices)
    printed, error = process.communicate(timeout=300)
    return process.returncode, printed, error


@contextlib.contextmanager
def loaded_once():
    """Commands of this process share tokenizers of one file, so that each compiles once."""
    load, loaded = arguments.load_tokenizer, {}

    def shared(args, **options):
        key = str(args.checkpoint), args.precision, args.weights, str(options)
        if key not in loaded:
            loaded[key] = load(args, **options)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "load_tokenizer", shared)
        yield


def hashes(output):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in output.iterdir()}


def kill_when(process, happens, timeout=120):
    """SIGKILL as soon as `happens()`; whether it came to that."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        if happens():
            break
        time.sleep(0.001)
    killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return killed


def shards(output):
    """The numbers of shards that have facts."""
    names = os.listdir(output) if output.is_dir() else []
    return sorted(name for name in names if name.endswith(".json") and name[0].isdigit())


def other_weights(tokenizer, folder):
    """The same model with one number changed."""
    params = jax.tree.map(np.array, tokenizer.params)
    jax.tree.leaves(params)[0].flat[0] += 1
    load.write(folder / "other.safetensors", tokenizer.config, params)
    return folder / "other.safetensors"
