"""Orbax checkpoints of a run: saving, retention, and the choice of one to resume from.

A workdir holds `checkpoints/<step>/` with three items: `params` (the generator's), `training`
(optimiser, step, discriminator) and `meta` (JSON: configuration, data position, digests). Use of a
model reads `params` and `meta` only; a converted model has no `training`.
"""

import json
import logging
import math
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.reader import (
    IN_FLIGHT,
    ITEMS,
    CheckpointError,
    DamagedError,
    SavedStep,
    named_digests,
    refuse,
)
from unitok_jax.checkpoints.retention import Preservation
from unitok_jax.runtime import processes, workdir

log = logging.getLogger(__name__)

_SHARED = 2**20  # bytes, the smallest part of a replicated array that a process writes alone
_TEMPORARY = ".orbax-checkpoint-tmp"  # in the names of saves that a kill cut short


class SaveError(RuntimeError):
    """A checkpoint could not be written, for a reason other than a full disk."""


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which saves on every call."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False: JAX must learn only from the loop which step the run has reached.

        A finished save would report an older one, from which a notice is missed; and compare the
        time of this save with those of the ones before, which were not read.
        """
        return False


def _array_writers():
    """Builds the writers of arrays: those of NumPy, and those of devices.

    Each process of a job writes a part of what all of them hold, if that is large. By default the
    devices of one process share the work too, by slices: a compiled program for each shape and
    each device, a quarter of the time of a run of two steps on eight devices.
    """
    several = jax.process_count() > 1
    of_devices = ocp.type_handlers.ArrayHandler(
        use_replica_parallel=several, min_slice_bytes_for_replica_parallel=_SHARED
    )
    of_numpy = ocp.type_handlers.NumpyHandler()
    return ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, of_numpy), (jax.Array, of_devices)
    )


class Checkpoints:
    """Checkpoints of one workdir. A context manager: leaving it waits for pending saves."""

    def __init__(self, folder, settings: ConfigDict | None = None, create: bool = False):
        """Opens a workdir.

        Args:
          folder: the workdir that holds, or will hold, the folder `checkpoints`; or that folder.
          settings: `config.checkpoint`: which ones to keep; all if not given.
          create: whether to make the folder. Without it the checkpoints are only read.
        """
        path = workdir.open_folder(folder)
        self.folder = path if path.name == "checkpoints" else path / "checkpoints"
        if not create and not self.folder.is_dir():
            raise CheckpointError(f"{folder} is no workdir: it has no folder 'checkpoints'")
        self._kept, self._manager, self._saving = None, None, None
        if not create:
            return
        if processes.is_lead():
            self.folder.mkdir(parents=True, exist_ok=True)
            _clean(self.folder)
        processes.everyone(True)
        # With the processes named, Orbax waits for them through JAX's coordinator; otherwise by a
        # sum over all devices, from its own thread too, where it meets those of a step.
        barriers = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes=set(range(jax.process_count()))
        )
        self._kept = Preservation(settings)
        for step in self.steps():
            self._kept.metrics[step] = _metrics(SavedStep(self.folder, step))
        self._manager = _Manager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                create=False,
                multiprocessing_options=barriers,
                cleanup_tmp_directories=True,
                lightweight_initialize=True,
                preservation_policy=self._kept,
            ),
            item_handlers={
                **{
                    item: ocp.PyTreeCheckpointHandler(
                        save_concurrent_gb=IN_FLIGHT,
                        multiprocessing_options=barriers,
                        type_handler_registry=_array_writers(),
                    )
                    for item in ITEMS
                },
                "meta": ocp.JsonCheckpointHandler(multiprocessing_options=barriers),
            },
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        try:
            self.wait()
        except (OSError, SaveError) as failed:
            if error is None:
                raise
            log.error("%s", failed)
        finally:
            if self._manager is not None:
                self._manager.close()

    def steps(self) -> list[int]:
        """Returns all completely saved steps, in order; a step may have been damaged since."""
        name_format = ocp.path.step.standard_name_format()
        if not self.folder.exists():
            return []
        return sorted(name.step for name in name_format.find_all(self.folder))

    def latest_step(self) -> int | None:
        """Returns the newest checkpoint's step, or None."""
        return max(self.steps(), default=None)

    def save(
        self,
        step: int,
        items: dict[str, Any],
        config: ConfigDict,
        metrics: dict[str, Any],
        data: dict[str, int] | None = None,
    ) -> None:
        """Starts an asynchronous save; arrays may be donated as soon as this returns.

        Args:
          step: its number; also the position in the data.
          items: trees of arrays: `params`, and `training` unless it is a model alone.
          config: the whole configuration.
          metrics: results of an evaluation of exactly these weights, or empty.
          data: the run's dependencies beyond the configuration: samples, batch size, digests.

        Raises:
          OSError: this one, or the one before that was still being written, finds the disk full.
          SaveError: either cannot be written for another reason.
        """
        self.wait()
        self.check_space(items)
        best = self._best(metrics)
        meta = {
            "config": config.to_dict(),
            "step": step,
            "data_position": step,
            "data": data or {},
            "digests": {name: named_digests(item) for name, item in items.items()},
            "metrics": best,
            "evaluated": bool(metrics),
        }
        self._kept.metrics[step] = best
        self._saving = step, _bytes(items)
        saved = self._attempt(
            self._manager.save,
            step,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta),
                **{name: ocp.args.PyTreeSave(item) for name, item in items.items()},
            ),
        )
        if not saved:
            raise CheckpointError(
                f"step {step} was not saved: {self.folder} already holds step "
                f"{self.latest_step()}; is another run writing to this workdir?"
            )

    def add_evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """Stores the evaluation of a checkpoint that was saved without one, and counts it for best.

        All processes must call it.

        Args:
          step: of a complete checkpoint.
          metrics: results of an evaluation of exactly its weights.
        """
        best = self._kept.metrics[step] = self._best(metrics)
        if processes.is_lead():
            saved = self._saved_step(step)
            meta = saved.meta() | {"metrics": best, "evaluated": True}
            workdir.write(saved.meta_file, json.dumps(meta))

    def _best(self, metrics):
        """Returns the metric that decides which checkpoints are best, if it is a number."""
        name = self._kept.best_metric
        value = float(metrics.get(name, math.nan))
        return {name: value} if math.isfinite(value) else {}

    def wait(self) -> None:
        """Waits for the save that is being written, if there is one.

        Raises:
          OSError, SaveError: as in `save`.
        """
        if self._manager is not None:
            self._attempt(self._manager.wait_until_finished)

    def check_space(self, items: dict[str, Any]) -> None:
        """Refuses to continue without free space for a checkpoint. All processes must call it.

        Raises:
          OSError: the message gives the folder, the free and the required space.
        """
        needed, free = _bytes(items), workdir.free_bytes(self.folder)
        if not processes.everyone(free >= needed):
            raise OSError(self._full(needed))

    def _attempt(self, call, *args, **kwargs):
        """Calls Orbax, and translates its errors for the run."""
        try:
            return call(*args, **kwargs)
        except (ValueError, OSError, RuntimeError) as error:
            if self._saving is None:
                raise
            step, needed = self._saving
            if workdir.is_full(error):
                raise OSError(
                    self._full(needed, f"step {step} was not saved, the disk is full: by now ")
                ) from error
            raise SaveError(
                f"step {step} could not be written to {self.folder}: {error}"
            ) from error

    def _full(self, needed: int, prefix: str = "") -> str:
        return (
            f"{prefix}{self.folder} has {workdir.free_bytes(self.folder) / 1e9:.3f} GB free and a "
            f"checkpoint takes up to {needed / 1e9:.3f} GB; complete ones: "
            f"{', '.join(map(str, self.steps())) or 'none'}. Make room there, or set "
            "another --workdir, and run the same command again"
        )

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """Returns the JSON item of `step`, or of the newest checkpoint with a readable one.

        Raises:
          CheckpointError: there is none.
        """
        if step is not None:
            return self._saved_step(step).meta()
        damaged = {}
        for step in reversed(self.steps()):
            try:
                return self._saved_step(step).meta()
            except DamagedError as error:
                damaged[step] = str(error)
        raise self._none(damaged)

    def restore(
        self,
        targets: dict[str, Any],
        config: ConfigDict | None = None,
        data: dict[str, int] | None = None,
        step: int | None = None,
        partial: bool = False,
        alone: bool = False,
    ) -> dict[str, Any]:
        """Reads items of `step`, or of the newest checkpoint that is not damaged.

        All processes must call it, and read the same step, unless `alone`. Damaged checkpoints that
        are newer are named in a warning; a run that writes moves them to `checkpoints/damaged`, so
        that their steps can be saved again.

        Args:
          targets: item name -> tree of ShapeDtypeStructs with shardings.
          config: the configuration to resume with; None if the weights alone are wanted.
          data: as in `save`, of the run that resumes.
          step: the checkpoint's step; no other is used in its place.
          partial: as for `SavedStep.read`.
          alone: whether this process reads for itself, into its own devices: others may fail, or
            read elsewhere.

        Raises:
          CheckpointError: there is none, it was saved for another model or other data, or its
            bytes changed; the message lists every difference.
        """
        damaged = {}
        for candidate in [step] if step is not None else reversed(self.steps()):
            saved = self._saved_step(candidate)
            try:
                items = self._read(saved, targets, config, data, partial, alone)
            except DamagedError as error:
                if step is not None:
                    raise
                damaged[candidate] = str(error)
                log.warning("checkpoint %d is damaged, trying the one before: %s", candidate, error)
                continue
            if damaged and self._manager is not None:
                self._set_aside(damaged)
            return items
        raise self._none(damaged)

    def _read(self, saved, targets, config, data, partial, alone):
        items, damage = None, None
        try:
            if config is not None:
                meta = saved.meta()
                configs = meta["config"], config.to_dict()
                theirs, ours = (differences.value(each, "product") for each in configs)
                if theirs != ours:  # hardly a key is the same
                    raise CheckpointError(
                        f"{saved.path} was saved by the run of a {theirs}, and product={ours} is "
                        "to be trained: use another --workdir"
                    )
                refuse(
                    differences.config_differences(*configs)
                    + differences.fact_differences(meta["data"], data or {}),
                    f"{saved.path} was saved with another configuration",
                    "use the saved values, or another --workdir to start anew",
                )
            items = saved.read(targets, partial)
        except DamagedError as error:
            damage = error
        # All processes read on, or none: the digests of what they share are computed jointly.
        everyone = bool if alone else processes.everyone
        if everyone(damage is None):
            saved.verify(items)
            return items
        raise damage or DamagedError(f"{saved.path}: another process cannot read it")

    def _saved_step(self, step: int) -> SavedStep:
        if step not in self.steps():
            raise CheckpointError(
                f"{self.folder} has no complete checkpoint {step}; "
                f"it has: {', '.join(map(str, self.steps())) or 'none'}"
            )
        return SavedStep(self.folder, step)

    def _none(self, damaged: dict[int, str]) -> CheckpointError:
        if not damaged:
            return CheckpointError(f"{self.folder} has no complete checkpoint; it has: none")
        lines = "\n  ".join(damaged.values())
        return CheckpointError(
            f"no checkpoint of {self.folder} can be used:\n  {lines}\nbring one back from a copy, "
            "or use another --workdir to start anew"
        )

    def _set_aside(self, steps) -> None:
        """Moves damaged checkpoints away; Orbax would not save a step below the newest folder."""
        if processes.is_lead():
            aside = self.folder / "damaged"
            for step in steps:
                target, number = aside / str(step), 0
                while target.exists():
                    number += 1
                    target = aside / f"{step}.{number}"
                workdir.move(self.folder / str(step), target)
                log.warning("moved %s to %s", self.folder / str(step), target)
        processes.everyone(True)
        self._manager.reload()


def _metrics(saved: SavedStep) -> dict[str, float]:
    try:
        return saved.meta().get("metrics", {})
    except DamagedError as error:
        log.warning("checkpoint %d is damaged: %s", saved.step, error)
        return {}


def _clean(folder: epath.Path) -> None:
    """Removes the remains of killed saves: their space is needed before Orbax's own cleanup."""
    if folder.exists():
        for path in folder.iterdir():
            if _TEMPORARY in path.name and path.is_dir():
                path.rmtree()


def _bytes(items) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(items))
