"""Generator of images by texts, size XL; the tokenizer's text tower reads the captions."""

from configs import generate


def get_config():
    """Returns the configuration; `data.path` and `data.tokenizer` are to be set."""
    config = generate.get_config()
    config.model.size = "xl"
    config.model.prompt = "text"
    config.model.prompt_rope = "identity"  # with zero, the mean of all words is all that is seen
    return config
