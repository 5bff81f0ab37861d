"""Model of 5 M parameters at 64 px on the embedded photographs: minutes on a laptop.

No perceptual or adversarial loss, which need published weights; `tiny_full` has both.
"""

from configs import default


def get_config():
    """Returns a configuration small enough for a test, with every part of the large model."""
    config = default.get_config()
    config.steps = 200
    model = config.model
    model.size = "tiny"
    model.dtype = "float32"
    model.vocab_size = 256
    model.num_codebooks = 4
    model.latent_width = 32
    model.quant_heads = 4
    model.embed_dim = 64
    model.text.width = 64
    model.text.heads = 4
    model.text.layers = 2
    model.remat = "none"
    config.data.source = "photos"
    config.data.image_size = (64, 64)
    config.data.batch_size = 16
    config.data.num_threads = 4
    config.loss.perceptual = 0.0
    config.gan.weight = 0.0
    config.optim.learning_rate = 2e-3
    config.eval.every = 100
    config.eval.batch_size = 16
    config.checkpoint.every = 100
    config.log.every = 10
    return config
