"""Schedules and AdamW as pure functions of the step and of nested dicts of parameters."""

import jax
import jax.numpy as jnp
import optax

# What weight decay leaves out: whatever has one dimension in the reference layout. It goes by name,
# because a bias of scanned blocks has two dimensions here.
_NO_DECAY = ("bias", "q_bias", "v_bias", "scale", "logit_scale")


def warmup_cosine(
    step: jax.Array, *, steps: int, warmup_fraction: float, final_fraction: float
) -> jax.Array:
    """Learning-rate multiplier: linear from 0, then a cosine that ends at `final_fraction`.

    Args:
      step: int32 scalar, 0 for the first update; may be traced.
      steps: length of the run; the last update is step `steps - 1`.
      warmup_fraction: part of `steps` that warms up.
      final_fraction: multiplier of the last update.

    Returns:
      float32 scalar in [0, 1].
    """
    warmup = round(steps * warmup_fraction)
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    decayed = final_fraction + (1 - final_fraction) * cosine
    return jnp.where(step < warmup, step / max(warmup, 1), decayed)


def decay_mask(params):
    """True for the parameters that weight decay applies to, in the structure of `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in _NO_DECAY, params)


def adamw(
    *, betas: tuple[float, float], eps: float, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm, without the learning rate.

    The caller multiplies the result by the learning rate of the step, so that there is one step
    counter and not one more in the optimiser.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1=betas[0], b2=betas[1], eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
    )
