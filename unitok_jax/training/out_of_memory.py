"""Out of memory: what to set where a device cannot hold a step."""

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from unitok_jax.checkpoints.differences import flat
from unitok_jax.models.recomputation import BLOCKS, TOKENIZER
from unitok_jax.training.plan import memory
from unitok_jax.training.run import Run

log = logging.getLogger(__name__)

_KEYS = ("data.batch_size", "model.remat", "optim.accumulation")
_TRIES = 6  # settings that are compiled, a minute or several each


class OutOfMemoryError(ValueError):
    """A device cannot hold a step; the message names keys and values that would fit."""


@contextlib.contextmanager
def explained(run: Run) -> Iterator[None]:
    """Turns an error of a device's memory into one that names settings that fit.

    Raises:
      OutOfMemoryError: a device has not the memory that a step needs.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not _is_of_memory(error):
            raise
        raise OutOfMemoryError(_advice(run, str(error).splitlines()[0])) from error


def _is_of_memory(error: jax.errors.JaxRuntimeError) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)


def _advice(run: Run, reason: str) -> str:
    config, devices = run.config, list(run.mesh.devices.flat)
    limit, needed = available(devices[0]), _needed(run, config, devices)
    text = f"a step of {_settings(config)} needs {_gib(needed)} on each device"
    text += f", which has {_gib(limit)} for JAX" if limit else ""
    log.warning("%s: %s; settings that need less are being compiled", reason, text)
    tried = []
    for smaller in _smaller(config):
        if len(tried) == _TRIES:
            break
        try:
            size = _needed(run, smaller, devices)
        except ValueError as error:  # the batch cannot be divided so
            log.debug("%s: %s", _settings(smaller), error)
            continue
        tried.append(f"{_settings(smaller)} needs {_gib(size)}")
        if size < (limit or needed):
            found = " ".join(
                f"--config.{key}={value}"
                for key, value in _values(smaller).items()
                if value != _values(config)[key]
            )
            verdict = "fits" if limit else "needs less"
            return (
                f"out of memory: {text}. By the compiler's figures {found} {verdict}: {tried[-1]}"
            )
    return f"out of memory: {text}. Nor does this fit: {'; '.join(tried)}. Lower data.batch_size"


def available(device: jax.Device) -> int | None:
    """Returns the bytes of a device that JAX may use, or None if it does not tell."""
    return (device.memory_stats() or {}).get("bytes_limit")


def _needed(run: Run, config: ConfigDict, devices: list) -> float:
    """Returns the bytes that the largest phase of a step needs on a device, by the compiler.

    Infinite: the compiler itself runs out of the device's memory. A TPU's refuses what does not
    fit, and a GPU's tries kernels beside the arrays that are there.
    """
    plan = run.plan(config, devices)
    try:
        return max(
            sum(memory(phase.step, *plan.arguments, phase.batch).values()) for phase in plan.phases
        )
    except jax.errors.JaxRuntimeError as error:
        if not _is_of_memory(error):
            raise
        return math.inf


def _smaller(config: ConfigDict) -> Iterator[ConfigDict]:
    """Yields configurations that need less and less: more is recomputed, smaller micro-batches."""
    names = TOKENIZER if config.product == "tokenizer" else BLOCKS
    for name in names[names.index(config.model.remat) + 1 :]:
        yield _changed(config, "model.remat", name)
    config = _changed(config, "model.remat", names[-1])
    while config.data.batch_size > 1:
        if "accumulation" in config.optim:
            config = _changed(config, "optim.accumulation", 2 * config.optim.accumulation)
            if config.optim.accumulation > config.data.batch_size:
                return
        else:
            config = _changed(config, "data.batch_size", config.data.batch_size // 2)
        yield config


def _changed(config: ConfigDict, key: str, value: Any) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({key: value})
    return config


def _values(config: ConfigDict) -> dict[str, Any]:
    return {key: value for key, value in flat(config.to_dict()).items() if key in _KEYS}


def _settings(config: ConfigDict) -> str:
    return ", ".join(f"{key}={value}" for key, value in _values(config).items())


def _gib(size: float) -> str:
    return "more than there is" if math.isinf(size) else f"{size / 2**30:.1f} GiB"
