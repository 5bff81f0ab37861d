"""Differences in configurations and facts that make a checkpoint unusable."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

log = logging.getLogger(__name__)

# Keys that decide the meaning of the weights or the data position. A resumed run must have equal
# values, and equal samples (`data.identity`) at any location; all else may change between starts.
BINDING = (
    "product",
    "model",
    "seed",
    "data.batch_size",
    "data.image_size",
    "data.bucket_ratio",
    "data.crop_scale",
    "data.crop_ratio",
    "data.context_length",
    "optim.frozen",
    "optim.kind",
    "optim.lora_rank",
    "codebook.learning",
)
# Model keys that change training or the precision, but not the meaning of weights and codes.
FREE_OF_MODEL = (
    *("dtype", "residual_dtype", "remat", "dropout", "drop_path", "commitment_weight"),
)
# Keys added later, with the value that reproduces a checkpoint saved without them.
ADDED = {
    "codebook.gradient": "straight_through",
    "codebook.learning": "loss",
    "codebook.ema_decay": 0.99,
    "codebook.restart": 0.01,
    "codebook.wrong_share": 0.0,
    "codebook.wrong_near": 16,
    "codebook.wrong_fraction": 0.75,
    "product": "tokenizer",
    "data.mixture": [],
    "data.text_features": "",
    "frozen.inception": "",
    "gan.adaptive": True,
    "gan.generator_loss": "linear",
    "frozen.teacher": "",
    "loss.teacher_token": 0.0,
    "loss.teacher_relation": 0.0,
    "teacher.kind": "siglip2_b16",
    "teacher.features": "",
    "teacher.shallow": 0,
    "teacher.temperature": 2.0,
    "data.size_schedule": [],
    "data.bucket_ratio": 0.0,
    "loss.contrastive_kind": "softmax",
    "model.contrastive_kind": "softmax",
    "log.parameters": False,
    "model.fsq_levels": [],
    "model.quant_causal": False,
    "log.wandb": "",
    "optim.kind": "adamw",
    "optim.lora_rank": 0,
    "loss.gram": 0.0,
    "eval.temperature": 1.0,
}
# Keys for which only zero or nonzero matters: nonzero adds a part of the training state.
SWITCHES = ("gan.weight", "loss.teacher_token", "teacher.shallow", "optim.ema_decay")
# Keys that bind while another is not zero, before and now, which is compared by itself. A
# teacher's weights do not tell its GELU: one file may be of two kinds.
BINDING_WITH = {"teacher.kind": "loss.teacher_token", "teacher.shallow": "loss.teacher_token"}


def value(saved: Mapping, key: str) -> Any:
    """Returns the value of a key of a saved configuration, which may be older than the key.

    Args:
      saved: the configuration, nested; rooms without weights may be missing.
      key: dotted.

    Raises:
      KeyError: it has no such key, and no file was ever without it.
    """
    found = saved
    for name in key.split("."):
        if name not in found:
            return ADDED[key]
        found = found[name]
    return found


def config_differences(saved: dict, current: dict) -> list[str]:
    """Returns the differences in the binding keys, one line each; others are only logged."""
    saved, current = flat(saved), flat(current)
    binding, free = [], []
    for key in sorted(saved.keys() | current.keys()):
        if key in ADDED and key not in saved and current[key] == ADDED[key]:
            continue
        if saved.get(key) != current.get(key):
            line = f"{key}: saved {saved.get(key)!r}, now {current.get(key)!r}"
            bound = any(key == name or key.startswith(name + ".") for name in BINDING)
            bound &= key not in [f"model.{name}" for name in FREE_OF_MODEL]
            switched = bool(saved.get(key)) != bool(current.get(key))
            if switched if key in SWITCHES else key in BINDING_WITH:
                whole = BINDING_WITH.get(key)
                bound |= whole is None or bool(saved.get(whole) and current.get(whole))
            (binding if bound else free).append(line)
    for line in free:
        log.info("the configuration changed since the checkpoint: %s", line)
    return binding


def stated(model: Mapping) -> dict[str, Any]:
    """Returns `config.model` in the form of JSON, without the values of files that lack a key.

    So two models are equal whether or not one was saved before a key was there.
    """
    model = {key: _as_json(value) for key, value in model.items()}
    return {
        key: value
        for key, value in model.items()
        if f"model.{key}" not in ADDED or value != ADDED[f"model.{key}"]
    }


def fact_differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Returns the facts about a run's data and networks that differ from the saved ones.

    Facts that are dicts are compared in their common entries; the first difference is reported.
    Those that are None are not known to the run: `completed`.
    """
    lines = []
    for key, value in current.items():
        before = saved.get(key)
        if value is None:
            continue
        if not isinstance(value, dict):
            if before != value:
                lines.append(f"{key}: saved {before}, now {value}")
        elif before is None:
            log.warning("the checkpoint does not tell its %s, which are not compared", key)
        else:
            changed = [name for name in value if name in before and before[name] != value[name]]
            if changed:
                name, more = changed[0], f" (and {len(changed) - 1} more)" * (len(changed) > 1)
                change = f"saved {before[name]!r}, now {value[name]!r}"
                lines.append(f"{key}: {name}: {change}{more}")
    return lines


def completed(current: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the facts about a run that resumes; those that it does not know are as saved."""
    return {key: saved.get(key) if value is None else value for key, value in current.items()}


def flat(tree: Mapping) -> dict[str, Any]:
    """Flattens a nested dict to dotted keys; tuples become lists, as in JSON."""
    return {key: _as_json(value) for key, value in walk(tree)}


def walk(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from walk(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _as_json(value):
    return [_as_json(each) for each in value] if isinstance(value, (tuple, list)) else value
