"""Checks that the values of a multimodal model's configuration fit each other."""

from ml_collections import ConfigDict

from unitok_jax.multimodal import adapters, limits
from unitok_jax.multimodal.sources import check_entry
from unitok_jax.training import config_checks
from unitok_jax.training.config_checks import at_least_one, at_least_zero


def check(config: ConfigDict) -> None:
    """Checks the values of a configuration, before anything is built.

    Raises:
      ValueError: the message names the key, its value and a remedy.
    """
    config_checks.check(config, ("eval/gain",), "max_rows")
    limits.check(config.model.to_dict())
    at_least_one("loss.chunk", config.loss.chunk)
    for key in ("z_weight", "text_weight"):
        at_least_zero(f"loss.{key}", config.loss[key])
    at_least_one("optim.accumulation", config.optim.accumulation)
    for key in ("shapes", "scale", "temperature"):
        at_least_zero(f"eval.{key}", config.eval[key])
    if config.eval.shapes and not config.data.tokenizer:
        raise ValueError(
            f"eval.shapes={config.eval.shapes} needs data.tokenizer, the tokenizer of the codes, "
            "for pictures: name it, or set eval.shapes=0"
        )
    if not all(isinstance(glob, str) for glob in config.optim.frozen):
        raise ValueError(
            f"optim.frozen={tuple(config.optim.frozen)} must hold globs of parameters: "
            '("language.*",)'
        )
    adapters.check(config.optim.lora_rank, config.optim.frozen)
    if config.optim.schedule == "exponential" and not config.optim.final_fraction:
        raise ValueError(
            "optim.schedule=exponential never reaches optim.final_fraction=0; set it above 0"
        )
    is_full = config.model.projection == "full"
    if is_full and config.eval.shapes:
        raise ValueError(
            f"eval.shapes={config.eval.shapes} has shapes drawn, and model.projection=full "
            "draws nothing: set eval.shapes=0"
        )
    for section in ("data", "eval"):
        mixture = config[section].mixture
        for number, part in enumerate(mixture):
            check_entry(part, f"{section}.mixture[{number}]={part!r}")
        if is_full:
            _check_draws_nothing(f"{section}.mixture", mixture)
    if config.init.path and config.init.language:
        raise ValueError(
            f"init.path={config.init.path} is a whole model, and init.language="
            f"{config.init.language} another language model: name one of them"
        )


def _check_draws_nothing(key: str, mixture) -> None:
    """Refuses parts whose images are drawn."""
    drawn = [kind for _, kind, *_ in mixture if kind in ("draw", "edit")]
    if drawn:
        raise ValueError(
            f"{key} has a part {drawn[0]!r}, and model.projection=full shows each token those "
            "behind it: such a model draws nothing; set model.projection=causal, or leave it out"
        )


def check_batch(config: ConfigDict, devices: int) -> None:
    """Checks that each of some devices has as many rows of each part of a batch.

    Raises:
      ValueError: the message names both keys.
    """
    divisor = devices * config.optim.accumulation
    if config.data.batch_size % divisor:
        raise ValueError(
            f"data.batch_size={config.data.batch_size} is not a multiple of {divisor}, the number "
            "of devices times optim.accumulation"
        )


def check_beginning(config: ConfigDict) -> None:
    """Checks that a run is told where its codebooks are.

    Raises:
      ValueError: neither `init.path` nor `data.tokenizer` is set.
    """
    if not config.init.path and not config.data.tokenizer:
        raise ValueError(
            "data.tokenizer is empty: a model that begins without init.path takes codebooks and "
            "projection from the tokenizer of the codes"
        )
