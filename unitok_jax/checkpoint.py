"""Orbax checkpoints of a run: weights, training state, and the meta data that make them readable.

A workdir holds `checkpoints/<step>/` with three items: `params` (the generator's), `training`
(optimiser, step, discriminator) and `meta` (JSON: configuration, data position, digests). Whoever
only uses a model reads `params` and `meta`; a converted model has no `training`.
"""

import logging
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

log = logging.getLogger(__name__)

# Keys that decide what the weights or the data position mean. A run that resumes must agree on
# them; everything else may change between one start and the next.
BINDING = (
    "model",
    "seed",
    "data.source",
    "data.path",
    "data.captions",
    "data.batch_size",
    "data.image_size",
    "data.crop_scale",
    "data.crop_ratio",
    "data.context_length",
    "optim.frozen",
)
# Keys of which it matters whether they are 0: with them comes a part of the training state.
SWITCHES = ("gan.weight", "optim.ema_decay")
_MOST_LINES = 20  # of differences in one message


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or made for something else; the message says which."""


@jax.jit
def digests(tree):
    """One uint32 per array: the sum of its bits, each weighted by its position.

    Integer sums do not depend on their order, so a digest is the same for every sharding.
    """

    def digest(array):
        bits = (
            jax.lax.bitcast_convert_type(array, jnp.uint32)
            if array.dtype.itemsize == 4
            else array.astype(jnp.uint32)
        )
        return jnp.sum(bits.ravel() * (2 * jnp.arange(array.size, dtype=jnp.uint32) + 1))

    return jax.tree.map(digest, tree)


class Checkpoints:
    """The checkpoints of one workdir. A context manager: leaving it waits for pending saves."""

    def __init__(self, workdir, config: ConfigDict | None = None, create: bool = False):
        """Opens a workdir.

        Args:
          workdir: the folder that holds, or will hold, the folder `checkpoints`.
          config: `config.checkpoint`: which ones to keep; all if not given.
          create: whether to make the folder. Without it the checkpoints are only read.
        """
        folder = pathlib.Path(workdir).absolute()
        folder = folder if folder.name == "checkpoints" else folder / "checkpoints"
        if not create and not folder.is_dir():
            raise CheckpointError(f"{workdir} is no workdir: it has no folder 'checkpoints'")
        options = ocp.CheckpointManagerOptions(create=create, cleanup_tmp_directories=create)
        if config is not None:
            options.preservation_policy = _preservation(config)
        self.folder, self._config = folder, config
        self._manager = ocp.CheckpointManager(
            folder,
            options=options,
            item_handlers={
                "params": ocp.StandardCheckpointHandler(),
                "training": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

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
          metrics: of an evaluation of these very weights, or empty.
          data: what the run depends on beyond the configuration: samples, batch size, digests.
        """
        meta = {
            "config": config.to_dict(),
            "step": step,
            "data_position": step,
            "data": data or {},
            "digests": {name: _named(digests(item)) for name, item in items.items()},
        }
        best = None if self._config is None else self._config.best_metric
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta),
                **{name: ocp.args.StandardSave(item) for name, item in items.items()},
            ),
            metrics={best: float(metrics[best])}
            if best in metrics and math.isfinite(metrics[best])
            else None,
        )
        if not saved:
            raise CheckpointError(
                f"step {step} was not saved: {self.folder} already holds step "
                f"{self.latest_step()}; is another run writing to this workdir?"
            )

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """The JSON item of a checkpoint: `config`, `step`, `data_position`, `digests`."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(self._step(step), args=args)["meta"]

    def restore(
        self,
        targets: dict[str, Any],
        config: ConfigDict | None = None,
        data: dict[str, int] | None = None,
        step: int | None = None,
    ) -> dict[str, Any]:
        """Reads items of the newest checkpoint, or of `step`.

        Args:
          targets: item name -> tree of ShapeDtypeStructs with shardings.
          config: the configuration to resume with; None if the weights alone are wanted.
          data: as in `save`, of the run that resumes.
          step: which checkpoint.

        Raises:
          CheckpointError: there is none, it was saved for another model or other data, or its
            bytes changed; the message lists every difference.
        """
        step = self._step(step)
        where, meta = f"{self.folder}/{step}", self.meta(step)
        if config is not None:
            problems = config_differences(meta["config"], config.to_dict())
            for key, value in (data or {}).items():
                if meta["data"].get(key) != value:
                    problems.append(f"{key}: saved {meta['data'].get(key)}, now {value}")
            _refuse(
                problems,
                f"{where} was saved with another configuration",
                "use the saved values, or another --workdir to start anew",
            )
        found = dict(self._manager.item_metadata(step).items())
        problems = []
        for name, target in targets.items():
            if found.get(name) is None:
                raise CheckpointError(
                    f"{where} holds weights only, no item {name!r}: it cannot be resumed; start a "
                    "run in another --workdir"
                )
            problems += tree_differences(found[name], target)
        _refuse(problems, f"{where} does not fit the model", "was it saved by another version?")
        args = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
        items = self._manager.restore(step, args=ocp.args.Composite(**args))
        for name in targets:
            saved, now = meta["digests"][name], _named(digests(items[name]))
            _refuse(
                [path for path in now if now[path] != saved[path]],
                f"{where}: arrays of {name} do not have the bytes that were saved",
                "delete this step to use the one before",
            )
        return {name: items[name] for name in targets}

    def _step(self, step):
        steps = sorted(self._manager.all_steps())
        step = steps[-1] if step is None and steps else step
        if step not in steps:
            raise CheckpointError(
                f"{self.folder} has no complete checkpoint {'' if step is None else step}; "
                f"it has: {', '.join(map(str, steps)) or 'none'}"
            )
        return step


def config_differences(saved: dict, current: dict) -> list[str]:
    """Differences in the binding keys, one line each; other differences are only logged."""
    saved, current = _flat(saved), _flat(current)
    binding, free = [], []
    for key in sorted(saved.keys() | current.keys()):
        if saved.get(key) != current.get(key):
            line = f"{key}: saved {saved.get(key)!r}, now {current.get(key)!r}"
            bound = any(key == name or key.startswith(name + ".") for name in BINDING)
            bound |= key in SWITCHES and bool(saved.get(key)) != bool(current.get(key))
            (binding if bound else free).append(line)
    for line in free:
        log.info("the configuration changed since the checkpoint: %s", line)
    return binding


def tree_differences(found, target) -> list[str]:
    """What of `found` (arrays' metadata) is missing, surplus or of another shape for `target`."""
    found, target = _shapes(found), _shapes(target)
    lines = [f"missing: {name} {target[name]}" for name in sorted(target.keys() - found.keys())]
    lines += [f"unknown: {name} {found[name]}" for name in sorted(found.keys() - target.keys())]
    for name in sorted(found.keys() & target.keys()):
        if found[name] != target[name]:
            lines.append(f"shape: {name} is {found[name]}, the model has {target[name]}")
    return lines


def _refuse(problems, what, advice):
    if len(problems) > _MOST_LINES:
        problems = problems[:_MOST_LINES] + [f"and {len(problems) - _MOST_LINES} more"]
    if problems:
        raise CheckpointError(f"{what}:\n  " + "\n  ".join(problems) + f"\n{advice}")


def _preservation(config):
    # `max_to_keep` with `best_fn` would throw away the newest checkpoint.
    policies = [checkpoint_managers.LatestN(config.keep_latest)]
    if config.keep_best:
        policies.append(
            checkpoint_managers.BestN(
                # a checkpoint of another metric, or of none, is never the best
                get_metric_fn=lambda metrics: metrics.get(config.best_metric, -math.inf),
                reverse=False,
                n=config.keep_best,
                keep_checkpoints_without_metrics=False,
            )
        )
    return checkpoint_managers.AnyPreservationPolicy(policies)


def _named(tree) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {_name(path): int(leaf) for path, leaf in leaves}


def _shapes(tree) -> dict[str, tuple]:
    return {
        _name(path): tuple(np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _name(path) -> str:
    keys = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", None))) for p in path)
    return ".".join(str(key) for key in keys)


def _flat(tree: dict, prefix: str = "") -> dict:
    out = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = list(value) if isinstance(value, (tuple, list)) else value
    return out
