"""Checks of the keys that the configurations of all products have, before anything is built."""

import itertools
import math
from collections.abc import Sequence

from ml_collections import ConfigDict

from unitok_jax.training.optim import OPTIMIZERS, SCHEDULES


def check(config: ConfigDict, metrics: Sequence[str], evaluated: str = "max_images") -> None:
    """Checks the loop's keys, and `log`, `checkpoint` and `optim`.

    Args:
      config: the whole configuration.
      evaluated: key of `eval` that bounds what is evaluated.
      metrics: names that `checkpoint.best_metric` may have; the highest is best.

    Raises:
      ValueError: the message names the key, its value and its bound.
    """
    positive = {
        "steps": config.steps,
        "data.batch_size": config.data.batch_size,
        "data.num_threads": config.data.num_threads,
        "eval.every": config.eval.every,
        "eval.batch_size": config.eval.batch_size,
        f"eval.{evaluated}": config.eval[evaluated],
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep_latest": config.checkpoint.keep_latest,
        "log.every": config.log.every,
        "log.profile_count": config.log.profile_count,
        "optim.max_skipped": config.optim.max_skipped,
    }
    for key, value in positive.items():
        at_least_one(key, value)
    at_least_zero("seed", config.seed)
    at_least_zero("data.num_workers", config.data.num_workers)
    for key in ("keep_best", "keep_every"):
        at_least_zero(f"checkpoint.{key}", config.checkpoint[key])
    if config.checkpoint.best_metric not in metrics:
        raise ValueError(
            f"checkpoint.best_metric={config.checkpoint.best_metric!r} is not one of "
            f"{', '.join(metrics)}"
        )
    _check_log(config)
    _check_optim(config.optim)


def _check_log(config):
    steps, count = tuple(config.log.profile_steps), config.log.profile_count
    for step in steps:
        if not isinstance(step, int) or not 1 <= step <= config.steps:
            raise ValueError(
                f"log.profile_steps={steps}: {step!r} is no step from 1 to steps={config.steps}"
            )
    for before, after in itertools.pairwise(sorted(steps)):
        if after - before < count:
            raise ValueError(
                f"log.profile_steps={steps}: a trace of log.profile_count={count} steps from "
                f"{before} on is not over at {after}; set a lower log.profile_count"
            )


def _check_optim(optim):
    adamw("optim", optim)
    for key in ("learning_rate", "weight_decay"):
        at_least_zero(f"optim.{key}", optim[key])
    for key in ("warmup_fraction", "final_fraction"):
        in_unit_range(f"optim.{key}", optim[key])
    if optim.kind not in OPTIMIZERS:
        raise ValueError(f"optim.kind={optim.kind!r} is not one of {', '.join(OPTIMIZERS)}")
    if optim.schedule not in SCHEDULES:
        raise ValueError(f"optim.schedule={optim.schedule!r} is not one of {', '.join(SCHEDULES)}")
    if "ema_decay" in optim:
        below_one("optim.ema_decay", optim.ema_decay)


def adamw(room: str, config: ConfigDict) -> None:
    """Checks `betas`, `eps` and `clip_norm` of a room of the configuration.

    Raises:
      ValueError: a value out of its range.
    """
    two_values(f"{room}.betas", config.betas)
    for beta in config.betas:
        if not 0 <= beta < 1:
            raise ValueError(f"{room}.betas={tuple(config.betas)} must be at least 0 and below 1")
    for key in ("eps", "clip_norm"):
        if not config[key] > 0:
            raise ValueError(f"{room}.{key}={config[key]} must be above 0")


def at_least_one(key: str, value: int) -> None:
    """Raises a ValueError unless a value is 1 or more."""
    if value < 1:
        raise ValueError(f"{key}={value} must be at least 1")


def at_least_zero(key: str, value: float) -> None:
    """Raises a ValueError unless a value is 0 or more, and finite."""
    if not math.isfinite(value):
        raise ValueError(f"{key}={value} is not a finite number")
    if value < 0:
        raise ValueError(f"{key}={value} must not be negative")


def below_one(key: str, value: float) -> None:
    """Raises a ValueError unless a value is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{key}={value} must be at least 0 and below 1")


def in_unit_range(key: str, value: float) -> None:
    """Raises a ValueError unless a value is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{key}={value} must lie between 0 and 1")


def two_values(key: str, values: Sequence) -> None:
    """Raises a ValueError unless there are two numbers."""
    if len(values) != 2 or not all(isinstance(value, int | float) for value in values):
        raise ValueError(f"{key}={tuple(values)} must hold two values, both numbers")
