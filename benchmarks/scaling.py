"""Communication of a train step between chips, and its efficiency on more chips.

    python -m benchmarks.scaling [--config l16] [--devices 256] [--adversary]
        [--machines v5e v5p h100] [--micro 16] [--fsdp 0] [--traffic 0]

The step is compiled once, for simulated CPU devices: nothing runs, and neither an accelerator nor a
compiler of one is needed. The step's collectives are sorted by cause. The rest is arithmetic with
the peaks of `unitok_jax.planning.machines`: time at the chips' bfloat16 peak, time of rings on
their links, and the fraction of the peak that remains if all communication overlaps with the work
("hidden") or none ("exposed").
"""

import argparse
import math
from typing import NamedTuple

import jax

from benchmarks import timing
from unitok_jax.planning import flops, hlo, machines
from unitok_jax.planning import links as exchange
from unitok_jax.tokenizer.plan import plan

COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
_FOUND = (
    "parameters all-gather",
    "gradients all-reduce",
    "features all-gather",
    "features all-reduce",
)


class Step(NamedTuple):
    """Work and communication of a step, independent of the number of chips."""

    flops: float  # per image, with several micro-batches
    once: float  # per image, with a single micro-batch: one forward pass less
    parameters: float  # bytes gathered once per step, if the state is sharded
    gradients: float  # bytes reduced in every micro-batch
    gathered: float  # bytes per image of features gathered on every chip
    reduced: float  # bytes per image of sums over features
    traffic: float = 0.0  # bytes of memory traffic per image; 0: unknown


class Times(NamedTuple):
    """Times of one step on every chip, in seconds."""

    compute: float
    memory: float
    parameters: float
    gradients: float
    features: float

    @property
    def exchange(self) -> float:
        """Time of all collectives."""
        return self.parameters + self.gradients + self.features

    @property
    def work(self) -> float:
        """Time of a chip's own work."""
        return max(self.compute, self.memory)

    @property
    def hidden(self) -> float:
        """Efficiency if all communication overlaps with the work."""
        return self.compute / max(self.work, self.exchange)

    @property
    def exposed(self) -> float:
        """Efficiency if no communication overlaps with the work."""
        return self.compute / (self.work + self.exchange)


def cause(kind: str, name: str) -> str:
    """Returns the cause of a collective: parameters, gradients, or features (and small ones)."""
    # The constraint that gathers the parameters, or, in newer JAX, the gathered argument.
    if "sharding_constraint" in name or name.startswith("state."):
        return "parameters"
    reduces = kind in ("all-reduce", "reduce-scatter")
    backward = "transpose(" in name and "contrastive" not in name
    return "gradients" if reduces and backward else "features"


def compile_step(config, devices: int, adversarial: bool = False, traffic: float = 0.0) -> Step:
    """Compiles the step with its state sharded over `devices` simulated devices.

    Raises:
      ValueError: the configuration does not fit the devices, or the program has collectives
        without a formula here.
    """
    machine = machines.find(f"host:{devices}")

    def trace(micro):
        changed = config.copy_and_resolve_references()
        changed.optim.accumulation = micro
        changed.mesh.data, changed.mesh.fsdp = 1, devices
        found = plan(changed, machine.devices)
        phase = found.phases[adversarial]
        return phase.step.trace(*found.arguments, phase.batch)

    micro, batch = config.optim.accumulation, config.data.batch_size
    traced = trace(max(2, micro))
    text = traced.lower().compile(machine.options).as_text()
    sizes = dict.fromkeys(_FOUND, 0.0)
    for collective, (_, size) in hlo.traffic(text, devices, cause=cause).collectives.items():
        kind = collective.kind
        if kind == "reduce-scatter":
            kind, size = "all-reduce", size * collective.devices
        name = f"{collective.cause} {kind}"
        if name not in sizes:
            raise ValueError(f"{name} of {size:.0f} bytes: this script knows {', '.join(_FOUND)}")
        sizes[name] += size
    parameters, gradients, gathered, reduced = sizes.values()
    return Step(
        # In the forms of TPUs, for all machines: those of GPUs are a percent more.
        flops.of_jaxpr(traced.jaxpr.jaxpr, "tpu") / batch,
        flops.of_jaxpr(trace(1).jaxpr.jaxpr, "tpu") / batch,
        parameters,
        gradients / max(2, micro),
        gathered / batch,
        reduced / batch,
        traffic,
    )


def machine_of(kind: str, chips: int) -> machines.Topology | None:
    """Returns a slice or a cluster of `chips` chips, without devices; None if there is none."""
    if kind in machines.GPUS:
        return machines.Topology(f"{kind}:{chips}", [], machines.GPUS[kind], chips, 1)
    chip = machines.CHIPS[kind]
    for shape in chip.shapes:
        sides = [int(side) for side in shape.split("x")]
        if math.prod(sides) == chips:
            axes = sum(side > 1 for side in sides)
            return machines.Topology(f"{kind}:{shape}", [], chip, chips, axes)
    return None


def machines_of(kind: str, fsdp: int) -> list[machines.Topology]:
    """Returns machines of COUNTS chips that can shard the state over `fsdp` chips; 0: over all.

    Raises:
      ValueError: no such machine.
    """
    known = [machine for chips in COUNTS if (machine := machine_of(kind, chips))]
    found = [machine for machine in known if fsdp >= 0 and machine.chips % (fsdp or 1) == 0]
    if not found:
        sizes = ", ".join(str(machine.chips) for machine in known)
        raise ValueError(f"--fsdp={fsdp} divides none of the machines of {kind}, {sizes} chips")
    return found


