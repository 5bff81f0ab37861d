"""UniTok, the unified visual tokenizer, in JAX and Flax."""

import os

from unitok_jax.system import console

console.begin(os.path.dirname(__file__))

__version__ = "0.1.0"
__all__ = ["Tokenizer", "load", "load_generator", "load_multimodal", "open_codes", "__version__"]


def __getattr__(name: str):
    # Resolved late: data workers import this package and need neither JAX nor the models.
    if name in ("Tokenizer", "load"):
        from unitok_jax.tokenizer import api

        return getattr(api, name)
    if name == "load_generator":
        from unitok_jax.generate.api import load_generator

        return load_generator
    if name == "load_multimodal":
        from unitok_jax.multimodal.api import load_multimodal

        return load_multimodal
    if name == "open_codes":
        from unitok_jax.data.codes.records import open_codes

        return open_codes
    raise AttributeError(f"module 'unitok_jax' has no attribute {name!r}")
