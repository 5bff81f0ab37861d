"""Checkpoints of a few numbers."""

import jax.numpy as jnp

from unitok_jax.checkpoints.manager import Checkpoints


def items(step, width=4):
    return {
        "params": {"a": {"kernel": jnp.arange(3.0 * width).reshape(3, width) + step}},
        "training": {"step": jnp.int32(step), "generator": {"m": jnp.ones(5)}},
    }


def save(folder, config, steps, metrics=None):
    with Checkpoints(folder, config.checkpoint, create=True) as checkpoints:
        for step in steps:
            values = {} if metrics is None else {"eval/psnr": metrics[step]}
            checkpoints.save(step, items(step), config, values)
