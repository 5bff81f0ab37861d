"""Generators of seconds, for tests: small, with random weights, and saved as a run saves them."""

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from configs import generate
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.generate.loading import Weights
from unitok_jax.generate.model import Generator
from unitok_jax.models.layers import Keys

HASH = "0123456789abcdef" * 2
SMALL = dict(size="nano", num_codebooks=2, vocab_size=16, grid=(2, 3), classes=3, head_depth=1)


def model_keys(**changes):
    """The keyword arguments of a small `Generator`."""
    config = generate.get_config()
    config.model.update(SMALL | {"dropout": 0.0, "dtype": "float32", "remat": "none"} | changes)
    return config.model.to_dict()


def fresh(**changes):
    """(keyword arguments, parameters) of a generator whose logits are zero."""
    model = model_keys(**changes)
    return model, nnx.to_pure_dict(nnx.state(Generator(**model, rngs=Keys(0))))


def weights(seed=0, tokenizer_hash=HASH, **changes):
    """Random weights, from which all codes of a class are about as likely."""
    model, params = fresh(**changes)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda a: np.asarray(a) + 0.3 * rng.normal(size=a.shape).astype(np.float32), params
    )
    return Weights(ConfigDict({"model": model}), params, tokenizer_hash)


def save(workdir, found: Weights, step=3, raw=None):
    """Saves weights as a run does; `raw`: the trained ones, beside which `found` are an average."""
    config = generate.get_config()
    config.model.update(found.config.model)
    items = {"params": found.params}
    if raw is not None:
        items["training"] = {"params": raw}
    facts = {
        "tokenizer of the codes": found.tokenizer_hash,
        "digest of the features": found.stored_features,
    }
    facts = {key: value for key, value in facts.items() if value}
    with Checkpoints(workdir, create=True) as checkpoints:
        checkpoints.save(step, items, config, {}, facts)
    return workdir


def save_for(workdir, tokenizer, **changes):
    """Saves random weights that draw codes of a `Tokenizer`."""
    books, entries = tokenizer.codebook_shape
    found = weights(
        tokenizer_hash=tokenizer.hash,
        **{"num_codebooks": books, "vocab_size": books * entries, **changes},
    )
    return save(workdir, found)
