"""Fine-tuning of trained weights, variants by name: `--config=configs/finetune.py:decoder`.

`docs/guides/finetune.md` has the purpose of each variant. All need `--config.init.path=WEIGHTS`;
the model is that of the released weights, and `--config.model...` changes its keys.
"""

from ml_collections import ConfigDict

from configs import default, l16

# Parameters that decide codes and image features; the rest is the decoder.
_CODES = ("encoder.*", "quant_proj.*", "quantizer.*")
_FEATURES = ("post_quant_proj.*", "fc_norm.*", "projection.*", "text_encoder.*", "logit_scale")

# Differences from `_base`.
VARIANTS = {
    # Every weight of the generator, against a fresh discriminator.
    "generator": {},
    # The optimisers and the discriminator of a workdir are loaded too.
    "both_players": {
        "init.training": True,
        "gan.start_fraction": 0.0,
        "gan.ramp_fraction": 0.0,
        "gan.blur_fraction": 0.0,
        "gan.warmup_fraction": 0.0,
    },
    # Image features before the quantizer stay the same; all later parts are trained.
    "frozen_encoder": {"optim.frozen": ("encoder.*",)},
    # Codes stay the same, with better reconstructions: generators of the codes stay valid.
    "decoder": {"optim.frozen": _CODES + _FEATURES, "loss.contrastive": 0.0},
    # As LiT: the images learn the text tower's space.
    "locked_text": {"optim.frozen": ("text_encoder.*", "logit_scale")},
    # 1.5 times as many pixels on each side.
    "resolution": {"data.image_size": (384, 384), "data.batch_size": 128},
}


def _base() -> ConfigDict:
    config = l16.get_config()
    config.model.remat = "blocks"  # smaller batches than L's need no further memory settings
    config.optim.accumulation = 1
    config.mesh.data, config.mesh.fsdp = -1, 1
    config.steps = 10_000
    config.data.batch_size = 256
    config.optim.learning_rate = 5e-5  # a tenth of the rate of training
    config.optim.warmup_fraction = 0.02
    config.gan.start_fraction = 0.05  # first steps without the fresh discriminator
    config.optim.ema_decay = 0.999
    config.eval.every = config.checkpoint.every = 500
    return config


def get_config(name: str = "") -> ConfigDict:
    """Returns the configuration of one variant.

    Raises:
      ValueError: unknown variant; the message lists all.
    """
    return default.variant(_base(), VARIANTS, name, "finetune")
