"""Small tokenizer of drawn shapes, for `make unified`.

The recipe of `configs/shapes.py` at the size of `configs/photos.py`, with its codes: eight of 256
entries a token. Both losses are trained, the contrastive one at a weight that leaves most to the
pixels, as there is no perceptual loss beside them; and the pictures are whole, as those that codes
are made of.
"""

from configs import shapes


def get_config():
    """Returns the configuration."""
    config = shapes.get_config()
    config.steps = 3000
    model = config.model
    model.size = "nano"
    model.vocab_size = 2048
    model.num_codebooks = 8
    model.latent_width = 64
    model.quant_heads = 1
    model.text.width = 32
    config.data.batch_size = 32
    config.data.crop_scale = (1.0, 1.0)
    config.data.crop_ratio = (1.0, 1.0)
    config.data.num_threads = 2
    config.loss.contrastive = 0.02
    config.optim.kind = "muon"
    config.optim.learning_rate = 3e-3
    config.optim.warmup_fraction = 0.1
    config.optim.final_fraction = 0.02
    config.optim.weight_decay = 0.0
    config.optim.clip_norm = 1.0
    config.eval.batch_size = 32
    config.eval.max_images = 256
    config.eval.every = 1000
    config.checkpoint.every = 500
    config.log.every = 100
    return config
