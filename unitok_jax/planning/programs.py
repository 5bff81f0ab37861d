"""Keys of a configuration that the program of a step depends on, and how long it takes."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from unitok_jax.checkpoints import differences

# Globs of the keys that leave the program as it is, but for its numbers, or leave the step alone.
# All others count, those that are added later too.
FREE = (
    *("seed", "steps", "init.*", "frozen.*", "mesh.*", "eval.*", "checkpoint.*", "log.*"),
    # Of the data only shapes reach a step. Sizes of a schedule tell themselves by the operations.
    *("data.source", "data.path", "data.captions", "data.tokenizer", "data.mixture", "data.window"),
    *("data.index", "data.max_bad", "data.crop_*", "data.num_*", "data.size_schedule"),
    "teacher.temperature",
    *("codebook.ema_decay", "codebook.wrong_fraction"),
    *("gan.adaptive_limits", "gan.*_fraction"),
    *(
        f"{player}.{key}"
        for player in ("optim", "gan")
        for key in ("learning_rate", "betas", "eps", "weight_decay", "clip_norm")
    ),
    *("optim.schedule", "optim.*_fraction", "optim.max_skipped"),
)
# Globs of the keys of which it counts whether they are set: each adds a part.
SWITCHES = (
    *("data.text_features", "gan.weight", "optim.ema_decay", "model.drop_path"),
    *("codebook.restart", "codebook.wrong_share"),
    *("loss.l1", "loss.l2", "loss.perceptual", "loss.gram", "loss.vq", "loss.entropy"),
    *("loss.contrastive", "loss.teacher_*"),
)


def same(recorded: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Returns True if a configuration's step is the program that was recorded.

    Args:
      recorded: dotted key -> value, at least of all keys that are not `FREE` and were there on that
        day. Those that came later had the value that `differences.ADDED` gives them.
      config: the whole configuration, nested.
    """
    now = _program(config)
    added = {key: value for key, value in differences.ADDED.items() if key in now}
    return _program(added | dict(recorded)) == now


def _program(keys):
    return {
        key: bool(value) if _is_in(SWITCHES, key) else value
        for key, value in differences.flat(keys).items()
        if not _is_in(FREE, key)
    }


def _is_in(globs, key):
    return any(fnmatch.fnmatchcase(key, glob) for glob in globs)
