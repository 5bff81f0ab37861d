"""Speed of a generator: sampling, beside its bandwidth floor and PyTorch, and the train step.

    python -m benchmarks.generate [--sizes b l xxl] [--batches 1 8 64] [--scales 1 1.5]
        [--dtype bfloat16] [--tokens 256] [--rounds 3] [--torch] [--torch-tokens 32]
    python -m benchmarks.generate --train xl [--batches 32] [--remat none blocks]

The floor reads the weights of the trunk once, those of the head K times, and the filled part of the
cache once for every token, at the bandwidth of a copy measured in the same run. The head's share is
the time of a program that only draws the codes of as many tokens. `--torch` samples with
`benchmarks.torch_generator` on the same device, in turns with ours, its first `--torch-tokens`
tokens: with its static caches all take the same time. Weights are random: they do not change the
time.
"""

import argparse
import concurrent.futures
import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from benchmarks import roofline, timing
from unitok_jax.generate import sampling
from unitok_jax.generate.model import SIZES
from unitok_jax.generate.step import GeneratorSteps, abstract_model
from unitok_jax.models import recomputation
from unitok_jax.models.sampling import Filters, draw_token


def model_of(size: str, dtype: str, tokens: int = 256) -> dict:
    """Returns `config.model` of the published recipe at another size; `tokens` divides by 16."""
    config = timing.configuration("generate", dtype)
    config.model.size, config.model.grid = size, (tokens // 16, 16)
    config.model.remat = "none"
    return config.model.to_dict()


def fill(shapes):
    """Fills shapes with small random floats, made on the device."""

    def make(index, a):
        return jax.random.normal(jax.random.key(index), a.shape, a.dtype) * 0.02

    leaves, tree = jax.tree.flatten(shapes)
    made = [jax.jit(make, static_argnums=1)(i, a) for i, a in enumerate(leaves)]
    return jax.block_until_ready(jax.tree.unflatten(tree, made))


def functions(model: dict, batch: int, scale: float) -> dict:
    """Returns sampling, and the drawing of the codes alone: name -> (function, arguments).

    The parameters are the functions' first argument, and not among the arguments here.
    """
    graph, _ = abstract_model(model)
    tokens, books = math.prod(model["grid"]), model["num_codebooks"]
    guided = scale != 1
    scales = jnp.full((tokens, books), scale) if guided else None

    def whole(params, labels, keys):
        network = nnx.merge(graph, params)
        if guided:
            labels = jnp.concatenate([labels, jnp.full_like(labels, model["classes"])])
        prompt = network.prompt(labels)
        return sampling.sample(network, prompt, keys, filters=Filters(), scale=scales)[0]

    def head(params, hidden, keys):
        network = nnx.merge(graph, params)
        steps = network.head.steps()

        def one(hidden, number):
            token = draw_token(
                network.head, steps, hidden, keys, number, jnp.full(books, scale),
                Filters(), guided,
            )  # fmt: skip
            # Each token depends on the one before, as in sampling.
            return hidden + (token.codes.sum() * 1e-9).astype(hidden.dtype), token.codes

        return lax.scan(one, hidden, jnp.arange(tokens))[1]

    width, dtype = SIZES[model["size"]].width, jnp.dtype(model["dtype"])
    keys = jax.random.split(jax.random.key(0), batch)
    labels = jnp.arange(batch, dtype=jnp.int32) % model["classes"]
    hidden = jnp.ones((2 * batch if guided else batch, width), dtype)
    return {"sample": (whole, (labels, keys)), "head": (head, (hidden, keys))}


def compile_all(settings, model: dict, at_once: int) -> dict:
    """Compiles all programs of a size, some in parallel: (setting, name) -> (program, seconds)."""
    params = abstract_model(model)[1]
    lowered = {
        (setting, name): jax.jit(function).lower(params, *args)
        for setting in settings
        for name, (function, args) in functions(model, *setting).items()
    }

    def make(program):
        begun = time.perf_counter()
        return program.compile(), time.perf_counter() - begun

    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return dict(zip(lowered, pool.map(make, lowered.values()), strict=True))


def floor(model: dict, batch: int, scale: float, bandwidth: float) -> float:
    """Computes the least seconds of sampling a batch: the bytes that every token must read."""
    trunk, dtype = SIZES[model["size"]], jnp.dtype(model["dtype"]).itemsize
    _, params = abstract_model(model)

    def size(tree):
        return sum(math.prod(a.shape) for a in jax.tree.leaves(tree)) * dtype

    head = size(params["head"]["decoder"]) + size(params["head"]["kernel"])
    tokens = math.prod(model["grid"])
    rows = 2 * batch if scale != 1 else batch
    cache = 2 * trunk.depth * trunk.width * dtype * rows * tokens / 2  # half of it is filled
    weights = size(params["trunk"]) + model["num_codebooks"] * head
    return tokens * (weights + cache) / bandwidth


def torch_call(model: dict, batch: int, scale: float, tokens: int):
    """Returns a call that samples the first tokens with PyTorch, in the same dtype."""
    import torch

    from benchmarks.torch_generator import Generator

    size = SIZES[model["size"]]
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    dtype = getattr(torch, model["dtype"])
    with torch.device(device):
        network = Generator(
            size.width, size.heads, size.depth, model["head_depth"], model["num_codebooks"],
            model["vocab_size"] // model["num_codebooks"], model["classes"],
            math.prod(model["grid"]),
        ).to(dtype)  # fmt: skip
        labels = torch.arange(batch) % model["classes"]

    def call():
        network.sample(labels, scale, tokens)
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def sampling_row(made, params, model, setting, bandwidth, rounds, torch_tokens) -> dict:
    """Measures one setting, with the programs of `compile_all`."""
    batch, scale = setting
    calls = {
        name: functools.partial(timing.finish, made[setting, name][0], params, *args)
        for name, (_, args) in functions(model, *setting).items()
    }
    if torch_tokens:
        calls["torch"] = torch_call(model, batch, scale, torch_tokens)
    seconds = timing.medians(calls, rounds)
    tokens, trunk = math.prod(model["grid"]), SIZES[model["size"]]
    blocks = tokens * (trunk.depth + model["num_codebooks"] * model["head_depth"])
    least = floor(model, batch, scale, bandwidth)
    row = {
        "size": model["size"],
        "batch": batch,
        "scale": scale,
        "s": seconds["sample"],
        "images/s": batch / seconds["sample"],
        "tokens/s": batch * tokens / seconds["sample"],
        "ms a token": 1e3 * seconds["sample"] / tokens,
        "ms a block call": 1e3 * seconds["sample"] / blocks,
        "head's share": seconds["head"] / seconds["sample"],
        "x floor": seconds["sample"] / least,
        "compile s": made[setting, "sample"][1],
    }
    if torch_tokens:
        row["PyTorch's time / ours"] = seconds["torch"] * tokens / torch_tokens / seconds["sample"]
    return row


def train_row(size: str, dtype: str, batch: int, remat: str, rounds: int, peak: float) -> dict:
    """Measures the train step."""
    config = timing.configuration("generate", dtype)
    config.model.size, config.model.remat = size, remat
    plain = config.copy_and_resolve_references()
    plain.model.remat = "none"
    steps, reference = GeneratorSteps(config), GeneratorSteps(plain)
    abstract = jax.eval_shape(steps.init)
    shape = batch, config.model.num_codebooks, math.prod(config.model.grid)
    rng = np.random.default_rng(0)
    rows = {
        "codes": rng.integers(0, config.model.vocab_size // shape[1], shape).astype(np.uint16),
        "labels": rng.integers(0, config.model.classes, batch).astype(np.int32),
    }

    def alone(params):
        return params

    job = roofline.Job(
        functools.partial(steps.train_step, gather=alone),
        (abstract, rows),
        config.model.dtype,
        reference=functools.partial(reference.train_step, gather=alone),
        donate=(0,),
    )
    ((program, work),) = roofline.compiled({"step": job}).values()
    state = jax.jit(steps.start)(fill(abstract.generator.params))
    state = state.replace(step=jnp.asarray(config.steps // 2, jnp.int32))
    rows = jax.device_put(rows)
    seconds = timing.train_medians({"step": program}, state, (rows,), rounds)["step"]
    return {
        "size": size,
        "batch": batch,
        "remat": remat,
        "s": seconds,
        "images/s": batch / seconds,
        "model TFLOP an image": work["model_flops"] / batch / 1e12,
        "of peak": work["model_flops"] / seconds / peak,
        "temporaries GiB": work["temporary_bytes"] / 2**30,
        "compile s": work["compile_seconds"],
    }


def main() -> None:
    """Measures, and prints a row after each measurement and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["b"], choices=SIZES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0], help="1: no guidance")
    parser.add_argument("--dtype", help="by default float32 on a CPU, else bfloat16")
    parser.add_argument("--tokens", type=int, default=256, help="of an image, 16 a row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", action="store_true", help="PyTorch too, in turns")
    parser.add_argument("--torch-tokens", type=int, default=32)
    parser.add_argument("--at-once", type=int, default=1, help="programs compiled in parallel")
    parser.add_argument("--train", nargs="+", choices=SIZES, help="sizes whose step is measured")
    parser.add_argument("--remat", nargs="+", choices=recomputation.BLOCKS, default=["blocks"])
    args = parser.parse_args()
    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    peaks = timing.peaks(0.5)
    print(timing.machine(), peaks, flush=True)
    rows = []
    if args.train:
        for size in args.train:
            for batch in args.batches:
                for remat in args.remat:
                    peak = peaks[dtype]
                    row = train_row(size, dtype, batch, remat, args.rounds, peak)
                    rows.append(row)
                    print(row, flush=True)
    else:
        for size in args.sizes:
            model = model_of(size, dtype, args.tokens)
            params = fill(abstract_model(model)[1])
            settings = [(batch, scale) for batch in args.batches for scale in args.scales]
            made = compile_all(settings, model, args.at_once)
            for setting in settings:
                tokens = args.torch_tokens if args.torch else 0
                row = sampling_row(
                    made, params, model, setting, peaks["bytes"], args.rounds, tokens
                )
                rows.append(row)
                print(row, flush=True)
            del params, made
    print(timing.table(list(rows[0]), [list(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
