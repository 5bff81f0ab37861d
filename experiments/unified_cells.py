"""Configurations of the tokenizers and multimodal models that `experiments.unified` compares."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from configs import multimodal, unified, unified_tokenizer
from unitok_jax.models.vitamin import SIZES

SEEDS = (0, 1, 2)
SCALES = (1.0, 2.0, 4.0)  # of guidance
PARTS = ("train", "held_out")
"""Splits of `shapes` whose codes are written, as folders of a tokenizer."""

# The first is that of `make unified`: eight codebooks, both losses.
TOKENIZERS = ("books8", "books1", "rebuild")
READING, DRAWING = ("caption", "questions"), ("draw",)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A multimodal model: what it differs in from the first of `CELLS`."""

    tokenizer: str = TOKENIZERS[0]
    kinds: tuple[str, ...] = (*DRAWING, *READING)  # of its samples
    projection: str = "causal"
    head: int = 1  # blocks of the depth head

    @property
    def reads(self) -> bool:
        """Returns True if it is trained to answer."""
        return "questions" in self.kinds

    @property
    def draws(self) -> bool:
        """Returns True if it is trained to draw."""
        return "draw" in self.kinds


# One codebook has one code a token, which needs no depth head. A linear projection begins at
# random, a causal one as the tokenizer's.
CELLS = {
    "unified": Cell(),
    "one codebook": Cell(tokenizer="books1", head=0),
    "reconstruction only": Cell(tokenizer="rebuild"),
    "reads": Cell(kinds=READING),
    "draws": Cell(kinds=DRAWING),
    "linear projection": Cell(projection="linear"),
    "head of 0": Cell(head=0),
    "head of 2": Cell(head=2),
    "head of 3": Cell(head=3),
}
HEADS = {CELLS[name].head: name for name in ("head of 0", "unified", "head of 2", "head of 3")}
"""Cells that differ in the depth head alone, by its blocks."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Sizes of all runs: those of one folder of results."""

    pictures: int = 20_000  # whose codes are trained on
    tokenizer_steps: int = 2_000
    model_steps: int = 3_000  # of a model that reads and draws
    examined: int = 512  # pictures of seen and of held-out pairs, and texts to draw

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"--{name}={value} must be at least 1")


def tokenizer_config(name: str, budget: Budget) -> ConfigDict:
    """Returns the configuration of a tokenizer, one of `TOKENIZERS`.

    A chunk of its latent keeps 8 values, so that one codebook has a latent of an eighth.
    """
    config = unified_tokenizer.get_config()
    config.steps = budget.tokenizer_steps
    config.data.num_threads = 1
    if name == "books1":
        model = config.model
        model.latent_width //= model.num_codebooks
        model.num_codebooks = 1
        model.quant_heads = SIZES[model.size].width // model.latent_width
    if name == "rebuild":
        config.loss.contrastive = 0.0
    return config


def model_config(name: str, place: Path, budget: Budget) -> ConfigDict:
    """Returns the configuration of a multimodal model, one of `CELLS`.

    One that only reads or only draws takes as many samples of its kinds as the one of both: fewer
    steps.

    Args:
      name: of the cell.
      place: folder of its tokenizer's `tokenizer` and `codes`.
      budget: sizes of the runs.
    """
    cell, config = CELLS[name], unified.get_config()
    shares = {kind: weight for weight, kind, _ in config.data.mixture}
    config.steps = max(1, round(budget.model_steps * sum(shares[kind] for kind in cell.kinds)))
    multimodal.set_codes(config.model, tokenizer_config(cell.tokenizer, budget))
    config.model.projection, config.model.head_depth = cell.projection, cell.head
    train, held_out = (
        tuple((shares[kind], kind, str(place / "codes" / part)) for kind in cell.kinds)
        for part in PARTS
    )
    config.data.mixture, config.eval.mixture = train, held_out
    config.data.tokenizer = str(place / "tokenizer")
    config.data.num_threads = 1
    config.data.questions = 1  # as all results so far
    # So few that all find room: drawings are longer than questions, and fewer of 32 would.
    config.data.group_samples = 24
    config.eval.shapes = 0  # examined at the end
    return config
