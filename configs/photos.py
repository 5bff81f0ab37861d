"""Small model on the embedded photographs, for `make demo`: minutes on two CPU cores.

No perceptual or adversarial loss. The entropy term keeps the codebooks in use, which a few hundred
steps from scratch do not achieve without it.
"""

from configs import tiny


def get_config():
    """Returns the configuration: trained on crops, evaluated on whole photographs."""
    config = tiny.get_config()
    config.steps = 640
    config.model.vocab_size = 2048
    config.model.num_codebooks = 8
    config.model.latent_width = 64
    config.model.quant_heads = 2
    config.model.drop_path = 0.0
    config.model.text.context_length = 32  # the captions are short
    config.data.batch_size = 6  # more steps beat larger ones here
    config.data.crop_scale = (0.85, 0.97)  # never a whole photograph
    config.data.crop_ratio = (0.9, 1 / 0.9)
    config.loss.l1 = 1.0
    config.loss.l2 = 5.0
    config.loss.entropy = 0.05
    config.optim.learning_rate = 2e-3
    config.optim.warmup_fraction = 0.05
    config.eval.every = 640
    config.eval.batch_size = 18
    config.eval.grid_images = 18
    config.checkpoint.every = 640
    config.log.every = 40
    return config
