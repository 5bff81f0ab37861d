"""Checks that the values of a generator's configuration fit each other."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from unitok_jax.generate import limits
from unitok_jax.models.limits import show
from unitok_jax.training import config_checks
from unitok_jax.training.config_checks import at_least_one, at_least_zero, below_one


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
            f"scale={show(scale)} asks for guidance, and the generator has no null class "
            "(model.null_class=False): no label was dropped in training; give scale=1"
        )


def check(config: ConfigDict) -> None:
    """Checks the values of a configuration, before anything is built.

    Raises:
      ValueError: the message names the key, its value and a remedy.
    """
    config_checks.check(config, ("eval/gain",))
    at_least_one("loss.chunk", config.loss.chunk)
    limits.check(config.model)
    tokens = math.prod(config.model.grid)
    if tokens % config.loss.chunk:
        raise ValueError(
            f"loss.chunk={config.loss.chunk} does not divide the {tokens} tokens of "
            f"model.grid={tuple(config.model.grid)}"
        )
    below_one("loss.drop_prompt", config.loss.drop_prompt)
    if config.loss.drop_prompt and not has_null_prompt(config.model):
        raise ValueError(
            f"loss.drop_prompt={config.loss.drop_prompt} drops labels, and model.null_class=False "
            "has no class for them: set model.null_class=True, or loss.drop_prompt=0"
        )
    if config.optim.schedule == "exponential" and not config.optim.final_fraction:
        raise ValueError(
            "optim.schedule=exponential never reaches optim.final_fraction=0; set it above 0"
        )
    for key in ("preview", "temperature", "scale"):
        at_least_zero(f"eval.{key}", config.eval[key])
    if config.eval.scale != 1 and not has_null_prompt(config.model):
        raise ValueError(
            f"eval.scale={config.eval.scale} guides by a null class, and model.null_class=False: "
            "set eval.scale=1"
        )
    if config.eval.scale != 1 and not config.loss.drop_prompt:
        raise ValueError(
            f"eval.scale={config.eval.scale} guides by a null prompt that loss.drop_prompt=0 does "
            "not train: set eval.scale=1, or loss.drop_prompt=0.1"
        )
    _check_text(config)
    _check_drawn_images(config)


def _check_drawn_images(config) -> None:
    count = config.eval.drawn_images
    at_least_zero("eval.drawn_images", count)
    if count == 1:
        raise ValueError("eval.drawn_images=1: gFID needs at least 2 images; 0 draws none")
    needed = {
        "data.tokenizer": (config.data.tokenizer, "the tokenizer of the codes, to decode them"),
        "eval.reference": (config.eval.reference, "statistics, as of evaluate --save_reference"),
        "frozen.inception": (config.frozen.inception, "Inception's weights"),
    }
    for key, (value, what) in needed.items():
        if count and not value:
            raise ValueError(f"eval.drawn_images={count} needs {key}: name {what}")


def _check_text(config) -> None:
    if config.model.prompt == "class":
        if config.data.text_features:
            raise ValueError(
                f"data.text_features={config.data.text_features} is not read with "
                "model.prompt=class; leave it empty, or set model.prompt=text"
            )
        return
    if config.model.prompt_rope == "zero":
        raise ValueError(
            "model.prompt_rope=zero shows an image only the mean of the words of a text; set "
            "model.prompt_rope=identity for model.prompt=text"
        )
    if not config.data.tokenizer and not config.data.text_features:
        raise ValueError(
            "model.prompt=text needs the features of captions: set data.tokenizer to the tokenizer "
            "of the codes, whose text tower makes them, or data.text_features to a folder of them"
        )
