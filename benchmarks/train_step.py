"""Speed, memory and compile time of the train step, before and in the adversarial phase.

    python -m benchmarks.train_step [--config tiny_full] [--batch 8] [--steps 5]
        [--remat none products] [--dtype float32] [--compile-only]

The two phases take turns, because on a shared machine only ratios of neighbouring measurements are
meaningful. Peak is that of a large matrix product in the same run and dtype. Pictures, captions and
the frozen networks' weights are random: they do not change the time. Memory is XLA's plan for one
device: arguments (the state, which is updated in place) and temporaries. `--compile-only` needs no
memory for the weights.
"""

import argparse
import functools
import resource
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import roofline, timing
from unitok_jax.models import recomputation
from unitok_jax.tokenizer.step import TokenizerSteps

PHASES = {"first": False, "adversarial": True}


def measure(
    config, batch: int, rounds: int, at_once: int = 1, phases: Sequence[str] = tuple(PHASES)
) -> dict[str, dict]:
    """Measures phases: work as of `roofline.compiled`, `batch` and the median `seconds`.

    Args:
      config: the whole configuration.
      batch: number of images.
      rounds: rounds in which the phases take turns; 0: nothing runs, without `seconds`.
      at_once: number of parallel compilations.
      phases: names in `PHASES`; the adversarial one is left out if nothing acts in it.

    Raises:
      RuntimeError: a step was not finite.
    """
    made = jobs(config, batch, phases)
    programs = roofline.compiled(made, at_once)
    rows = {name: work | {"batch": batch} for name, (_, work) in programs.items()}
    if rounds:
        steps = {name: program for name, (program, _) in programs.items()}
        state, *arguments = arrays(config, next(iter(made.values())))
        seconds = timing.train_medians(steps, state, arguments, rounds)
        for name, row in rows.items():
            row["seconds"] = seconds[name]
    return rows


def jobs(config, batch: int, phases: Sequence[str] = tuple(PHASES)) -> dict[str, roofline.Job]:
    """Returns phase -> the step to compile, of (state, frozen networks, batch)."""
    steps, reference = TokenizerSteps(config), TokenizerSteps(_plain(config))
    abstract = jax.eval_shape(steps.init)
    networks = steps.abstract_networks()
    height, width = config.data.image_size
    shapes = {
        "image": jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((batch, config.model.text.context_length), jnp.int32),
    }
    return {
        name: roofline.Job(
            functools.partial(steps.train_step, adversarial=PHASES[name], gather=_alone),
            (abstract, networks, shapes),
            config.model.dtype,
            reference=functools.partial(
                reference.train_step, adversarial=PHASES[name], gather=_alone
            ),
            donate=(0,),
        )
        for name in phases
        if config.gan.weight or not PHASES[name]
    }


def arrays(config, job: roofline.Job) -> tuple:
    """Makes the arguments of a step on the device: a state in mid-training, networks, a batch."""
    abstract, networks, shapes = job.args
    rng = np.random.default_rng(0)
    batch = {
        "image": jax.device_put(rng.integers(0, 256, shapes["image"].shape, np.uint8)),
        "text": jax.device_put(rng.integers(1, 500, shapes["text"].shape).astype(np.int32)),
    }
    # Any weights will do; initialising real ones compiles for longer than the step.
    state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), abstract)
    params = timing.fill(abstract.generator.params)
    state = state.replace(generator=state.generator.replace(params=params))
    if abstract.discriminator is not None:
        params = timing.fill(abstract.discriminator.params)
        state = state.replace(discriminator=state.discriminator.replace(params=params))
    state = state.replace(step=jnp.asarray(round(0.5 * config.steps), jnp.int32))
    return state, timing.fill(networks), batch


def _alone(params):
    """Returns the parameters unchanged: on one device nothing is gathered."""
    return params


def _plain(config):
    """Returns the configuration without recomputation."""
    config = config.copy_and_resolve_references()
    config.model.remat, config.optim.accumulation = "none", 1
    return config


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny_full", help="a name in configs/")
    parser.add_argument("--batch", type=int, default=8)
    names = recomputation.TOKENIZER
    parser.add_argument("--remat", nargs="+", choices=names, default=names)
    parser.add_argument("--dtype", help="instead of the configuration's")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile-only", action="store_true")
    arguments = parser.parse_args()
    config = timing.configuration(arguments.config, arguments.dtype)
    peak = timing.peak_flops(jnp.dtype(config.model.dtype))
    device = jax.devices()[0].device_kind
    print(f"{arguments.config}, batch {arguments.batch}, {config.model.dtype}, {device}")
    print(f"peak by a matrix product: {peak / 1e9:,.0f} GFLOP/s\n")
    rows, ratios = [], []
    for remat in arguments.remat:
        config.model.remat = remat
        rounds = 0 if arguments.compile_only else arguments.steps
        found = measure(config, arguments.batch, rounds)
        for phase, row in found.items():
            cells = [remat, phase, None, None, None]
            if rounds:
                cells[2:] = arguments.batch / row["seconds"], row["seconds"]
                cells.append(f"{row['flops'] / row['seconds'] / peak:.0%}")
            memory = f"{row['argument_bytes'] / 2**30:.2f} + {row['temporary_bytes'] / 2**30:.2f}"
            cells += [row["flops"] / arguments.batch / 1e9, row["compile_seconds"], memory]
            rows.append(cells)
        if rounds and len(found) == 2:
            ratio = found["adversarial"]["seconds"] / found["first"]["seconds"]
            ratios.append(f"{remat}: adversarial / first: {ratio:.2f}")
    columns = ["remat", "phase", "images/s", "s/step", "of peak", "GFLOP/image", "compile s"]
    print(timing.table([*columns, "state + temporaries, GiB"], rows))
    print("", *ratios, sep="\n")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak resident memory: {resident:.1f} GiB")


if __name__ == "__main__":
    main()
