"""Starting from trained weights, each way by its name: `--config=configs/finetune.py:decoder`.

`docs/guides/finetune.md` says what each one is for. All need `--config.init.path=WEIGHTS`; the
model is that of the released weights, `--config.model...` makes it another.
"""

from ml_collections import ConfigDict

from configs import default, l16

# What decides codes and image features; the rest is the decoder.
_CODES = ("encoder.*", "quant_proj.*", "quantizer.*")
_FEATURES = ("post_quant_proj.*", "fc_norm.*", "projection.*", "text_encoder.*", "logit_scale")

# What differs from `_base`.
VARIANTS = {
    # Every weight of the generator, against a fresh discriminator.
    "generator": {},
    # A workdir's optimisers and discriminator come along.
    "both_players": {
        "init.training": True,
        "gan.start_fraction": 0.0,
        "gan.ramp_fraction": 0.0,
        "gan.blur_fraction": 0.0,
        "gan.warmup_fraction": 0.0,
    },
    # The same image features from before the quantizer; everything after them is trained.
    "frozen_encoder": {"optim.frozen": ("encoder.*",)},
    # The same codes, better pictures of them: generators trained on the codes stay valid.
    "decoder": {"optim.frozen": _CODES + _FEATURES, "loss.contrastive": 0.0},
    # As LiT: the images learn the text tower's space.
    "locked_text": {"optim.frozen": ("text_encoder.*", "logit_scale")},
    # Half as many pixels again on each side.
    "resolution": {"data.image_size": (384, 384), "data.batch_size": 128},
}


def _base() -> ConfigDict:
    config = l16.get_config()
    config.model.remat = "blocks"  # fewer images than there: nothing has to be arranged
    config.optim.accumulation = 1
    config.mesh.data, config.mesh.fsdp = -1, 1
    config.steps = 10_000
    config.data.batch_size = 256
    config.optim.learning_rate = 5e-5  # a tenth of training's
    config.optim.warmup_fraction = 0.02
    config.gan.start_fraction = 0.05  # a fresh discriminator has nothing to say at first
    config.optim.ema_decay = 0.999
    config.eval.every = config.checkpoint.every = 500
    return config


def get_config(name: str = "") -> ConfigDict:
    """The configuration of one way.

    Raises:
      ValueError: there is no such way; the message lists all.
    """
    return default.variant(_base(), VARIANTS, name, "finetune")
