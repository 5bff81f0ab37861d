"""Small generator of emoji by their names, on codes of `configs/emoji.py`'s tokenizer.

docs/guides/train_a_generator.md has the commands.
"""

from configs import emoji, generate


def get_config():
    """Returns the configuration: the tokenizer's own text tower reads the names."""
    config = generate.get_config()
    config.steps = 2500
    model = config.model
    model.size = "tiny"  # 1 s of CPU time a step; small takes 3 s
    model.head_depth = 1
    model.prompt = "text"
    model.prompt_rope = "identity"
    generate.set_codes(model, emoji.get_config())
    model.dtype = "float32"
    model.dropout = 0.1
    model.remat = "none"
    config.data.path = "codes/emoji"
    config.data.tokenizer = "runs/emoji"
    config.data.batch_size = 32
    config.data.num_threads = 2
    config.optim.learning_rate = 2e-3
    config.optim.ema_decay = 0.999
    config.eval.path = "codes/emoji_held_out"
    config.eval.every = 500
    config.eval.max_images = 336
    config.eval.batch_size = 64
    config.eval.preview = 64
    config.eval.scale = 1.5
    config.checkpoint.every = 500
    return config
