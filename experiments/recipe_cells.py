"""Configurations of the tokenizers that `experiments.recipes` compares."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import default, emoji, recipes, unified_tokenizer
from unitok_jax.models.vitamin import SIZES

SEEDS = (0, 1, 2)
DATA = ("shapes", "emoji")
BASE = "base"
SAME_TIME = 0.03
"""Part by which a recipe's time may differ from the base's before it is trained again."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A recipe: what it differs in from the base, and what it takes from another's weights."""

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # 'room.key' -> value
    start: str = ""  # cell whose weights it begins from; empty: fresh ones
    parts: tuple[str, ...] = ()  # of those weights


def _entries(books: int, entries: int) -> dict[str, Any]:
    # A chunk keeps its 8 values, as in the paper: more codebooks widen the latent.
    return {"model.num_codebooks": books, "model.vocab_size": books * entries} | _latent(8 * books)


def _latent(width: int) -> dict[str, Any]:
    # As many heads of the projections as the trunk's width allows, one if the latent is wider.
    heads = max(1, SIZES["nano"].width // width)
    return {"model.latent_width": width, "model.quant_heads": heads}


TEXT = ("text_encoder", "logit_scale")
# Rows of `configs/recipes.py` that are the same at any size.
_SAME = ("rotation", "ema_codebooks", "wrong_codes", "quant_causal", "sigmoid")
CELLS = {
    BASE: Cell(),
    **{name: Cell(recipes.VARIANTS[name]) for name in _SAME},
    # As in the recipe half of the side for 85 % of the run.
    "curriculum": Cell({"data.size_schedule": ((0, 32), (0.85, 64))}),
    # As in the recipe 4 levels a channel; 8 x 256 codes as those of the base.
    "fsq_groups": Cell(
        {"model.quantizer": "fsq", "model.fsq_levels": (4,) * 4, "loss.entropy": 0.0}
        | _latent(8 * 4)
    ),
    # Its image side trains on as a "CLIP", and its text side as a locked tower.
    "contrastive": Cell(recipes.ON_SHAPES["clip_pretraining"]),
    "clip": Cell(start="contrastive", parts=("encoder", *TEXT)),
    "locked_text_scratch": Cell(
        {"optim.frozen": ("text_encoder.*", "logit_scale")}, start="contrastive", parts=TEXT
    ),
    "adamw": Cell({"optim.kind": "adamw"}),
    "reconstruction": Cell({"loss.contrastive": 0.0}),
    "linear": Cell({"model.quant_proj": "linear"}),
    "residual": Cell({"model.quantizer": "residual"}),
    **{f"books{n}": Cell(_entries(n, 2048 // n)) for n in (1, 2, 4)},
    **{
        f"{books} x {entries}": Cell(_entries(books, entries))
        for books, entries in ((4, 64), (4, 256), (8, 1024), (16, 256), (16, 1024))
    },
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """Sizes of all runs: those of one folder of results."""

    # Of the base, and of all at equal pictures. After as many of 4000 the base on shapes names 0.59
    # of the held-out pairs, where chance is 0.06.
    steps: int = 1_000
    timed: int = 8  # steps over a run that its time is measured at, in turns with the base's
    examined: int = 512  # held-out pictures

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"--{name}={value} must be at least 1")


def base_config(data: str, budget: Budget) -> ConfigDict:
    """Returns the configuration of the base: both losses, on one of `DATA`.

    LPIPS and the discriminator are left out: they need published weights to mean anything.
    """
    config = {"shapes": unified_tokenizer, "emoji": emoji}[data].get_config()
    config.optim.kind = "muon"  # so that few steps tell recipes apart
    config.steps = budget.steps
    config.data.num_threads = 1
    config.eval.max_images = budget.examined
    return config


def cell_config(name: str, data: str, budget: Budget, steps: int = 0) -> ConfigDict:
    """Returns the configuration of one of `CELLS`, trained for so many steps (0: the budget's).

    Raises:
      ValueError: unknown cell; the message lists all.
    """
    changes = {cell: dict(made.changes) for cell, made in CELLS.items()}
    config = default.variant(base_config(data, budget), changes, name, "recipes")
    config.steps = steps or budget.steps
    config.init.path = CELLS[name].start  # says that the weights are given; each seed has its own
    return config


def steps_at_equal_time(price: dict, steps: int) -> int:
    """Returns the steps of a recipe that take the time of so many of the base's.

    Args:
      price: result of `Experiment.price`.
      steps: of the base; returned for a recipe that is as fast within `SAME_TIME`.
    """
    ratio = price["seconds"] / price["base"]
    return steps if abs(ratio - 1) <= SAME_TIME else max(1, round(steps / ratio))
