"""Learning of the codebooks by `config.codebook`: moving means, wrong codes, and checks."""

import fnmatch
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unitok_jax.models.quantizers.base import GRADIENTS, codebook_counts
from unitok_jax.training.config_checks import in_unit_range
from unitok_jax.training.optim import ramp

PARAMETERS = ("quantizer.*",)
"""Names of the parameters that `MovingMeans` moves in place of the optimiser, as globs."""

_LEARNING = ("loss", "ema")
_WITH_ROWS = ("multi_codebook", "residual")  # quantizers that have codebooks to learn


class MovingMeans(NamedTuple):
    """Codebooks as exponential moving means of what chose their rows (arXiv 1711.00937).

    A row's usage is the moving mean of its choices in a batch, 1 for its even share of them. The
    paper's sum of a row is row x usage, and not stored.
    """

    decay: float
    restart: float  # usage below which a row is placed anew; 0: never

    def start(self, quantizer: dict) -> jax.Array:
        """Returns the usage (K, V) float32 before the first step, of rows (K, V, C)."""
        (rows,) = quantizer.values()
        return jnp.ones(rows.shape[:2])

    def update(
        self, quantizer: dict, usage: jax.Array, codes: jax.Array, inputs: jax.Array, key: jax.Array
    ) -> tuple[dict, jax.Array, dict[str, jax.Array]]:
        """Moves the rows after a batch.

        Args:
          quantizer: the quantizer's parameters, one array of rows (K, V, C) by its name.
          usage: (K, V), of `start` or of the step before.
          codes: (B, K, N) int32.
          inputs: (B, K, N, C), what each code was chosen for.
          key: random key of the step: a row that is hardly used becomes one of the inputs.

        Returns:
          The rows and their usage; the metric `restarted`, the number of rows placed anew.
        """
        ((name, rows),) = quantizer.items()
        (b, _, n), (k, v, c) = codes.shape, rows.shape
        counts = codebook_counts(codes, v)
        index = codes + v * jnp.arange(k)[:, None]
        sums = jnp.zeros((k * v, c)).at[index.ravel()].add(inputs.reshape(-1, c)).reshape(k, v, c)
        part = (1 - self.decay) / (b * n / v)  # of an even share
        usage = self.decay * usage + part * counts
        # What no code chose keeps its row bit by bit.
        weight = part / jnp.where(counts > 0, usage, 1)
        rows = rows + weight[..., None] * (sums - counts[..., None] * rows)
        dead = usage < self.restart
        if self.restart:
            place = jax.random.randint(key, (k, v), 0, b * n)
            others = inputs[place // n, jnp.arange(k)[:, None], place % n]
            rows = jnp.where(dead[..., None], others, rows)
            usage = jnp.where(dead, 1, usage)
        return {name: rows}, usage, {"restarted": jnp.sum(dead, dtype=jnp.float32)}


def moving_means(codebook: ConfigDict) -> MovingMeans | None:
    """Returns what moves the rows, or None if the losses do; by `config.codebook`."""
    if codebook.learning != "ema":
        return None
    return MovingMeans(codebook.ema_decay, codebook.restart)


def wrong_share(codebook: ConfigDict, steps: int) -> Callable[[jax.Array], jax.Array] | None:
    """Returns the share of tokens with wrong codes as a function of the step, or None if none has.

    It falls evenly from `wrong_share` at step 0 to 0 at `wrong_fraction` of the run's `steps`.
    """
    if not codebook.wrong_share:
        return None
    length = round(steps * codebook.wrong_fraction)
    return lambda step: codebook.wrong_share * (1 - ramp(step, 0, length))


def check(config: ConfigDict) -> None:
    """Checks `config.codebook`.

    Raises:
      ValueError: the message names the key, its value and a remedy.
    """
    codebook, quantizer = config.codebook, config.model.quantizer
    for key, choices in {"gradient": GRADIENTS, "learning": _LEARNING}.items():
        default, *_ = choices
        if codebook[key] not in choices:
            raise ValueError(f"codebook.{key}={codebook[key]!r} is not one of {', '.join(choices)}")
        if codebook[key] != default and quantizer not in _WITH_ROWS:
            raise ValueError(
                f"codebook.{key}={codebook[key]} is for rows, and model.quantizer={quantizer} has "
                f"none; set codebook.{key}={default}"
            )
    _check_wrong_codes(config)
    if codebook.learning != "ema":
        return
    if not 0 < codebook.ema_decay < 1:
        raise ValueError(f"codebook.ema_decay={codebook.ema_decay} must be above 0 and below 1")
    if not 0 <= codebook.restart < 1:
        raise ValueError(f"codebook.restart={codebook.restart} must be at least 0 and below 1")
    rows = "quantizer.codebook" if quantizer == "multi_codebook" else "quantizer.levels"
    if any(fnmatch.fnmatchcase(rows, glob) for glob in config.optim.frozen):
        raise ValueError(
            f"optim.frozen={tuple(config.optim.frozen)} keeps {rows} as it is, and "
            "codebook.learning=ema moves it; set codebook.learning=loss, or leave it out"
        )


def _check_wrong_codes(config):
    codebook, quantizer = config.codebook, config.model.quantizer
    in_unit_range("codebook.wrong_share", codebook.wrong_share)
    if not codebook.wrong_share:
        return
    if quantizer not in _WITH_ROWS:
        raise ValueError(
            f"codebook.wrong_share={codebook.wrong_share} takes near rows, and model.quantizer="
            f"{quantizer} has none; set codebook.wrong_share=0"
        )
    in_unit_range("codebook.wrong_fraction", codebook.wrong_fraction)
    if not round(config.steps * codebook.wrong_fraction):
        raise ValueError(
            f"codebook.wrong_fraction={codebook.wrong_fraction} of steps={config.steps} leaves no "
            f"step to codebook.wrong_share={codebook.wrong_share}; raise it, or set "
            "codebook.wrong_share=0"
        )
    others = config.model.vocab_size // config.model.num_codebooks - 1
    if not 1 <= codebook.wrong_near <= others:
        raise ValueError(
            f"codebook.wrong_near={codebook.wrong_near} must be from 1 to {others}, the other rows "
            "of a codebook"
        )
