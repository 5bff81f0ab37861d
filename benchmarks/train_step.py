"""Speed, memory and compile time of the train step, before and with the adversary.

    python -m benchmarks.train_step [--config tiny_full] [--batch 8] [--steps 5]
        [--remat none blocks everything] [--dtype float32] [--compile-only]

The two phases take turns, because on a shared machine only ratios of neighbouring measurements mean
anything. Peak is that of a large matrix product in the same run and dtype. Pictures, captions and
the frozen networks' weights are random: they do not change the time. Memory is what XLA plans for
one device: arguments (the state, which is updated in place) and temporaries. `--compile-only`
needs no memory for the weights.
"""

import argparse
import functools
import importlib
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from unitok_jax import flops, frozen
from unitok_jax.step import Trainer

PHASES = {"first": False, "adversarial": True}


def peak_flops(dtype, seconds: float = 1.0) -> float:
    """Operations per second of a large matrix product."""
    side = 8192 if jax.default_backend() != "cpu" else 2048
    x = jnp.ones((side, side), dtype)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def measure(config, batch: int, steps: int, compile_only: bool, peak: float):
    """Yields a row of the table for every phase."""
    trainer = Trainer(config)
    abstract = jax.eval_shape(trainer.init)
    networks = {kind: frozen.abstract(kind, config.model.dtype)[1] for kind in frozen.used(config)}
    height, width = config.data.image_size
    shapes = {
        "image": jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((batch, config.model.text.context_length), jnp.int32),
    }
    rows, compiled = {}, {}
    for name, adversarial in PHASES.items():
        if adversarial and not config.gan.weight:
            continue
        step = functools.partial(trainer.train_step, adversarial=adversarial)
        row = rows[name] = {"phase": name, "flops": flops.count(step, abstract, networks, shapes)}
        lowered = jax.jit(step, donate_argnums=0).lower(abstract, networks, shapes)
        begun = time.perf_counter()
        compiled[name] = lowered.compile()
        row["compile"] = time.perf_counter() - begun
        memory = compiled[name].memory_analysis()
        row["arguments"] = memory.argument_size_in_bytes / 2**30
        row["temporaries"] = memory.temp_size_in_bytes / 2**30
    if not compile_only:
        rng = np.random.default_rng(0)

        def fill(a):
            return jax.device_put(rng.standard_normal(a.shape, np.float32) * 0.02)

        networks = jax.tree.map(fill, networks)
        arrays = {
            "image": jax.device_put(rng.integers(0, 256, shapes["image"].shape, np.uint8)),
            "text": jax.device_put(rng.integers(1, 500, shapes["text"].shape).astype(np.int32)),
        }
        # Weights of any kind do; making real ones compiles for longer than the step.
        state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), abstract)
        state = state.replace(
            generator=state.generator.replace(params=jax.tree.map(fill, abstract.generator.params)),
            discriminator=trainer.adversary
            and state.discriminator.replace(
                params=jax.tree.map(fill, abstract.discriminator.params)
            ),
        )
        state = state.replace(step=jnp.asarray(round(0.5 * config.steps), jnp.int32))
        times = {name: [] for name in compiled}
        for _ in range(steps + 1):
            for name, step in compiled.items():
                begun = time.perf_counter()
                state, metrics = step(state, networks, arrays)
                jax.block_until_ready((state, metrics))
                times[name].append(time.perf_counter() - begun)
        if int(metrics["skipped"]):
            raise RuntimeError(f"{int(metrics['skipped'])} steps were skipped: not finite")
        for name, row in rows.items():
            row["seconds"] = statistics.median(times[name][1:])
            row["images/s"] = batch / row["seconds"]
            row["of peak"] = row["flops"] / row["seconds"] / peak
    yield from rows.values()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny_full", help="a name in configs/")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--remat", nargs="+", default=["none", "blocks", "everything"])
    parser.add_argument("--dtype", help="instead of the configuration's")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile-only", action="store_true")
    arguments = parser.parse_args()
    config = importlib.import_module(f"configs.{arguments.config}").get_config()
    config.model.dtype = arguments.dtype or config.model.dtype
    peak = peak_flops(jnp.dtype(config.model.dtype))
    device = jax.devices()[0].device_kind
    print(f"{arguments.config}, batch {arguments.batch}, {config.model.dtype}, {device}")
    print(f"peak by a matrix product: {peak / 1e9:,.0f} GFLOP/s")
    print(
        "remat       phase         images/s   s/step  of peak  GFLOP/image  compile s   "
        "state+temp GiB"
    )
    for remat in arguments.remat:
        config.model.remat = remat
        seconds = []
        for row in measure(config, arguments.batch, arguments.steps, arguments.compile_only, peak):
            seconds.append(row.get("seconds", float("nan")))
            print(
                f"{remat:11} {row['phase']:12} {row.get('images/s', float('nan')):9.2f} "
                f"{seconds[-1]:8.2f} {row.get('of peak', float('nan')):8.0%} "
                f"{row['flops'] / arguments.batch / 1e9:12.1f} {row['compile']:10.1f} "
                f"{row['arguments']:8.2f} + {row['temporaries']:.2f}",
                flush=True,
            )
        if len(seconds) == 2:
            print(f"{remat:11} adversarial / first: {seconds[1] / seconds[0]:.2f}")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak resident memory: {resident:.1f} GiB")


if __name__ == "__main__":
    main()
