"""Fit of a configuration on absent machines: compiles its train step for them."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from unitok_jax.planning import costs, flops, gpus, hlo, links, machines, price_list
from unitok_jax.planning.machines import Topology
from unitok_jax.system.extras import how_to_install
from unitok_jax.training.plan import Plan

log = logging.getLogger(__name__)

_GIB = 2**30


class Memory(NamedTuple):
    """Bytes of one device while a step runs; nan means unknown."""

    state: dict[str, int]  # by part
    padding: float  # padding of the argument layouts
    temporaries: float  # activations, gradients, gathered parameters
    results: float  # results that do not reuse an argument's memory
    code: float

    @property
    def peak(self) -> float:
        """Sum of all known parts."""
        return sum(self.state.values()) + sum(size for size in self[1:] if not math.isnan(size))


class Cost(NamedTuple):
    """Work of one step per device, and its minimum times in seconds; nan means unknown."""

    flops: float
    traffic: hlo.Traffic
    compute: float
    memory: float
    exchange: float

    @property
    def roofline(self) -> float:
        """Longest known time of the three that can overlap."""
        limits = (self.compute, self.memory, self.exchange)
        return max((limit for limit in limits if not math.isnan(limit)), default=math.nan)


class DoesNotFitError(ValueError):
    """The step needs more memory than a chip has."""


def fit(
    make_plan: Callable[[ConfigDict, Sequence], Plan],
    config: ConfigDict,
    name: str,
    efficiency: float,
    price: float | None = None,
) -> None:
    """Compiles the phases of a train step for `name` and prints what they need per device.

    Args:
      make_plan: plans the step of a configuration on devices, as `training.run.Run.plan`.
      config: the whole configuration.
      name: the machine, as for `machines.find`.
      efficiency: assumed fraction of the roofline's speed.
      price: US dollars an hour of one chip, to print what the run costs.

    Raises:
      DoesNotFitError: a phase needs more memory than a chip has.
      ValueError: the configuration or the machine is not valid.
    """
    if not 0 < efficiency <= 1:
        raise ValueError(f"--efficiency={efficiency} must be above 0 and at most 1")
    machine = machines.find(name)
    plan = make_plan(config, machine.devices)
    print(_heading(config, machine, plan))
    missing, seconds, work = [], 0.0, []
    for phase in plan.phases:
        print(f"\n{phase.name}", flush=True)
        traced = phase.step.trace(*plan.arguments, phase.batch)
        try:
            compiled = traced.lower().compile(machine.options)
        except jax.errors.JaxRuntimeError as error:
            missing.append(f"{phase.name}: {out_of_memory(error, plan.advice)}")
            print(f"  {missing[-1]}")
            continue
        memory = _memory(compiled, {**plan.parts, "batch": phase.batch}, machine)
        _print_memory(memory, machine)
        cost = _cost(traced, compiled, plan.mesh.size, machine)
        _print_cost(cost, config.data.batch_size, plan.unit, machine, efficiency)
        seconds += phase.share * cost.roofline / efficiency
        operations = cost.flops * plan.mesh.size
        work.append(costs.Work(phase.kind, phase.share, operations, cost.roofline))
        if machine.chip and memory.peak > machine.per_device.capacity:
            needed = _too_large(memory.peak, machine.per_device.capacity, plan.advice)
            missing.append(f"{phase.name}: {needed}")
    if machine.chip and not missing:
        print(_days(plan, config.data.batch_size, seconds, efficiency))
        print(
            "\n"
            + price_list.report(config, [(machine, costs.of_run(config, work, machine))], price)
        )
    if missing:
        raise DoesNotFitError("\n".join(missing))


def _bytes(tree) -> int:
    """Returns the bytes that one device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree)
    )


def _memory(compiled, parts, machine: Topology) -> Memory:
    parts = {name: size for name, part in parts.items() if (size := _bytes(part))}
    if machine.simulated:
        return Memory(parts, *[math.nan] * 4)
    found = compiled.memory_analysis()
    return Memory(
        state=parts,
        padding=max(0, found.argument_size_in_bytes - sum(parts.values())),
        temporaries=found.temp_size_in_bytes,
        results=found.output_size_in_bytes - found.alias_size_in_bytes,
        code=found.generated_code_size_in_bytes,
    )


def _cost(traced, compiled, devices: int, machine: Topology) -> Cost:
    operations = flops.of_jaxpr(traced.jaxpr.jaxpr, machine.platform) / devices
    chip = machine.per_device
    traffic = hlo.traffic(compiled.as_text(), devices, chip.node if chip else 0)
    if machine.simulated:
        traffic = traffic._replace(bytes=math.nan)
    if chip is None:
        return Cost(operations, traffic, *[math.nan] * 3)
    return Cost(
        operations,
        traffic,
        operations / chip.flops,
        traffic.bytes / chip.bandwidth,
        sum(
            links.seconds(collective, size, devices, machine)
            for collective, (_, size) in traffic.collectives.items()
        ),
    )


