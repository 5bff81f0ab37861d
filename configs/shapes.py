"""Small model on drawn shapes, without downloads.

Evaluated on pairs of colour and shape that are held out from training.
"""

from configs import tiny


def get_config():
    """Returns the configuration; `eval/zero_shot_top1` is over 16 pairs, where chance is 0.0625."""
    config = tiny.get_config()
    config.steps = 2000
    config.model.vocab_size = 1024
    config.model.drop_path = 0.0
    config.model.text.context_length = 56  # the longest caption takes 49
    config.data.source = "shapes"
    config.data.batch_size = 64
    config.data.crop_scale = (0.9, 1.0)
    config.data.crop_ratio = (0.95, 1 / 0.95)  # shapes in a corner stay whole
    config.loss.l1 = 1.0
    config.loss.l2 = 5.0
    config.loss.entropy = 0.05
    config.optim.warmup_fraction = 0.05
    config.eval.source = "shapes"
    config.eval.path = "held_out"
    config.eval.batch_size = 64
    config.eval.max_images = 512
    config.eval.every = 500
    config.checkpoint.every = 500
    config.log.every = 50
    return config
