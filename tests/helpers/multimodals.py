"""Multimodal models of seconds, for tests: small, with random weights, and rows for them."""

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from PIL import Image

from configs import multimodal
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.models.layers import Keys
from unitok_jax.multimodal import asking
from unitok_jax.multimodal.loading import TOKENIZER, Form, Weights, write
from unitok_jax.multimodal.model import Multimodal
from unitok_jax.multimodal.rows import NO_LABEL
from unitok_jax.multimodal.words import shape_tokenizer

SMALL = dict(
    vocabulary=20,
    width=32,
    heads=4,
    groups=2,
    head_width=8,
    hidden=48,
    depth=2,
    num_codebooks=2,
    vocab_size=16,
    latent_width=8,
    grid=(2, 3),
    projection_width=16,
    projection_heads=2,
    head_depth=1,
    depth_head_width=0,
    remat="none",
    dtype="float32",
)
TOKENS = 6
BOI, EOI, EOS = 3, 4, 2


def configured(**model):
    """The configuration of a run of a small model with some other keys of `config.model`."""
    config = multimodal.get_config()
    config.model.update(SMALL | model)
    return config


def model_keys(**changes):
    """The keyword arguments of a small `Multimodal`."""
    return configured(**changes).model.to_dict()


def keys_of_shapes(codebook_shape=(2, 8)):
    """Keys of a model of the words of shapes and of codes (K, V)."""
    books, entries = codebook_shape
    words = shape_tokenizer().rows
    return {"vocabulary": words, "num_codebooks": books, "vocab_size": books * entries}


def parameters(model, seed=0):
    """Random parameters, from which all ids and codes are about as likely."""
    params = nnx.to_pure_dict(nnx.state(Multimodal(**model, rngs=Keys(0))))
    rng = np.random.default_rng(seed)

    def noisy(a):
        return np.asarray(a) + 0.3 * rng.normal(size=a.shape).astype(np.float32)

    return jax.tree.map(noisy, params)


def samples():
    """[(ids with -1 at visual tokens, codes (M, K, L), drawn (M,))] of several kinds."""
    rng = np.random.default_rng(1)

    def codes(count):
        return rng.integers(0, 8, (count, 2, TOKENS)).astype(np.int32)

    image = [BOI, *[-1] * TOKENS, EOI]
    return [
        ([1, 9, 10, *image, EOS], codes(1), [True]),
        ([1, *image, 11, 12, 13, EOS], codes(1), [False]),
        ([1, 5, *image, 6, *image, EOS], codes(2), [False, True]),
        ([1, 14, 15, 16, 17], codes(0), []),
    ]


def batch(rows, length, images):
    """A batch whose row n holds the samples rows[n] one behind the other, all ids labelled."""
    made = {
        "ids": np.zeros((len(rows), length), np.int32),
        "image_at": np.full((len(rows), length), -1, np.int32),
        "codes": np.zeros((len(rows), images, 2, TOKENS), np.int32),
        "labels": np.full((len(rows), length), NO_LABEL, np.int32),
        "drawn": np.zeros((len(rows), images), bool),
        "segments": np.zeros((len(rows), length), np.int32),
        "positions": np.zeros((len(rows), length), np.int32),
        "kinds": np.zeros((len(rows), length), np.int32),
    }
    for n, row in enumerate(rows):
        at = image = 0
        for segment, (ids, codes, drawn) in enumerate(row, 1):
            ids = np.array(ids)
            here, visual = slice(at, at + len(ids)), ids < 0
            made["ids"][n, here] = np.where(visual, 0, ids)
            places = image * TOKENS + np.cumsum(visual) - 1
            made["image_at"][n, here] = np.where(visual, places, -1)
            made["labels"][n, here] = np.where(visual, NO_LABEL, ids)
            made["segments"][n, here] = segment
            made["positions"][n, here] = np.arange(len(ids))
            made["kinds"][n, here] = 0 if any(drawn) else 1
            made["codes"][n, image : image + len(codes)] = codes
            made["drawn"][n, image : image + len(codes)] = drawn
            at, image = at + len(ids), image + len(codes)
    return made


def saved(path, tokenizer=None, *, grid=(2, 3), template="plain", named=""):
    """Writes a model of the words of shapes that knows a `Tokenizer`'s codes, as a run does.

    named: `data.tokenizer` of the run.
    """
    text = shape_tokenizer()
    codes = (tokenizer.codebook_shape,) if tokenizer else ()
    model = model_keys(**keys_of_shapes(*codes), grid=grid)
    config = ConfigDict({"model": model})
    hash = tokenizer.hash if tokenizer else None
    found = Weights(config, parameters(model), hash, text, Form(template))
    if path is not None:
        write(path, found)
    if named:
        data = found.form._asdict() | {"tokenizer": str(named)}
        whole = ConfigDict({"product": "multimodal", "model": model, "data": data})
        with Checkpoints(path, create=True) as checkpoints:
            checkpoints.save(1, {"params": found.params}, whole, {}, {TOKENIZER: hash})
    return found


class Spelling:
    """A model whose answers spell out the place of an image."""

    tokenizer = object()

    def answer(self, codes, messages, **settings):
        """Answers what it may be asked."""
        asking.placed(asking.turns_of(messages, "it"), len(codes), "it")
        return "write <image> there"


def two_pictures(folder):
    """Writes two pictures of noise, and returns their paths."""
    paths = [folder / "0.png", folder / "1.png"]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return paths
