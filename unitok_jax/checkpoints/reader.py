"""One checkpoint on disk: its meta data, its arrays, and the check against what was saved.

Nothing here waits for another process: one that finds damage alone must be able to say so.
"""

import errno
import hashlib
import json
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from unitok_jax import trees
from unitok_jax.checkpoints import differences
from unitok_jax.system import foreign_json

# Errors of missing, truncated or overwritten files. Any other error, such as no memory, no
# permission or a disk error, says nothing about the checkpoint.
_DAMAGE = (ValueError, KeyError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_DAMAGE = ("PERMISSION_DENIED:", "UNAUTHENTICATED:")
# A bucket or disk that does not answer now; TensorStore has only UNKNOWN for EIO and ESTALE.
_AWAY = (
    *("RESOURCE_EXHAUSTED:", "UNAVAILABLE:", "DEADLINE_EXCEEDED:", "ABORTED:", "CANCELLED:"),
    *("UNKNOWN:", "INTERNAL:", os.strerror(errno.EIO), os.strerror(errno.ESTALE)),
)
_META = {"config": dict, "step": int, "data": dict, "digests": dict}
ITEMS = ("params", "training")  # items of arrays; a converted model has no "training"
IN_FLIGHT = 4  # GB, of arrays being written or read, in memory beside the arrays themselves
_PIECE = 1 << 22  # words of an array that a digest takes at a time
_MOST_LINES = 20  # differences in one message


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or made for another purpose; the message says which."""


class DamagedError(CheckpointError):
    """Files of a checkpoint are missing, or differ from what was saved."""


@jax.jit
def digests(tree):
    """Returns one uint32 per array: the sum of its bits, each weighted by its position.

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


def named_digests(tree) -> dict[str, int]:
    """Returns the digests of a tree of arrays under dotted names; of what a host holds, there.

    That is an array of NumPy, for which a device may have no room: the float32 weights of a model
    that a mesh trains. Or of a CPU, where compiling `digests` takes longer than they do.
    """
    arrays = trees.flatten(tree)
    on_host = {name: array for name, array in arrays.items() if _is_at_hand(array)}
    rest = {name: array for name, array in arrays.items() if name not in on_host}
    found = jax.device_get(digests(rest)) if rest else {}
    found |= {name: _digest(np.asarray(on_host[name])) for name in on_host}
    return {name: int(found[name]) for name in arrays}


def _is_at_hand(array) -> bool:
    """Whether this host holds all of an array of 4-byte values."""
    if array.dtype.itemsize != 4:
        return False
    if isinstance(array, np.ndarray):
        return True
    of_cpus = all(device.platform == "cpu" for device in array.sharding.device_set)
    return of_cpus and array.is_fully_addressable


def _digest(array: np.ndarray) -> int:
    """Computes on the host what `digests` does, of an array of 4-byte values."""
    bits, total = np.ascontiguousarray(array).reshape(-1).view(np.uint32), 0
    for start in range(0, bits.size, _PIECE):
        piece = bits[start : start + _PIECE]
        places = np.arange(start, start + len(piece), dtype=np.uint32)
        total += int((piece * (2 * places + 1)).sum(dtype=np.uint32))
    return total % 2**32


def weights_hash(model: dict[str, Any], params) -> str:
    """Hashes weights and their use by `config.model`, 32 hexadecimal digits: `Tokenizer.hash`."""
    model = differences.stated(model)
    model = {key: value for key, value in model.items() if key not in differences.FREE_OF_MODEL}
    facts = json.dumps([model, named_digests(params)], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


class SavedStep:
    """One step of a folder of checkpoints."""

    def __init__(self, folder: epath.Path, step: int):
        """Takes the folder of all checkpoints, and the number of one step."""
        self.path, self.step = folder / str(step), step
        self.meta_file = self.path / "meta" / "metadata"

    def meta(self) -> dict[str, Any]:
        """Reads the JSON item: `config step data_position data digests metrics evaluated`.

        Raises:
          DamagedError: the item is missing or not JSON.
          RuntimeError: the disk does not answer.
        """
        path = self.meta_file
        try:
            meta = foreign_json.parse_object(path.read_bytes(), str(path))
        except _DAMAGE as error:
            raise DamagedError(f"{path} cannot be read: {error}") from error
        except OSError as error:
            if _is_away(str(error)):
                raise RuntimeError(f"{path} cannot be read now: {error}") from error
            raise
        missing = [key for key in _META if key not in meta]
        if missing:
            raise DamagedError(f"{path} lacks {', '.join(missing)}")
        if wrong := list(_wrong_kinds(meta)):
            raise DamagedError(f"{path} has another kind of value at {', '.join(wrong)}")
        return meta

    def read(self, targets: dict[str, Any], partial: bool = False) -> dict[str, Any]:
        """Reads items.

        Args:
          targets: item name -> tree of ShapeDtypeStructs with shardings.
          partial: whether an item may hold other entries than its target names, at the first
            level; they are not read.

        Raises:
          CheckpointError: an item was never saved, or its arrays do not fit; the message lists
            every difference.
          DamagedError: files are missing or cannot be decoded.
          RuntimeError: the bucket or the disk does not answer.
        """
        saved = self.meta()["digests"]
        for name in targets:
            if name not in saved:
                raise CheckpointError(
                    f"{self.path} holds weights only, no item {name!r}: it cannot be resumed; "
                    "start a run in another --workdir"
                )
        with _reader(partial) as reader:
            trees_on_disk = dict(self._orbax(reader.metadata).item_metadata.items())
            missing = [name for name in targets if trees_on_disk.get(name) is None]
            if missing:
                raise DamagedError(f"{self.path} lacks files of {', '.join(missing)}")
            problems = []
            for name, target in targets.items():
                tree = trees_on_disk[name]
                if partial:
                    tree = {key: tree[key] for key in target if key in tree}
                problems += trees.differences(tree, target)
            refuse(
                problems, f"{self.path} does not fit the model", "was it saved by another version?"
            )
            wanted = {name: _restore(target, partial) for name, target in targets.items()}
            items = self._orbax(reader.restore, args=ocp.args.Composite(**wanted))
        return {name: items[name] for name in targets}

    def verify(self, items: dict[str, Any]) -> None:
        """Compares the arrays that were read with the saved digests. All processes must call it.

        Raises:
          DamagedError: the bytes of an array changed; the message names it.
        """
        saved = self.meta()["digests"]
        for name, item in items.items():
            now = named_digests(item)
            refuse(
                [path for path in now if now[path] != saved[name].get(path)],
                f"{self.path}: arrays of {name} do not have the bytes that were saved",
                error=DamagedError,
            )

    def _orbax(self, read, **arguments):
        try:
            return read(self.path, **arguments)
        # Orbax raises nothing narrower for an unreadable array; other errors are raised below.
        except Exception as error:
            cause = error.__cause__ if type(error) is Exception else error
            text = str(cause)
            if _is_away(text):
                raise RuntimeError(f"{self.path} cannot be read now: {text}") from error
            if not isinstance(cause, _DAMAGE) or any(code in text for code in _NO_DAMAGE):
                raise
            reason = text.splitlines()[0].split(" [tensorstore_spec=")[0].split(" [source ")[0]
            raise DamagedError(f"{self.path} cannot be read: {reason}") from error


def _wrong_kinds(meta):
    """Yields keys of a meta item, or of an object in it, with values of unexpected types."""
    yield from (key for key, kind in _META.items() if not isinstance(meta[key], kind))
    if isinstance(meta["config"], dict):
        for key in ("model", "data"):
            if not isinstance(meta["config"].get(key), dict):
                yield f"config.{key}"
    if isinstance(meta["digests"], dict):
        for key, value in meta["digests"].items():
            if not isinstance(value, dict):
                yield f"digests.{key}"
    metrics = meta.get("metrics", {})
    if not isinstance(metrics, dict) or not all(
        isinstance(value, float) for value in metrics.values()
    ):
        yield "metrics"


def _is_away(text: str) -> bool:
    return any(code in text for code in _AWAY)


def refuse(problems: list[str], headline: str, advice: str = "", error=CheckpointError) -> None:
    """Raises `error` with `headline`, a line per problem and `advice`, if there are problems."""
    if len(problems) > _MOST_LINES:
        problems = problems[:_MOST_LINES] + [f"and {len(problems) - _MOST_LINES} more"]
    if problems:
        raise error("\n  ".join([f"{headline}:", *problems]) + (f"\n{advice}" if advice else ""))


def _restore(target, partial):
    if not partial:
        return ocp.args.StandardRestore(target)
    return ocp.args.PyTreeRestore(
        target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
    )


def _reader(partial):
    # Local to this process: Orbax's barriers would hang if another process fails.
    process = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"read{process}"
    )
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=options),
        **{item: _arrays(options, partial) for item in ITEMS},
        meta=ocp.JsonCheckpointHandler(multiprocessing_options=options),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _arrays(options, partial):
    kind = ocp.PyTreeCheckpointHandler if partial else ocp.StandardCheckpointHandler
    return kind(restore_concurrent_gb=IN_FLIGHT, multiprocessing_options=options)
