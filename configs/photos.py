"""Small model that learns the embedded photographs by heart, for `make demo`: minutes on two cores.

Every step sees all of them, whole: what it shows is that their codes hold them, not how well it
does on others. No perceptual or adversarial loss; the entropy term keeps the codebooks in use.
"""

from configs import tiny


def get_config():
    """Returns the configuration: trained and evaluated on the 18 whole photographs."""
    config = tiny.get_config()
    config.steps = 900
    config.model.size = "nano"
    config.model.vocab_size = 2048
    config.model.num_codebooks = 8
    config.model.latent_width = 64
    config.model.quant_heads = 1
    config.model.drop_path = 0.0
    config.model.text.width = 32
    config.model.text.context_length = 32  # the captions are short
    config.data.batch_size = 18  # all: without the noise of a batch a high rate is stable
    config.data.crop_scale = (1.0, 1.0)
    config.data.crop_ratio = (1.0, 1.0)
    config.loss.l1 = 1.0
    config.loss.l2 = 5.0
    config.loss.entropy = 0.05
    config.loss.contrastive = 0.2
    config.optim.learning_rate = 6e-3
    config.optim.warmup_fraction = 0.1
    config.optim.final_fraction = 0.02
    config.optim.weight_decay = 0.0
    config.optim.clip_norm = 1.0
    config.eval.every = config.steps
    config.eval.batch_size = 18
    config.eval.grid_images = 18
    config.checkpoint.every = config.steps
    config.log.every = 100
    return config
