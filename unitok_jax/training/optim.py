"""Schedules, optimisers and EMA as pure functions of the step and of nested dicts of parameters."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import struct

# Parameters without weight decay: those of one dimension in the reference layout, chosen by name
# because a bias of scanned blocks has two dimensions here.
_NO_DECAY = ("bias", "q_bias", "v_bias", "scale", "logit_scale", "logit_bias")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "linear", "exponential", "constant")
# Fraction of the steps after the warm-up during which the rate stays at its peak.
_PLATEAU = {"cosine": 0.0, "linear": 0.05, "exponential": 0.15}


@struct.dataclass
class Trainable:
    """Trained network with the state of its optimiser."""

    params: Any  # nested dict of float32 arrays
    opt_state: Any


def learning_rate_schedule(
    step: jax.Array,
    *,
    kind: str,
    steps: int,
    warmup_steps: int,
    start_fraction: float,
    final_fraction: float,
) -> jax.Array:
    """Computes the learning-rate multiplier: linear warm-up, plateau, decay to `final_fraction`.

    Args:
      step: int32 scalar, 0 for the first update; may be traced.
      kind: 'cosine'; 'linear' and 'exponential' stay at 1 for 5 and 15 % of the decay first;
        'constant' stays at 1.
      steps: length of the schedule; its last update is step `steps - 1`.
      warmup_steps: number of updates of the warm-up.
      start_fraction: multiplier of step 0 if there is a warm-up.
      final_fraction: multiplier of the last update; not read by 'constant'.

    Returns:
      float32 scalar in [0, 1].
    """
    warm = start_fraction + (1 - start_fraction) * step / max(warmup_steps, 1)
    if kind == "constant":
        return jnp.where(step < warmup_steps, warm, 1.0)
    progress = (step - warmup_steps) / max(steps - 1 - warmup_steps, 1)
    plateau = _PLATEAU[kind]
    rest = jnp.clip((1 - progress) / (1 - plateau), 0.0, 1.0)
    if kind == "exponential":
        decayed = jnp.exp((1 - rest) * math.log(final_fraction))
    else:
        shape = rest if kind == "linear" else 0.5 * (1 - jnp.cos(jnp.pi * rest))
        decayed = final_fraction + (1 - final_fraction) * shape
    return jnp.where(step < warmup_steps, warm, decayed)


def ramp(step: jax.Array, start: int, length: int) -> jax.Array:
    """Returns 0 up to step `start`, then rises to 1 over `length` steps; float32, in [0, 1].

    Without length it is 1 from step `start` on.
    """
    return jnp.clip((step - start + (not length)) / max(length, 1), 0.0, 1.0)


def decay_mask(params):
    """Returns True for each parameter with weight decay, in the structure of `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _NO_DECAY, params)


def adamw(
    *, betas: tuple[float, float], eps: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """Builds AdamW after clipping by the global norm, without the learning rate.

    The caller multiplies the result by the learning rate of the step, so that there is one step
    counter and not one more in the optimiser.
    """
    scale = optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=eps)
    return _clipped_and_decayed(scale, weight_decay, clip_norm)


def muon(
    *, betas: tuple[float, float], eps: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """Builds Muon for the matrices and NAdamW for all else, after clipping, without the rate.

    The momentum of a matrix, 0.95 with Nesterov's step, is made nearly orthogonal (Jordan et al.
    2024, "Muon") and scaled to the size of AdamW's updates, a root mean square of 0.2
    (arXiv 2502.16982), so that learning rate and weight decay of AdamW stay good. A state keeps
    one array for each matrix, AdamW's two.

    Args:
      betas, eps: of AdamW.
      weight_decay, clip_norm: as `adamw`'s; clipped is the norm of the gradient, before either.
    """
    orthogonal = optax.contrib.muon(
        1.0,
        beta=0.95,
        consistent_rms=0.2,
        adam_b1=betas[0],
        adam_b2=betas[1],
        eps=eps,
        muon_weight_dimension_numbers=matrices,
    )
    scale = optax.chain(orthogonal, optax.scale(-1.0))  # the caller subtracts
    return _clipped_and_decayed(scale, weight_decay, clip_norm)


def _clipped_and_decayed(scale, weight_decay, clip_norm):
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        scale,
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
    )


def matrices(params):
    """Returns the axes of each matrix, None for other parameters, in the structure of `params`.

    A matrix is the kernel of a linear layer, (..., in, out), or of a convolution that mixes
    channels, (..., height, width, in, out), whose rows are the window's inputs. Axes before those
    are of scanned blocks, each a matrix of its own.
    """

    def axes(path, value):
        last = value.ndim - 1
        if path[-1].key != "kernel" or last >= 3 and value.shape[-2] == 1:  # depthwise
            return None
        rows = (last - 3, last - 2, last - 1) if last >= 3 else (last - 1,)
        return optax.contrib.MuonDimensionNumbers(rows, last)

    return jax.tree_util.tree_map_with_path(axes, params)


def chosen(settings) -> optax.GradientTransformation:
    """Builds the optimiser of `config.optim`, by its keys `kind`, `betas`, `eps` and so on."""
    build = {"adamw": adamw, "muon": muon}[settings.kind]
    keys = ("betas", "eps", "weight_decay", "clip_norm")
    return build(**{key: settings[key] for key in keys})


def apply(optimizer: optax.GradientTransformation, trainable: Trainable, grads, rate) -> Trainable:
    """Updates the network once with `optimizer` and learning rate `rate`."""
    updates, opt_state = optimizer.update(grads, trainable.opt_state, trainable.params)
    params = optax.apply_updates(trainable.params, jax.tree.map(lambda u: -rate * u, updates))
    return Trainable(params, opt_state)


def ema(average, params, decay: float, step: jax.Array):
    """Updates an exponential moving average of parameters once.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that a young average forgets the
    initial weights.
    """
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)


def applied(new, old, finite: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """Ends a step: one that is not finite is skipped, and moves only the counters.

    Args:
      new: the state after the updates; its counters are not read.
      old: the state before, with `step`, `skipped` and `skipped_in_a_row`.
      finite: bool scalar.

    Returns:
      The next state, and the counters `skipped` and `skipped_in_a_row` as metrics, int32 scalars.
    """
    new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    new = new.replace(
        step=old.step + 1,
        skipped=old.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, old.skipped_in_a_row + 1),
    )
    return new, {"skipped": new.skipped, "skipped_in_a_row": new.skipped_in_a_row}
