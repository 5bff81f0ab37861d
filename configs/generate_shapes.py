"""Small generator of drawn shapes by colour and form, on codes of `configs/shapes.py`'s tokenizer.

docs/guides/train_a_generator.md has the commands.
"""

from configs import generate, shapes


def get_config():
    """Returns the configuration: 64 classes, eight colours by eight forms."""
    config = generate.get_config()
    config.steps = 3000
    model = config.model
    model.size = "small"
    model.head_depth = 2
    model.classes = 64
    generate.set_codes(model, shapes.get_config())
    model.dtype = "float32"
    model.remat = "none"
    config.data.path = "codes/shapes"
    config.data.tokenizer = "runs/shapes"
    config.data.batch_size = 64
    config.optim.learning_rate = 1e-3
    config.optim.ema_decay = 0.999
    config.eval.path = "codes/shapes_held_out"
    config.eval.every = 500
    config.eval.max_images = 1024
    config.eval.preview = 64
    config.eval.scale = 1.5
    config.checkpoint.every = 500
    return config
