"""Recipes beyond the paper, each by its name: `--config=configs/recipes.py:gram`.

`docs/guides/recipes.md` tells what each is for, what it costs and where it comes from.
"""

from ml_collections import ConfigDict

from configs import default, unified_tokenizer
from unitok_jax.tokenizer.losses import PIXEL_TERMS

_RECONSTRUCTION = 0.2  # AToken's factor of all losses of the reconstruction

# Differences from configs/default.py.
VARIANTS = {
    # The ablation of arXiv 2412.02632: an adversarial loss of one weight from the first step on.
    "gan_constant": {
        "gan.weight": 0.1,
        "gan.adaptive": False,
        "gan.start_fraction": 0.0,
        "gan.ramp_fraction": 0.0,
        "gan.generator_loss": "non_saturating",
        "gan.betas": (0.9, 0.99),
        "gan.weight_decay": 0.05,
        "gan.clip_norm": 2.0,
        "optim.schedule": "constant",
        "optim.betas": (0.9, 0.99),
        "optim.weight_decay": 0.05,
        "optim.clip_norm": 2.0,
        # Its figures are the average's, which takes the place of a decay.
        "optim.ema_decay": 0.999,
    },
    # The losses of arXiv 2509.14476, without a discriminator.
    "gram": {
        "loss.l1": 1.0 * _RECONSTRUCTION,
        "loss.l2": 0.0,
        "loss.perceptual": 10.0 * _RECONSTRUCTION,
        "loss.gram": 1e3 * _RECONSTRUCTION,
        "gan.weight": 0.0,
        "optim.ema_decay": 0.9999,
    },
    # The text side of a CLIP, which init.path names, stays as it is; the image side is fresh.
    "locked_text_scratch": {
        "init.include": ("text_encoder.*", "logit_scale"),
        "optim.frozen": ("text_encoder.*", "logit_scale"),
    },
    "rotation": {"codebook.gradient": "rotation"},
    # A chunk keeps its 8 values: more codebooks widen the latent.
    "books16": {
        "model.num_codebooks": 16,
        "model.vocab_size": 16 * 4096,
        "model.latent_width": 16 * 8,
        "model.quant_heads": 6,
    },
    "entries16384": {"model.vocab_size": 8 * 16_384},
    # AToken's discrete codes: 8 groups of 6 channels with 4 levels, 8 x 4096 codes
    "fsq_groups": {
        "model.quantizer": "fsq",
        "model.fsq_levels": (4,) * 6,
        "model.latent_width": 8 * 6,
        "model.quant_heads": 16,
    },
    "wrong_codes": {"codebook.wrong_share": 0.1},
    "quant_causal": {"model.quant_causal": True},
    "ema_codebooks": {"codebook.learning": "ema"},
    # The image's tokens predict those of SigLIP 2, which has one for each of them at 256 px.
    "teacher": {"teacher.kind": "siglip2_b16", "loss.teacher_token": 1.0},
    # The similarities of the batch follow those of a CLIP.
    "teacher_relation": {"teacher.kind": "clip_b16", "loss.teacher_relation": 1.0},
    # The same from stored features, for which an image must always be the same.
    "teacher_stored": {
        "teacher.kind": "clip_b16",
        "loss.teacher_relation": 1.0,
        "data.crop_scale": (1.0, 1.0),
        "data.crop_ratio": (1.0, 1.0),
    },
    "curriculum": {"data.size_schedule": ((0.0, 128), (0.85, 256))},
    # Images keep their aspect ratio, crops too. Data packed by `unitok data pack` tell it.
    "aspect_buckets": {
        "data.source": "array_record",
        "data.bucket_ratio": 2.0,
        "data.crop_ratio": (1.0, 1.0),
    },
    "muon": {"optim.kind": "muon"},
    "sigmoid": {"loss.contrastive_kind": "sigmoid"},
}

# Differences from configs/unified_tokenizer.py: does a CLIP's initialisation help at all?
ON_SHAPES = {
    # The "CLIP": what `from_clip` takes of it has learnt from texts alone.
    "clip_pretraining": {
        **{f"loss.{name}": 0.0 for name in PIXEL_TERMS},
        "loss.contrastive": 1.0,
        "checkpoint.best_metric": "eval/image_to_text",
    },
    "from_clip": {
        "init.path": "runs/clip_pretraining",
        "init.include": ("encoder.*", "text_encoder.*", "logit_scale"),
    },
    "from_random": {},
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the base recipe, or that on shapes, with the changes of one variant.

    Raises:
      ValueError: unknown variant; the message lists all.
    """
    base = (unified_tokenizer if name in ON_SHAPES else default).get_config()
    return default.variant(base, VARIANTS | ON_SHAPES, name, "recipes")