def predict(step: Step, machine: machines.Topology, images: float, micro: int, fsdp: int) -> Times:
    """Predicts times of a step, `images` a chip in `micro` micro-batches, state on `fsdp` chips.

    Gradients are reduce-scattered over 'fsdp', then summed over 'data'. Neighbours of the mesh are
    along 'fsdp'.
    """
    chips, chip = machine.chips, machine.chip

    def time(kind, devices, size, apart=1):
        """Returns the time for groups whose members are `apart` chips from one to the next."""
        if devices == 1:
            return 0.0
        together = min(devices, max(1, (chip.node or chips) // apart))
        collective = hlo.Collective(kind, devices, math.ceil(devices / together))
        return exchange.seconds(collective, size, chips, machine)

    gradients = time("reduce-scatter", fsdp, step.gradients / fsdp)
    gradients += time("all-reduce", chips // fsdp, step.gradients / fsdp, apart=fsdp)
    batch = images * chips
    features = time("all-gather", chips, step.gathered * batch)
    features += time("all-reduce", chips, step.reduced * batch)
    return Times(
        (step.flops if micro > 1 else step.once) * images / chip.flops,
        step.traffic * images / chip.bandwidth,
        time("all-gather", fsdp, step.parameters),
        micro * gradients,
        features,
    )


def images_for(
    share: float, step: Step, machine: machines.Topology, micro: int, fsdp: int
) -> float:
    """Finds the images a chip at which `share` of a step is exposed; inf: always more."""
    one, two = (predict(step, machine, images, micro, fsdp) for images in (1, 2))
    allowed = one.work * share / (1 - share) - (two.exchange - one.exchange)
    fixed = 2 * one.exchange - two.exchange
    return fixed / allowed if allowed > 0 else math.inf


def _table(title, names, rows):
    print(f"\n{title}\n\n| {' | '.join(('', *names))} |\n|{'---|' * (len(names) + 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _row(step, machine, images, size, fsdp):
    micro = math.ceil(images / size)
    found = predict(step, machine, images, micro, fsdp or machine.chips)
    rate = images * machine.chips / found.compute
    return (
        machine.name,
        f"{images:g}",
        f"{micro}",
        *(f"{1e3 * seconds:.1f}" if seconds else "-" for seconds in found),
        f"{found.hidden:.0%}",
        f"{found.exposed:.0%}",
        f"{rate * found.exposed:.0f} to {rate * found.hidden:.0f}",
    )


def _print_machine(kind, step, batch, size, fsdp):
    names = ("images a chip", "micro-batches", *Times._fields, "hidden", "exposed", "images/s")
    found = machines_of(kind, fsdp)
    rows = [_row(step, machine, batch / machine.chips, size, fsdp) for machine in found]
    _table(f"{kind}: {batch} images in all, at most {size} at once on a chip; ms", names, rows)
    rows = [_row(step, machine, size, size, fsdp) for machine in found]
    _table(f"{kind}: {size} images a chip; ms", names, rows)
    _table(
        f"{kind}: images at once on a chip at which exposed exchange is a part of a step",
        ("10 %", "50 %", "10 %, of 4 micro-batches", "50 %, of 4"),
        [
            (
                machine.name,
                *(
                    f"{images_for(share, step, machine, micro, fsdp or machine.chips) / micro:.1f}"
                    for micro in (1, 4)
                    for share in (0.1, 0.5)
                ),
            )
            for machine in found
        ],
    )
    last = predict(step, found[-1], 1, 1, 1)
    reach = found[-1].chips * last.work / last.features / 9
    print(f"\n{kind}: features alone are 10 % of a step on {reach:.0f} chips, with any batch")


def main() -> None:
    """Prints the tables."""
    kinds = [kind for kind, chip in (machines.CHIPS | machines.GPUS).items() if chip.devices == 1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="l16", help="a file of configs/")
    parser.add_argument("--devices", type=int, default=256, help="to compile for")
    parser.add_argument("--adversary", action="store_true", help="the second phase")
    parser.add_argument("--machines", nargs="+", choices=kinds, default=["v5e", "v5p", "h100"])
    parser.add_argument("--micro", type=int, default=16, help="images of a micro-batch on a chip")
    parser.add_argument("--fsdp", type=int, default=0, help="chips that share the state; 0: all")
    parser.add_argument(
        "--traffic", type=float, default=0.0, help="GB of memory that an image moves; 0: not known"
    )
    flags = parser.parse_args()
    try:
        config = timing.configuration(flags.config)
        for kind in flags.machines:
            machines_of(kind, flags.fsdp)
    except ValueError as error:
        parser.error(str(error))
    if flags.micro < 1:
        parser.error(f"--micro={flags.micro} must be at least 1")
    step = compile_step(config, flags.devices, flags.adversary, 1e9 * flags.traffic)
    print(
        f"jax {jax.__version__}, {flags.config} over {flags.devices} devices: an image takes "
        f"{step.flops / 1e9:.0f} GFLOP, {step.once / 1e9:.0f} without micro-batches; "
        f"{step.parameters / 1e9:.3f} GB of parameters are gathered a step, "
        f"{step.gradients / 1e9:.3f} GB of gradients reduced a micro-batch; "
        f"{step.gathered:.0f} bytes of an image's features are gathered, {step.reduced:.0f} reduced"
    )
    for kind in flags.machines:
        _print_machine(kind, step, config.data.batch_size, flags.micro, flags.fsdp)


if __name__ == "__main__":
    main()
