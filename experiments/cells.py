"""Configurations of the tokenizers and generators that `experiments.generators` compares."""

import dataclasses
import math
from pathlib import Path

from ml_collections import ConfigDict

from configs import generate, generate_shapes, unified_tokenizer
from unitok_jax.data.formats.shapes import SingleShapes

CLASSES = len(SingleShapes.pairs)  # eight colours by eight forms


@dataclasses.dataclass(frozen=True)
class Codes:
    """Codes of a token: the quantizer, its codebooks, and the entries of each."""

    quantizer: str
    books: int
    entries: int

    @property
    def bits(self) -> float:
        """Bits of a token, were all its codes equally likely."""
        return self.books * math.log2(self.entries)


# The quantizer that encoder and decoder are first trained with: none of those compared, 56 bits.
BASE = Codes("bsq", 8, 128)
SHARED = ("encoder", "decoder")  # parts that every tokenizer takes from the base
# A token has 3^8 = 9^4 = 6561 values in each, 12.7 bits.
CODES = {
    "mcq1": Codes("multi_codebook", 1, 6561),
    "mcq4": Codes("multi_codebook", 4, 9),
    "mcq8": Codes("multi_codebook", 8, 3),
    "rq4": Codes("residual", 4, 9),
}
# Depth of the head; for one codebook blocks of a head would only deepen the trunk.
HEADS = {"mcq1": (0,), "mcq4": (0, 1, 2), "mcq8": (0, 1, 2), "rq4": (0, 1, 2)}
SCALES = (1.0, 2.0, 4.0)  # of guidance
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Sizes of all runs: those of one folder of results."""

    pictures: int = 6_144  # that are trained on
    held_out: int = 1_024  # that drawn ones are compared with
    base_steps: int = 6_000
    tokenizer_steps: int = 1_500
    generator_steps: int = 1_000
    drawn: int = 512  # pictures at each scale of guidance

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 1 or ("steps" not in name and value % CLASSES):
                what = "positive" if "steps" in name else f"a positive multiple of {CLASSES}"
                raise ValueError(f"--{name}={value} must be {what}")
        if self.drawn > self.held_out:
            raise ValueError(
                f"--drawn={self.drawn} pictures are compared with as many held-out originals, and "
                f"--held_out={self.held_out} are there: raise it"
            )


def base_config(pictures: Path, budget: Budget) -> ConfigDict:
    """Returns the configuration whose encoder and decoder all tokenizers start from."""
    config = _tokenizer_config(BASE, pictures)
    config.steps = budget.base_steps
    config.model.latent_width, config.model.quant_heads = 56, 1
    return config


def tokenizer_config(name: str, pictures: Path, budget: Budget) -> ConfigDict:
    """Returns the configuration of a tokenizer with the codes `name`, trained on `pictures`."""
    config = _tokenizer_config(CODES[name], pictures)
    config.steps = budget.tokenizer_steps
    config.model.latent_width, config.model.quant_heads = 32, 2
    return config


def _tokenizer_config(codes: Codes, pictures: Path) -> ConfigDict:
    """Pixel losses alone: the text tower, which nothing trains, is as small as can be."""
    config = unified_tokenizer.get_config()
    model = config.model
    model.quantizer, model.num_codebooks = codes.quantizer, codes.books
    model.vocab_size = codes.books * codes.entries
    model.text.width, model.text.heads, model.text.layers = 8, 1, 1
    config.loss.contrastive = 0.0
    config.optim.kind = "adamw"  # with which the published tables were measured
    config.data.source = config.eval.source = "array_record"
    config.data.path, config.eval.path = str(pictures / "train"), str(pictures / "held_out")
    config.data.batch_size = 16
    config.data.num_threads = 1
    return config


def generator_config(name: str, head: int, codes: Path, budget: Budget) -> ConfigDict:
    """Returns the configuration of a generator with a depth head of `head` blocks.

    Args:
      name: of the codes, a key of `CODES`.
      head: blocks; 0 draws the codes of a token independently of each other.
      codes: folder of the folders of codes `train` and `held_out`.
      budget: sizes of the runs.
    """
    config = generate_shapes.get_config()
    config.steps = budget.generator_steps
    model = config.model
    model.size = "nano"
    model.head_depth = head
    model.dropout = 0.0
    generate.set_codes(model, tokenizer_config(name, codes, budget))
    config.data.path, config.eval.path = str(codes / "train"), str(codes / "held_out")
    config.data.tokenizer = ""
    config.data.num_threads = 1
    config.data.batch_size = 64
    config.loss.chunk = 16
    config.optim.learning_rate = 2e-3
    config.optim.ema_decay = 0.99
    config.eval.max_images = budget.held_out
    return config
