"""Seconds of a run's mean step on named machines: by timed steps, or no less than a bound."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from unitok_jax.planning import flops, programs
from unitok_jax.planning.machines import CHIPS, GPUS, Topology
from unitok_jax.planning.timed_steps import TIMED, TimedStep
from unitok_jax.training.plan import Plan

# Kinds of figures, from the surest, and what each says.
KINDS = {
    "measured": "the step of these keys was timed on such a chip, by the program of its date",
    "scaled": "the operations of this step, as fast as those of a timed one; on another kind of "
    "chip slower by its peak or its memory's bandwidth, whichever is worse; exchange between chips "
    "is not in it",
    "bound": "nothing like it was measured on such a chip; no run is faster than this",
    "not measured": "neither a timed step nor a peak is known",
}
# Machines of the price list. None needs a compiler: their devices are never asked for.
MACHINES = (
    Topology("cpu:1", [], None, 1, 1),
    *(
        Topology(f"{kind}:{count}", [], GPUS[kind], count, 1)
        for kind, count in (("rtx4090", 1), ("h100", 1), ("h200", 1), ("h100", 8))
    ),
    *(
        Topology(f"v5e:{shape}", [], CHIPS["v5e"], count, 2)
        for shape, count in (("4x4", 16), ("16x16", 256))
    ),
)
_TOLERANCE = 0.01  # of the operations of a step that counts as the timed one
# Times the operations a sample, up or down, over which the speed of a timed step is carried: small
# models are bound by other things than large ones.
_REACH = 8


class Counted(NamedTuple):
    """Operations of a step in one phase of a run."""

    phase: str
    share: float  # of the run's steps, in [0, 1]
    operations: Mapping[str, float]  # platform -> operations, in its forms


class Work(NamedTuple):
    """Work of a step in one phase of a run, on a machine."""

    phase: str
    share: float  # of the run's steps, in [0, 1]
    operations: float  # on all chips, as executed
    least: float  # seconds that no step undercuts; nan: not known


class Estimate(NamedTuple):
    """Seconds of a step, or of the mean step of a run, and where they come from."""

    kind: str  # one of KINDS
    seconds: float  # nan: not known
    sources: tuple[TimedStep, ...]


def count(make_plan: Callable[[ConfigDict, Sequence], Plan], config: ConfigDict) -> list[Counted]:
    """Counts the operations of a run's steps, by phase, from the traced step.

    Args:
      make_plan: plans the step of a configuration on devices, as `training.run.Run.plan`.
      config: the whole configuration; its mesh is not looked at.

    Raises:
      ValueError: the configuration is not valid.
    """
    jax.config.update("jax_platforms", "cpu")
    config = config.copy_and_resolve_references()
    config.mesh.data, config.mesh.fsdp = 1, 1  # operations do not depend on it
    plan = make_plan(config, jax.devices()[:1])
    platforms, found = {machine.platform for machine in MACHINES}, []
    for phase in plan.phases:
        jaxpr = phase.step.trace(*plan.arguments, phase.batch).jaxpr.jaxpr
        operations = {platform: flops.of_jaxpr(jaxpr, platform) for platform in platforms}
        found.append(Counted(phase.kind, phase.share, operations))
    return found


def estimates(config: ConfigDict, counted: Sequence[Counted]) -> list[tuple[Topology, Estimate]]:
    """Estimates the mean step of a run on each of `MACHINES`, from `count`."""
    found = []
    for machine in MACHINES:
        peak = machine.chips * machine.chip.flops if machine.chip else math.nan
        work = [
            Work(phase.phase, phase.share, operations, operations / peak)
            for phase in counted
            for operations in [phase.operations[machine.platform]]
        ]
        found.append((machine, of_run(config, work, machine)))
    return found


def of_run(config: ConfigDict, work: Sequence[Work], machine: Topology) -> Estimate:
    """Estimates the mean step of a run; its kind is that of its least sure phase."""
    found, sources = [of_phase(config, phase, machine) for phase in work], []
    for estimate in found:
        sources += [source for source in estimate.sources if source not in sources]
    return Estimate(
        max((estimate.kind for estimate in found), key=list(KINDS).index),
        sum(w.share * estimate.seconds for w, estimate in zip(work, found, strict=True)),
        tuple(sources),
    )


def of_phase(config: ConfigDict, work: Work, machine: Topology) -> Estimate:
    """Estimates a step: by itself if it was timed, else by a timed one like it, else by its bound.

    A timed step is like it if it is of the same phase, dtype and family of chips, and of up to 8
    times more or fewer operations a sample. Those on such a chip go first, then the nearest.
    """
    alike = [s for s in TIMED if (s.product, s.phase) == (config.product, work.phase)]
    for step in alike:
        if machine.chips == 1 and _is_the_same(step, config, work, machine):
            return Estimate("measured", step.seconds, (step,))
    sample = work.operations / config.data.batch_size
    near = [
        (step.kind != machine.kind, distance, step)
        for step in alike
        if _is_comparable(step, config, machine)
        and (distance := abs(math.log(sample * step.batch / step.operations))) <= math.log(_REACH)
    ]
    if near:
        step = min(near, key=lambda found: found[:2])[2]
        seconds = step.seconds * work.operations / step.operations
        seconds *= _slowdown(step, machine) / machine.chips
        if not seconds < work.least:
            return Estimate("scaled", seconds, (step,))
    return Estimate("not measured" if math.isnan(work.least) else "bound", work.least, ())


def _is_the_same(step, config, work, machine):
    return (
        step.kind == machine.kind
        and math.isclose(step.operations, work.operations, rel_tol=_TOLERANCE)
        and programs.same(step.keys, config.to_dict())
    )


def _is_comparable(step, config, machine):
    if machine.kind == "cpu":  # where every run is float32: docs/explanation/performance.md
        return step.kind == "cpu"
    return machine.is_gpu and step.kind in GPUS and step.keys["model.dtype"] == config.model.dtype


def _slowdown(step, machine):
    if step.kind == machine.kind:
        return 1.0
    timed = GPUS[step.kind]
    return max(timed.flops / machine.chip.flops, timed.bandwidth / machine.chip.bandwidth)
