"""Overview in the log at the start of a run: size, devices, parameters, expected wait."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from clu import parameter_overview

from unitok_jax.training.run import Run


def run_lines(run: Run, workdir) -> list[str]:
    """Formats the size of a run and its devices; `workdir` is its folder."""
    config, mesh = run.config, run.mesh
    epoch = run.samples / (run.batch_size * run.samples_per_row)
    epochs = config.steps / epoch
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    kind = mesh.devices.flat[0].device_kind
    packed = f" of {run.samples_per_row:g} samples each" if run.samples_per_row != 1 else ""
    return [
        f"data: {run.samples:,} samples of {run.origin}, batches of {run.batch_size:,} {run.unit}"
        f"{packed}: {epoch:,.1f} steps an epoch, {epochs:,.2f} epochs in {config.steps:,} steps",
        f"devices: {mesh.size} x {kind}, mesh {axes}, processes: {jax.process_count()}; "
        f"model.dtype={config.model.dtype}",
        f"workdir: {workdir}",
    ]


def array_table(params) -> str:
    """Formats a row for each array of a tree of parameters, with its sharding."""
    return parameter_overview.get_parameter_overview(params, include_stats="sharding")


def part_table(parts: Mapping[str, Any]) -> str:
    """Formats parameters and bytes of each part, name -> tree of arrays, and of all parts."""
    rows = {name: _size(tree) for name, tree in parts.items()}
    rows["total"] = tuple(map(sum, zip(*rows.values(), strict=True)))
    width = max(map(len, rows))
    return "\n".join(
        f"  {name:<{width}}{count:>15,}{size / 1e6:>12,.1f} MB"
        for name, (count, size) in rows.items()
    )


def waiting_line(records: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Formats the expected wait for the first step, from an earlier start on the same devices.

    Args:
      records: records of `clock` of all previous starts.
      facts: facts of this start, as for `Clock.open`.
    """
    alike, seconds = set(), None
    for record in records:
        if "goal" in record:
            if all(record.get(key) == value for key, value in facts.items()):
                alike.add(record["start"])
        elif record["start"] in alike and "starting" in record["seconds"]:
            seconds = record["seconds"]["starting"]
    if seconds is None:
        return "compiling the first step ..."
    return f"compiling the first step; the last start took {seconds:.0f} s for it ..."


def _size(tree) -> tuple[int, int]:
    """Counts elements and bytes of a tree of arrays."""
    leaves = jax.tree.leaves(tree)
    count = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    return count, sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
