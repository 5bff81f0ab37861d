"""Plan of a product's train step: what `planning.fit` compiles for machines that are not here."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, Sharding


class Phase(NamedTuple):
    """Part of a run in which all steps run one program."""

    name: str  # for people
    step: Any  # jitted train step, of the plan's arguments and the batch
    share: float  # of the run's steps, in [0, 1]
    batch: Any  # tree of shapes with dtypes and shardings
    kind: str = "every step"  # what steps compute; those of one kind differ in their batch alone


class Plan(NamedTuple):
    """Train step of a configuration on a mesh, as shapes: no data and no weights are read."""

    mesh: Mesh
    phases: Sequence[Phase]
    arguments: tuple  # of a step, before its batch: shapes with dtypes and shardings
    parts: Mapping[str, Any]  # name -> tree among these arguments, for people
    samples: float  # that a run sees
    unit: str  # of a batch, for people: images, or rows
    micro_batches: int  # of a step, one after the other
    advice: str  # keys to change if a step does not fit


def place(tree, where: Sharding):
    """Gives the shapes of a tree a sharding."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)


def memory(step, *arguments) -> dict[str, int]:
    """Returns the bytes on each device that a jitted step of these arguments needs, by kind."""
    found = step.lower(*arguments).compile().memory_analysis()
    return {
        "arguments": found.argument_size_in_bytes,
        "new outputs": found.output_size_in_bytes - found.alias_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
    }
