"""Checks that the values of a generator's configuration fit each other."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from unitok_jax.generate import limits
from unitok_jax.training.optim import SCHEDULES


def has_null_prompt(model: Mapping[str, Any]) -> bool:
    """Returns True if guidance by a null prompt is possible with the model `config.model`."""
    return model["prompt"] != "class" or model["null_class"]


def check_guidance(model: Mapping[str, Any], scale) -> None:
    """Checks that a generator can be guided, if it shall be.

    Args:
      model: `config.model`.
      scale: of guidance, a number or a schedule of them; 1 is none.

    Raises:
      ValueError: it has no null class.
    """
    if np.any(np.asarray(scale) != 1) and not has_null_prompt(model):
        raise ValueError(
            f"scale={scale} asks for guidance, and the generator has no null class "
            "(model.null_class=False): no label was dropped in training; give scale=1"
        )


def check(config: ConfigDict) -> None:
    """Checks the values of a configuration, before anything is built.

    Raises:
      ValueError: the message names the key, its value and a remedy.
    """
    positive = {
        "steps": config.steps,
        "data.batch_size": config.data.batch_size,
        "data.num_threads": config.data.num_threads,
        "loss.chunk": config.loss.chunk,
        "eval.every": config.eval.every,
        "eval.batch_size": config.eval.batch_size,
        "eval.max_images": config.eval.max_images,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep_latest": config.checkpoint.keep_latest,
        "log.every": config.log.every,
        "log.profile_count": config.log.profile_count,
        "optim.max_skipped": config.optim.max_skipped,
    }
    for key, value in positive.items():
        if value < 1:
            raise ValueError(f"{key}={value} must be at least 1")
    limits.check(config.model)
    tokens = math.prod(config.model.grid)
    if tokens % config.loss.chunk:
        raise ValueError(
            f"loss.chunk={config.loss.chunk} does not divide the {tokens} tokens of "
            f"model.grid={tuple(config.model.grid)}"
        )
    for key, value in (
        ("loss.drop_prompt", config.loss.drop_prompt),
        ("optim.ema_decay", config.optim.ema_decay),
    ):
        if not 0 <= value < 1:
            raise ValueError(f"{key}={value} must be at least 0 and below 1")
    if config.loss.drop_prompt and not has_null_prompt(config.model):
        raise ValueError(
            f"loss.drop_prompt={config.loss.drop_prompt} drops labels, and model.null_class=False "
            "has no class for them: set model.null_class=True, or loss.drop_prompt=0"
        )
    if config.optim.schedule not in SCHEDULES:
        raise ValueError(
            f"optim.schedule={config.optim.schedule!r} is not one of {', '.join(SCHEDULES)}"
        )
    for key, value in (
        ("eval.preview", config.eval.preview),
        ("eval.temperature", config.eval.temperature),
        ("eval.scale", config.eval.scale),
    ):
        if value < 0:
            raise ValueError(f"{key}={value} must be at least 0")
    if config.eval.scale != 1 and not has_null_prompt(config.model):
        raise ValueError(
            f"eval.scale={config.eval.scale} guides by a null class, and model.null_class=False: "
            "set eval.scale=1"
        )
    _check_text(config)


def _check_text(config) -> None:
    if config.model.prompt == "class":
        if config.data.text_features:
            raise ValueError(
                f"data.text_features={config.data.text_features} is not read with "
                "model.prompt=class; leave it empty, or set model.prompt=text"
            )
    elif not config.data.tokenizer and not config.data.text_features:
        raise ValueError(
            "model.prompt=text needs the features of captions: set data.tokenizer to the tokenizer "
            "of the codes, whose text tower makes them, or data.text_features to a folder of them"
        )
