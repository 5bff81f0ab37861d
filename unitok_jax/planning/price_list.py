"""Price list of a run: hours and chip-hours on named machines, and where the figures come from."""

import math
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from unitok_jax.planning import costs
from unitok_jax.planning.costs import KINDS, Estimate
from unitok_jax.planning.machines import GPUS, Topology
from unitok_jax.planning.timed_steps import TimedStep
from unitok_jax.training.plan import Plan


def show(make_plan: Callable[[ConfigDict, Sequence], Plan], config: ConfigDict) -> None:
    """Prints what a run costs on each of `costs.MACHINES`; nothing is compiled.

    Args:
      make_plan: plans the step of a configuration on devices, as `training.run.Run.plan`.
      config: the whole configuration.

    Raises:
      ValueError: the configuration is not valid.
    """
    print(report(config, costs.estimates(config, costs.count(make_plan, config))))
    print(
        "bounds are of the operations at the peak of the data sheet; --topology=NAME compiles the "
        "step for one machine: whether it fits, and its bound by memory and exchange too"
    )


def report(
    config: ConfigDict, found: Sequence[tuple[Topology, Estimate]], price: float | None = None
) -> str:
    """Formats what a run costs on machines, and where each figure comes from.

    Args:
      config: the whole configuration.
      found: machines with the estimate of the mean step there.
      price: US dollars an hour of one chip, above 0.
    """
    sources = []
    for _, estimate in found:
        sources += [step for step in estimate.sources if step not in sources]
    head = ["machine", "samples/s", "hours", "chip-hours", *(["USD"] if price else []), "figure"]
    rows = [head]
    for machine, estimate in found:
        numbers = ",".join(str(sources.index(s) + 1) for s in estimate.sources)
        figure = f"{estimate.kind} [{numbers}]" if numbers else estimate.kind
        rows.append([machine.name, *figures(config, machine, estimate, price), figure])
    lines = [f"{config.steps:,} steps of {config.data.batch_size:,} samples, steps alone:"]
    wide = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    for *cells, figure in rows:
        lines.append(
            "".join(f"{c:>{n}}" for c, n in zip(cells, wide, strict=False)) + f"  {figure}"
        )
    lines += [f"{i}: {source(step)}" for i, step in enumerate(sources, 1)]
    seen = {estimate.kind for _, estimate in found}
    return "\n".join(lines + [f"{kind}: {KINDS[kind]}" for kind in KINDS if kind in seen])


def figures(
    config: ConfigDict, machine: Topology, estimate: Estimate, price: float | None = None
) -> list[str]:
    """Formats samples a second, hours, chip-hours and, with a price, US dollars of a run."""
    hours = config.steps * estimate.seconds / 3600
    chips = hours * machine.chips
    most, least = ("<= ", ">= ") if estimate.kind == "bound" else ("", "")
    found = [most + _digits(config.data.batch_size / estimate.seconds)]
    return found + [least + _digits(x) for x in (hours, chips, *([chips * price] if price else []))]


def _digits(value: float) -> str:
    """Formats three significant digits."""
    if math.isnan(value):
        return "-"
    decimals = 2 - math.floor(math.log10(value))
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def source(step: TimedStep) -> str:
    """Formats a timed step: what, where, when, by which command."""
    speed = step.operations / step.seconds
    share = f", {speed / GPUS[step.kind].flops:.0%} of the peak" if step.kind in GPUS else ""
    return (
        f"{step.card}, {step.date}, jax {step.jax}: {step.product}, model.size="
        f"{step.keys['model.size']}, {step.phase}, batch {step.batch} in "
        f"{_digits(step.seconds * 1e3)} ms, {speed / 1e12:.3g} TFLOP/s{share}; {step.command}"
    )


def check_price(price: float | None, topology: str) -> None:
    """Checks --price.

    Raises:
      ValueError: it is no price, or it is not told of which machine.
    """
    if price is None:
        return
    if not (price > 0 and math.isfinite(price)):
        raise ValueError(f"--price={price} is no price: US dollars an hour of one chip, above 0")
    if not topology:
        raise ValueError(
            f"--price={price} is that of one kind of chip: name the machine too, --topology=h100:8"
        )
