"""Hugging Face folders of the reference's language models, with a tokenizer of a few words."""

import json

from configs import multimodal
from helpers import language_tokenizers, parity
from unitok_jax.weights import shards

NAMES = ("llama2", "llama3", "qwen2", "qwen3")
TOKENIZER = dict(
    num_codebooks=2,
    vocab_size=16,
    latent_width=8,
    grid=(2, 2),
    projection_width=8,
    projection_heads=2,
    head_depth=1,
    depth_head_width=0,
    remat="none",
    dtype="float32",
)
"""Keys of a multimodal model beside those of its language model."""


def config_of(name: str) -> dict:
    """config.json of a model, as transformers writes it since version 5."""
    found = parity.manifest("llama")[name]
    return found["config"] | {"architectures": [found["architecture"]]}


def state_of(name: str) -> dict:
    """The reference's seeded weights."""
    return parity.weights.reference_state(parity.manifest("llama")[name], parity.SEED)


def save(folder, name="llama3", *, files=None, config=None, dtype="float32", most=50_000, **state):
    """Writes a folder of several files of weights, and returns it.

    files: of a tokenizer; config: keys that change, None leaves one out; state: arrays likewise.
    """
    folder.mkdir(parents=True)
    arrays = {**state_of(name), **state}
    arrays = {key: array for key, array in arrays.items() if array is not None}
    shards.write(folder, arrays, dtype, most)
    keys = {**config_of(name), **(config or {})}
    keys = {key: value for key, value in keys.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(keys))
    language_tokenizers.save(folder, language_tokenizers.words() if files is None else files)
    return folder


def model_keys(keys: dict) -> dict:
    """The keyword arguments of a small multimodal model with the keys of a language model."""
    config = multimodal.get_config()
    config.model.update(TOKENIZER | keys)
    return config.model.to_dict()
