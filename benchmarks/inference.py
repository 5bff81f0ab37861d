"""Speed of encoding and decoding on this machine, beside PyTorch's on the same cores.

    python -m benchmarks.inference [--size base] [--batches 1 8] [--rounds 5]

JAX and PyTorch run in a process each and take turns, because on a shared machine only ratios of
neighbouring measurements mean anything. PyTorch is `benchmarks.torch_unitok`, in channels_last and
on all cores; without PyTorch its columns are left out. Weights are random: they do not change the
time.
"""

import argparse
import functools
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

SIDE = 256


def methods(config, params, batch: int) -> dict:
    """Returns {'encode', 'decode'} -> the `roofline.Job` of a model with these parameters."""
    import jax.numpy as jnp
    from flax import nnx

    from benchmarks.roofline import Job
    from unitok_jax.codes import STRIDE
    from unitok_jax.models.unitok import abstract_model

    graph, _ = abstract_model(config.model.to_dict())
    rng, (height, width) = np.random.default_rng(0), config.data.image_size
    grid, books = (height // STRIDE, width // STRIDE), config.model.num_codebooks
    # On the device, so that no copy from the host is timed.
    images = jnp.asarray(rng.uniform(-1, 1, (batch, height, width, 3)), jnp.float32)
    shape = batch, books, config.model.num_query + grid[0] * grid[1]
    codes = jnp.asarray(rng.integers(0, config.model.vocab_size // books, shape), jnp.int32)
    dtype = config.model.dtype
    return {
        "encode": Job(lambda p, x: nnx.merge(graph, p).encode(x), (params, images), dtype),
        "decode": Job(lambda p, c: nnx.merge(graph, p).decode(c, grid), (params, codes), dtype),
    }


def measure(config, batch: int, rounds: int, peaks, names=("encode", "decode")) -> dict:
    """Measures each method: name -> figures as of `roofline.figures`, with `batch`."""
    from benchmarks import roofline, timing
    from unitok_jax.models.unitok import abstract_model

    params = timing.fill(abstract_model(config.model.to_dict())[1])
    jobs = {n: job for n, job in methods(config, params, batch).items() if n in names}
    programs = roofline.compiled(jobs)
    calls = {
        name: functools.partial(timing.finish, program, *jobs[name].args)
        for name, (program, _) in programs.items()
    }
    seconds = timing.medians(calls, rounds)
    return {
        name: roofline.figures(work, seconds[name], peaks) | {"batch": batch}
        for name, (_, work) in programs.items()
    }


def jax_methods(size: str, batch: int):
    """Returns {'encode', 'decode'} -> a call that waits for its result; and compile seconds."""
    import jax

    from benchmarks import timing
    from unitok_jax.models.unitok import abstract_model

    config = timing.configuration("default", "float32")
    config.model.size, config.model.quant_heads = size, timing.HEADS[size]
    config.data.image_size = SIDE, SIDE
    params = timing.fill(abstract_model(config.model.to_dict())[1])
    calls, seconds = {}, {}
    for name, job in methods(config, params, batch).items():
        start = time.perf_counter()
        compiled = jax.jit(job.function).lower(*job.args).compile()
        seconds[name] = time.perf_counter() - start
        calls[name] = functools.partial(timing.finish, compiled, *job.args)
    return calls, seconds


def torch_methods(size: str, batch: int):
    """Returns the calls of PyTorch for 'encode' and 'decode'; nothing is compiled."""
    import torch

    from benchmarks.torch_unitok import UniTok

    options = dict(
        model=f"vitamin_{size}", img_size=SIDE, vocab_size=32768, vocab_width=64, num_codebooks=8,
        quant_proj="attn", embed_dim=768, num_query=0, drop_path=0.1, text_width=768,
        text_heads=12, text_layers=12, text_vocab_size=49408, text_context_length=77, vq_beta=0.25,
    )  # fmt: skip
    model = UniTok(**options).eval().to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    codes = torch.randint(0, 4096, (batch, 8, 256))

    def run(method, argument):
        with torch.inference_mode():
            method(argument)

    calls = {
        "encode": lambda: run(model.img_to_idx, images),
        "decode": lambda: run(model.idx_to_img, codes),
    }
    return calls, dict.fromkeys(calls, 0.0)


def serve(framework: str, size: str, batch: int) -> None:
    """Answers each method's name on stdin with seconds and peak memory, as a worker process."""
    calls, compile_seconds = {"jax": jax_methods, "torch": torch_methods}[framework](size, batch)
    for call in calls.values():
        call()
    print(json.dumps(compile_seconds), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        calls[line.strip()]()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps([seconds, peak]), flush=True)


class Worker:
    """Worker process of one framework."""

    def __init__(self, framework: str, size: str, batch: int):
        arguments = ["--serve", framework, "--size", size, "--batches", str(batch)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.inference", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.compile_seconds = self._answer()

    def time(self, method: str) -> tuple[float, float]:
        """Measures seconds of one call, and the process's peak memory in GiB so far."""
        self.process.stdin.write(method + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)


def beside_torch(size: str, batch: int, rounds: int) -> list[dict]:
    """Measures a row for each method, with PyTorch's figures if PyTorch is installed."""
    names = ["jax"] + (["torch"] if importlib.util.find_spec("torch") else [])
    workers = {name: Worker(name, size, batch) for name in names}
    rows = []
    for method in ("encode", "decode"):
        times, peak = {name: [] for name in names}, {}
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds, peak[name] = worker.time(method)
                times[name].append(seconds)
        ours = statistics.median(times["jax"])
        row = {"size": size, "batch": batch, "method": method, "images/s": batch / ours, "s": ours}
        row["compile s"] = workers["jax"].compile_seconds[method]
        row |= {"peak GiB": peak["jax"], "PyTorch s": None, "PyTorch GiB": None}
        row["time / PyTorch's"] = None
        if "torch" in times:
            pairs = zip(times["jax"], times["torch"], strict=True)
            row["PyTorch s"] = statistics.median(times["torch"])
            row["PyTorch GiB"] = peak["torch"]
            row["time / PyTorch's"] = statistics.median(j / t for j, t in pairs)
        rows.append(row)
    for worker in workers.values():
        worker.close()
    return rows


def main() -> None:
    """Measures, and prints a markdown table."""
    from benchmarks import timing

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="base", help="tiny, small, base or large")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.size, args.batches[0])
        return
    rows = [row for batch in args.batches for row in beside_torch(args.size, batch, args.rounds)]
    print(timing.table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
