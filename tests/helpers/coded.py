"""Folders of codes for tests of generators, made without a tokenizer, and a small configuration."""

import numpy as np

from unitok_jax.data.codes import files as code_files
from unitok_jax.data.codes import shards
from unitok_jax.data.codes.views import VIEWS
from unitok_jax.data.health import Tally
from unitok_jax.data.writing.facts import shards_of
from unitok_jax.data.writing.folders import claim

GRID, BOOKS, ENTRIES = (2, 3), 2, 16
CLASSES = ("a", "b", "c")
HASH = "a" * 32


def write(output, count=24, *, seed=0, names=None, captions=None, codes=None, **changes):
    """Codes in ten views that mostly follow from label and place, of two shards; the folder.

    names, captions, codes: number of a record -> its name, captions or codes; changes: of settings.
    """
    settings = {
        "format": code_files.FORMAT,
        "version": code_files.VERSION,
        "--format": "array_record",
        "--shard_size": -(-count // 2),
        "--views": "ten",
        "tokenizer": HASH,
        "precision": "float32",
        "grid": list(GRID),
        "num_codebooks": BOOKS,
        "codebook_size": ENTRIES,
        "tokens": GRID[0] * GRID[1],
        "samples": count,
        "class_names": CLASSES,
    } | changes
    claim(output, settings, "test")
    rng, facts = np.random.default_rng(seed), []
    shape = VIEWS[settings["--views"]], settings["num_codebooks"], settings["tokens"]
    for number in shards_of(settings):
        first = number * settings["--shard_size"]
        numbers = range(first, min(count, first + settings["--shard_size"]))
        samples, found = [], []
        for i in numbers:
            texts = captions(i) if captions else (f"picture {i}",)
            sample = {"name": names(i) if names else f"{i:04}.png", "captions": texts}
            samples.append(sample | ({"label": i % 3} if settings["class_names"] else {}))
            base = np.arange(shape[2]) + 3 * (i % 3) + np.arange(shape[1])[:, None]
            noise = rng.random(shape) < 0.1
            drawn = rng.integers(0, settings["codebook_size"], shape)
            made = np.where(noise, drawn, base % settings["codebook_size"])
            found.append(codes(i) if codes else made)
        batches = [(samples, np.stack(found).astype(np.uint16))]
        facts.append(shards.write_shard(output, settings, number, batches))
    shards.finish(output, settings, facts, Tally(), 0.0)
    return output


def config(folder):
    """Six steps of a small generator on such a folder."""
    from configs import generate

    config = generate.get_config()
    config.steps = 6
    model = config.model
    model.size, model.dtype, model.head_depth = "nano", "float32", 1
    model.num_codebooks, model.vocab_size = BOOKS, BOOKS * ENTRIES
    model.grid, model.classes = GRID, len(CLASSES)
    config.data.path, config.data.batch_size, config.data.num_threads = str(folder), 8, 1
    config.loss.chunk = 3
    config.optim.learning_rate, config.optim.warmup_fraction = 3e-3, 0.0
    config.eval.every, config.eval.batch_size, config.eval.max_images = 3, 8, 12
    config.checkpoint.every, config.log.every, config.log.tensorboard = 2, 1, False
    return config