def _heading(config, machine, plan):
    batch, mesh, micro = config.data.batch_size, plan.mesh, plan.micro_batches
    lines = [
        f"{machine.name}: {machine.chips} chips, mesh.data={mesh.shape['data']} x "
        f"mesh.fsdp={mesh.shape['fsdp']}; global batch {batch}, {batch // machine.chips} a chip"
        f"{f' in {micro} micro-batches' if micro > 1 else ''}; model.remat={config.model.remat}, "
        f"{config.model.dtype}"
    ]
    if machine.chip:
        c = machine.chip
        lines.append(
            f"a chip: {c.capacity / _GIB:.0f} GiB, {c.flops / 1e12:.0f} TFLOP/s, "
            f"{c.bandwidth / 1e9:.0f} GB/s of memory, {c.links / 1e9:.0f} GB/s of links one way"
            + (
                f"; it shows as {c.devices} devices, figures are per device"
                if c.devices > 1
                else ""
            )
            + (
                f" within {c.node}, {c.network / 1e9:.0f} GB/s of network; JAX takes "
                f"{gpus.share():.0%} of the memory (XLA_PYTHON_CLIENT_MEM_FRACTION)"
                if machine.is_gpu
                else ""
            )
            + (
                "; simulated: what needs the compiler of GPUs shows as -, "
                + how_to_install("gpu-compile")
                if machine.simulated
                else ""
            )
        )
    return "\n".join(lines)


def _row(name, value, note=""):
    print(f"  {name:34}{value:>14}  {note}".rstrip())


def _gib(size):
    return "-" if math.isnan(size) else f"{size / _GIB:.3f} GiB"


def _print_memory(memory: Memory, machine: Topology) -> None:
    for name, size in memory.state.items():
        _row(name, _gib(size), f"{size} bytes")
    _row("layouts and counters", _gib(memory.padding))
    _row("activations and temporaries", _gib(memory.temporaries))
    _row("results and program", _gib(memory.results + memory.code))
    verdict = ""
    if machine.chip:
        capacity = machine.per_device.capacity
        left = capacity - memory.peak
        word = "fits, left" if left >= 0 else "does not fit, missing"
        if machine.simulated and left >= 0:
            word = "at least; left for activations and temporaries"
        verdict = f"of {capacity / _GIB:.0f} GiB: {word} {_gib(abs(left))}"
    _row("peak", _gib(memory.peak), verdict)


def _print_cost(cost: Cost, batch: int, unit: str, machine: Topology, efficiency: float) -> None:
    def milliseconds(seconds):
        return "-" if math.isnan(seconds) else f"{seconds * 1e3:.1f} ms"

    _row("operations", f"{cost.flops / 1e9:.3f} GFLOP", milliseconds(cost.compute))
    moved = cost.traffic.bytes
    gigabytes = "-" if math.isnan(moved) else f"{moved / 1e9:.3f} GB"
    _row("memory traffic", gigabytes, milliseconds(cost.memory))
    for kind in hlo.KINDS:
        found = {c: v for c, v in cost.traffic.collectives.items() if c.kind == kind}
        if found:
            size = sum(size for _, size in found.values())
            count = sum(count for count, _ in found.values())
            over = sorted({(c.devices, c.nodes) for c in found})
            over = ", ".join(f"{n} devices{f' in {m} nodes' if m > 1 else ''}" for n, m in over)
            _row(kind, f"{size / 1e9:.6f} GB", f"{count} times, over {over}")
    exchanged = milliseconds(cost.exchange)
    if machine.chip is None:
        _row("collectives in all", exchanged)
        return
    _row("collectives in all", exchanged, f"{cost.exchange / cost.roofline:.1%} of the roofline")
    limits = {"compute": cost.compute, "memory": cost.memory, "links": cost.exchange}
    bound = next(name for name, seconds in limits.items() if seconds == cost.roofline)
    unknown = "; memory traffic is not known" if math.isnan(moved) else ""
    _row("roofline", milliseconds(cost.roofline), f"a step, bound by {bound}{unknown}")
    speed = batch / cost.roofline * efficiency
    _row(f"at {efficiency:.0%} of it", f"{speed:.0f} {unit}/s")


def _days(plan: Plan, batch: int, seconds: float, efficiency: float) -> str:
    """Formats the days of the published run; `seconds` are those of a mean step."""
    days = plan.samples / batch * seconds / 86400
    later = "".join(f", {phase.share:.1%} of the steps {phase.name}" for phase in plan.phases[1:])
    return (
        f"\n{days:.1f} days for {_millions(plan.samples)} {plan.unit} at {efficiency:.0%} of the "
        f"roofline{later}"
    )


def _millions(count: float) -> str:
    """Formats a large number of samples."""
    return f"{count / 1e9:.2f} billion" if count >= 1e8 else f"{count / 1e6:.2f} million"


def out_of_memory(error: jax.errors.JaxRuntimeError, advice: str) -> str:
    """Formats the compiler's memory requirements, and advice.

    Raises:
      JaxRuntimeError: the error is another one.
    """
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    sizes = [
        re.search(r"temporaries \(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", text),
        re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm", text),
    ]
    found = next((size for size in sizes if size), None)
    if found is None:
        raise error
    log.debug("the compiler: %s", text)
    return _too_large(*(_number(size) for size in found.groups()), advice, least=True)


def _number(text: str) -> float:
    return float(text[:-1]) * 2 ** (10 * ("KMGT".index(text[-1]) + 1))


def _too_large(needed: float, capacity: float, advice: str, least: bool = False) -> str:
    return (
        f"does not fit: needs {'at least ' if least else ''}{needed / _GIB:.2f} GiB of "
        f"{capacity / _GIB:.2f} GiB; try {advice}, or a larger slice"
    )
