"""Folders of the multimodal model of UniTok's release, with the reference's seeded weights."""

import json

import numpy as np

from helpers import language_tokenizers, parity
from unitok_jax.weights import shards

MANIFEST = parity.manifest("multimodal")
OPTIONS = MANIFEST["config"]


def state() -> dict[str, np.ndarray]:
    """The reference's seeded weights, under the release's names."""
    arrays = dict(parity.weights.reference_state(MANIFEST, parity.SEED))
    for name in MANIFEST["norms"]:
        arrays[name] = 1 + 5 * parity.weights.reference_array(name, arrays[name].shape, parity.SEED)
    return arrays


def config() -> dict:
    """config.json as the release's code saves it."""
    return OPTIONS["language_model"] | {
        "architectures": ["MiniGeminiLlamaForCausalLM"],
        "model_type": "mini_gemini",
        "torch_dtype": "float32",
        "mm_projector_type": "mlp2x_gelu",
    }


def save(folder, *, changes=None, files=None, dtype="float32", most=400_000, **arrays):
    """Writes a folder of several files of weights, and returns it.

    changes: of config.json, None leaves a key out; files: of a tokenizer; arrays: that change.
    """
    folder.mkdir(parents=True)
    kept = {key: array for key, array in {**state(), **arrays}.items() if array is not None}
    shards.write(folder, kept, dtype, most)
    keys = {
        key: value for key, value in {**config(), **(changes or {})}.items() if value is not None
    }
    (folder / "config.json").write_text(json.dumps(keys))
    language_tokenizers.save(folder, text() if files is None else files)
    return folder


def text() -> dict[str, bytes]:
    """Files of a tokenizer whose special ids are those of Llama 2."""
    special = ("<unk>", "<s>", "</s>", "<boi>", "<eoi>")
    return language_tokenizers.words(special) | {
        "tokenizer_config.json": json.dumps(language_tokenizers.LLAMA2).encode()
    }
