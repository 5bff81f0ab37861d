"""Small model on the emoji of the system's colour font, with their names, at 64 px.

Evaluated on combinations that are held out from training, as a skin tone of a profession.
"""

from configs import tiny


def get_config():
    """Returns the configuration; `eval/zero_shot_top1` is over all held-out pictures, 336 of Noto's
    font, where chance is 0.003."""
    config = tiny.get_config()
    config.steps = 6000
    config.model.size = "nano"  # 0.7 s of CPU time a step; tiny takes 3 s
    config.model.vocab_size = 2048
    config.model.num_codebooks = 8
    config.model.latent_width = 64
    config.model.quant_heads = 1
    config.model.drop_path = 0.0
    config.model.text.context_length = 24  # the longest name takes 19
    config.data.source = "emoji"
    config.data.batch_size = 32
    config.data.crop_scale = (0.85, 1.0)
    config.data.crop_ratio = (0.9, 1 / 0.9)
    config.loss.l1 = 1.0
    config.loss.l2 = 5.0
    config.loss.entropy = 0.05
    config.optim.learning_rate = 3e-3
    config.optim.warmup_fraction = 0.05
    config.eval.source = "emoji"
    config.eval.path = "held_out"
    config.eval.batch_size = 64
    config.eval.max_images = 512
    config.eval.every = 1000
    config.eval.grid_images = 16
    config.checkpoint.every = 1000
    config.log.every = 50
    return config
