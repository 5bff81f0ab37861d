"""Speed of encoding and decoding on this machine, beside PyTorch on the same cores.

    python -m benchmarks.inference [--size base] [--batches 1 8] [--rounds 5]

JAX and PyTorch run in a process each and take turns, because on a shared machine only ratios of
neighbouring measurements mean anything. PyTorch is `benchmarks.torch_unitok`, in channels_last and
on all cores; without PyTorch its columns are left out. Weights are random: they do not change the
time.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

SIDE = 256


def jax_methods(size: str, batch: int):
    """{'encode', 'decode'} -> a call that ends when its result is there; and compile seconds."""
    import jax
    from flax import nnx

    from configs import default
    from unitok_jax.models.unitok import abstract_model

    config = default.get_config()
    config.model.size = size
    config.model.quant_heads = {"tiny": 2, "small": 6, "base": 12, "large": 16}[size]
    config.model.dtype = "float32"
    graph, abstract = abstract_model(config.model.to_dict())
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jax.device_put(rng.standard_normal(a.shape, np.float32) * 0.02), abstract
    )
    images = rng.uniform(-1, 1, (batch, SIDE, SIDE, 3)).astype(np.float32)
    codes = rng.integers(0, 4096, (batch, 8, 256)).astype(np.int32)
    grid = (SIDE // 16, SIDE // 16)
    functions = {
        "encode": (lambda p, x: nnx.merge(graph, p).encode(x), images),
        "decode": (lambda p, c: nnx.merge(graph, p).decode(c, grid), codes),
    }
    calls, seconds = {}, {}
    for name, (function, argument) in functions.items():
        start = time.perf_counter()
        compiled = jax.jit(function).lower(params, argument).compile()
        seconds[name] = time.perf_counter() - start
        calls[name] = lambda c=compiled, a=argument: jax.block_until_ready(c(params, a))
    return calls, seconds


def torch_methods(size: str, batch: int):
    """The same of PyTorch, which does not compile."""
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
    """A worker: answers each method's name on stdin with seconds and peak memory."""
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
    """One framework in a process of its own."""

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
        """Seconds of one call, and the process's peak memory in GiB so far."""
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


def measure(size: str, batch: int, rounds: int) -> None:
    """Prints the rows of one batch size."""
    names = ["jax"] + (["torch"] if importlib.util.find_spec("torch") else [])
    workers = {name: Worker(name, size, batch) for name in names}
    for method in ("encode", "decode"):
        times = {name: [] for name in names}
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds, peak = worker.time(method)
                times[name].append(seconds)
                workers[name].peak = peak
        ours = statistics.median(times["jax"])
        row = [size, batch, method, f"{batch / ours:.2f}", f"{ours:.2f}"]
        row += [f"{workers['jax'].compile_seconds[method]:.1f}", f"{workers['jax'].peak:.1f}"]
        if "torch" in times:
            pairs = zip(times["jax"], times["torch"], strict=True)
            ratio = statistics.median(j / t for j, t in pairs)
            theirs = statistics.median(times["torch"])
            row += [f"{theirs:.2f}", f"{workers['torch'].peak:.1f}", f"{ratio:.2f}"]
        else:
            row += ["-", "-", "-"]
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    for worker in workers.values():
        worker.close()


def main() -> None:
    """Prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="base", help="tiny, small, base or large")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.size, args.batches[0])
        return
    columns = ["size", "batch", "method", "images/s", "s", "compile s", "peak GiB"]
    columns += ["PyTorch s", "PyTorch GiB", "time / PyTorch's"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for batch in args.batches:
        measure(args.size, batch, args.rounds)


if __name__ == "__main__":
    main()
