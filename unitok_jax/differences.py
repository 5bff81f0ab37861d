"""What keeps a checkpoint from being used: differences of configurations and of trees of arrays."""

import logging

import jax
import numpy as np

log = logging.getLogger(__name__)

# Keys that decide what the weights or the data position mean. A run that resumes must agree on
# them; everything else may change between one start and the next.
BINDING = (
    "model",
    "seed",
    "data.source",
    "data.path",
    "data.captions",
    "data.mixture",
    "data.batch_size",
    "data.image_size",
    "data.crop_scale",
    "data.crop_ratio",
    "data.context_length",
    "optim.frozen",
)
# Keys that older checkpoints lack, and what they did.
ADDED = {"data.mixture": [], "frozen.inception": ""}
# Keys of which it matters whether they are 0: with them comes a part of the training state.
SWITCHES = ("gan.weight", "optim.ema_decay")


def config_differences(saved: dict, current: dict) -> list[str]:
    """Differences in the binding keys, one line each; other differences are only logged."""
    saved, current = flat(saved), flat(current)
    binding, free = [], []
    for key in sorted(saved.keys() | current.keys()):
        if key in ADDED and key not in saved and current[key] == ADDED[key]:
            continue
        if saved.get(key) != current.get(key):
            line = f"{key}: saved {saved.get(key)!r}, now {current.get(key)!r}"
            bound = any(key == name or key.startswith(name + ".") for name in BINDING)
            bound |= key in SWITCHES and bool(saved.get(key)) != bool(current.get(key))
            (binding if bound else free).append(line)
    for line in free:
        log.info("the configuration changed since the checkpoint: %s", line)
    return binding


def fact_differences(saved: dict[str, int], current: dict[str, int]) -> list[str]:
    """Facts about the data and the networks of a run that are not as they were saved."""
    return [
        f"{key}: saved {saved.get(key)}, now {value}"
        for key, value in current.items()
        if saved.get(key) != value
    ]


def tree_differences(found, target) -> list[str]:
    """What of `found` (arrays' metadata) is missing, surplus or of another shape for `target`."""
    found, target = _shapes(found), _shapes(target)
    lines = [f"missing: {name} {target[name]}" for name in sorted(target.keys() - found.keys())]
    lines += [f"unknown: {name} {found[name]}" for name in sorted(found.keys() - target.keys())]
    for name in sorted(found.keys() & target.keys()):
        if found[name] != target[name]:
            lines.append(f"shape: {name} is {found[name]}, the model has {target[name]}")
    return lines


def leaves(tree) -> dict:
    """The leaves of a tree under dotted names."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def flat(tree: dict, prefix: str = "") -> dict:
    """A nested dict as one level with dotted keys; tuples become lists, as JSON has them."""
    out = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = _as_json(value)
    return out


def _as_json(value):
    return [_as_json(each) for each in value] if isinstance(value, (tuple, list)) else value


def _shapes(tree) -> dict[str, tuple]:
    return {
        name: tuple(leaf.shape if hasattr(leaf, "shape") else np.shape(leaf))
        for name, leaf in leaves(tree).items()
    }


def _name(path) -> str:
    keys = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", None))) for p in path)
    return ".".join(str(key) for key in keys)
