"""Train steps that were timed on one device: records of their day, which no later code changes."""

from collections.abc import Mapping
from typing import NamedTuple


class TimedStep(NamedTuple):
    """Train step of a known program, and the seconds that it took."""

    product: str  # of its configuration
    phase: str  # of its plan
    keys: Mapping[str, object]  # of its configuration, all that `programs` compares
    operations: float  # of products and convolutions, as that program executed them
    seconds: float
    kind: str  # of chip: a name in machines.GPUS, or cpu
    card: str  # as people call it
    date: str
    jax: str
    command: str

    @property
    def batch(self) -> int:
        """Samples of the step."""
        return self.keys["data.batch_size"]

    @property
    def told(self) -> dict[str, object]:
        """Keys that tell the steps apart for readers; the others follow from the model's size."""
        return {key: self.keys[key] for key in _TOLD if key in self.keys}


_TOLD = ("model.size", "model.remat", "model.dtype", "data.batch_size", "optim.accumulation")
# The published recipes of those days, without what `programs` does not compare.
_TOKENIZER = {
    "product": "tokenizer",
    "model.residual_dtype": "float32",
    "model.quantizer": "multi_codebook",
    "model.vocab_size": 32_768,
    "model.num_codebooks": 8,
    "model.latent_width": 64,
    "model.quant_proj": "attention",
    "model.quant_heads": 12,
    "model.commitment_weight": 0.25,
    "model.num_query": 0,
    "model.drop_path": 0.1,
    "model.embed_dim": 768,
    "model.text.width": 768,
    "model.text.heads": 12,
    "model.text.layers": 12,
    "model.text.vocab_size": 49_408,
    "model.text.context_length": 77,
    "data.image_size": (256, 256),
    "data.decode_fraction": 1.0,
    "data.context_length": 77,
    "loss.l1": 0.2,
    "loss.l2": 1.0,
    "loss.perceptual": 1.0,
    "loss.vq": 1.0,
    "loss.entropy": 0.0,
    "loss.contrastive": 1.0,
    "gan.weight": 0.4,
    "gan.loss": "hinge",
    "gan.consistency": 4.0,
    "gan.augment_probability": 1.0,
    "gan.crop_probability": 0.5,
    "optim.accumulation": 1,
    "optim.ema_decay": 0.0,
    "optim.frozen": (),
}
_GENERATOR = {
    "product": "generator",
    "model.num_codebooks": 8,
    "model.vocab_size": 32_768,
    "model.grid": (16, 16),
    "model.prompt": "class",
    "model.prompt_rope": "zero",
    "model.classes": 1000,
    "model.null_class": True,
    "model.text_tokens": 77,
    "model.text_features": 768,
    "model.head_depth": 4,
    "model.head_width": 0,
    "model.dropout": 0.1,
    "model.drop_path": 0.0,
    "loss.drop_prompt": 0.1,
    "loss.chunk": 16,
    "optim.ema_decay": 0.9999,
}


def _keys(recipe: dict, size: str, batch: int, remat: str, dtype: str) -> dict:
    return recipe | {
        "model.size": size,
        "model.remat": remat,
        "model.dtype": dtype,
        "data.batch_size": batch,
    }


_EARLY, _LATE = "before the adversary", "with the adversary"
_LARGE = _keys(_TOKENIZER, "large", 32, "none", "bfloat16") | {"model.quant_heads": 16}
_BASE = _keys(_TOKENIZER, "base", 1, "blocks", "float32")
_TINY = {
    **_keys(_TOKENIZER, "tiny", 8, "none", "float32"),
    "model.quant_heads": 4,
    "model.vocab_size": 256,
    "model.num_codebooks": 4,
    "model.latent_width": 32,
    "model.embed_dim": 64,
    "model.text.width": 64,
    "model.text.heads": 4,
    "model.text.layers": 2,
    "data.image_size": (64, 64),
    "optim.ema_decay": 0.99,
}
_XL = _keys(_GENERATOR, "xl", 32, "none", "bfloat16")
_GPU = "python -m benchmarks.gpu --batches 32 --remat none --only peaks train"
_CPU = ("cpu", "4 shared x86 cores", "2026-11-23", "0.10.2")
_B16 = "python -m benchmarks --config b16 --batch 1 --only encode decode train stages"
_QUICK = "python -m benchmarks --quick"
_OLDER = f"a script at commit 1c8e7fd, without cuDNN's attention; now: {_GPU}"

# docs/explanation/performance.md and drawing_speed.md tell how they were measured.
TIMED = (
    TimedStep(
        *("tokenizer", _EARLY, _LARGE, 58.671e12, 0.25647),
        *("h200", "NVIDIA H200", "2026-11-27", "0.11.2", _GPU),
    ),
    TimedStep(
        *("tokenizer", _LATE, _LARGE, 63.201e12, 0.345),
        *("h200", "NVIDIA H200", "2026-11-26", "0.11.2", _OLDER),
    ),
    TimedStep("tokenizer", _EARLY, _BASE, 793e9, 3.68, *_CPU, _B16),
    TimedStep("tokenizer", _LATE, _BASE, 959e9, 4.12, *_CPU, _B16),
    TimedStep("tokenizer", _EARLY, _TINY, 71.47e9, 0.355, *_CPU, _QUICK),
    TimedStep("tokenizer", _LATE, _TINY, 137.1e9, 0.473, *_CPU, _QUICK),
    TimedStep(
        *("generator", "every step", _XL, 82.506e12, 0.372),
        *("h100", "NVIDIA H100 80GB HBM3", "2026-11-26", "0.11.2"),
        "python -m benchmarks.generate --train xl --batches 32 --remat none --rounds 2",
    ),
)
