"""Small generator of the embedded photographs by texts, on codes of the demo's tokenizer.

docs/guides/train_a_generator.md has the commands.
"""

from configs import generate, photos


def get_config():
    """Returns the configuration: the tokenizer's own text tower reads the captions."""
    config = generate.get_config()
    config.steps = 200
    model = config.model
    model.size = "tiny"
    model.head_depth = 1
    model.prompt = "text"
    model.prompt_rope = "identity"
    generate.set_codes(model, photos.get_config())
    model.dtype = "float32"
    model.dropout = 0.0
    model.remat = "none"
    config.data.path = "demo/codes"
    config.data.tokenizer = "demo"
    config.data.batch_size = 18
    config.data.num_threads = 1
    config.optim.learning_rate = 2e-3
    config.optim.ema_decay = 0.99
    config.eval.every = config.steps
    config.eval.batch_size = 18
    config.eval.preview = 18
    config.eval.scale = 1.5
    config.checkpoint.every = config.steps
    config.log.every = 40
    return config
