"""Options of Llama-family language models: config.json of a Hugging Face folder, and back.

Llama 2 and 3 (arXiv 2307.09288, 2407.21783), Qwen2 and Qwen3 (arXiv 2407.10671, 2505.09388).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from unitok_jax.models.limits import Real, Whole, show
from unitok_jax.system.foreign_files import ConversionError


class Architecture(NamedTuple):
    """Class of transformers, and what its name alone says of the model."""

    model_type: str
    qkv_bias: bool = False
    qk_norm: bool = False
    head_width: int | None = None  # where config.json does not tell it; None: width / heads


ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama"),
    "Qwen2ForCausalLM": Architecture("qwen2", qkv_bias=True),
    "Qwen3ForCausalLM": Architecture("qwen3", qk_norm=True, head_width=128),
}
"""Architectures by their name in config.json."""

RELEASE, _RELEASE_TYPE = "MiniGeminiLlamaForCausalLM", "mini_gemini"
"""Architecture of the multimodal model of UniTok's release, whose language model is a Llama."""

_WIDTH, _COUNT = Whole(1, 2**16), Whole(1, 1024)
# key of the trunk -> (key of config.json, bound, default of transformers; None: it must be there)
_NUMBERS = {
    "vocabulary": ("vocab_size", Whole(1, 2**24), None),
    "width": ("hidden_size", _WIDTH, None),
    "hidden": ("intermediate_size", Whole(1, 2**18), None),
    "depth": ("num_hidden_layers", _COUNT, None),
    "heads": ("num_attention_heads", _COUNT, None),
    "epsilon": ("rms_norm_eps", Real(1.0), 1e-6),
}
# key of config.json -> the only value of which the model is built, the default too
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
}
# key of our scaling -> key of config.json
_SCALING = {
    "factor": "factor",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "original": "original_max_position_embeddings",
}
NO_SCALING = {"factor": 1.0, "low": 1.0, "high": 4.0, "original": 8192}
"""Value of `rope_scaling` for frequencies that are not scaled."""
_BASE = 10_000.0  # rope_theta where config.json lacks it, as that of the first Llama 2
_POSITIONS = 2048  # the same of max_position_embeddings


class Options(NamedTuple):
    """Content of a config.json."""

    trunk: dict[str, Any]  # keys of the trunk of `config.model`
    positions: int  # longest row of pretraining
    ids: dict[str, int]  # special ids that it names: any of bos, eos, pad


def to_options(config: Mapping[str, Any]) -> Options:
    """Converts a config.json of transformers, of before version 5 or since, to our keys.

    Raises:
      ConversionError: code of the folder would have to run, the architecture is unknown, or a value
        is missing, out of its bound or of a model that is not built here.
    """
    if "auto_map" in config:
        raise ConversionError(
            f"auto_map={show(config['auto_map'])} asks for code of the folder to be run, which is "
            f"refused; known architectures: {', '.join(ARCHITECTURES)}"
        )
    found = _architecture(config)
    for key, value in _FIXED.items():
        if key in config and config[key] not in (value, None):
            raise ConversionError(f"{key}={show(config[key])}: only {key}={value} is built")
    layers = config["layer_types"] if "layer_types" in config else None
    if layers is not None and (
        not isinstance(layers, list) or set(map(str, layers)) != {"full_attention"}
    ):
        raise ConversionError(f"layer_types={show(layers)}: only full_attention is built")
    trunk = {key: _number(config, *row) for key, row in _NUMBERS.items()}
    width, heads = trunk["width"], trunk["heads"]
    trunk["groups"] = _number(config, "num_key_value_heads", _COUNT, heads)
    trunk["head_width"] = _number(config, "head_dim", _WIDTH, found.head_width or width // heads)
    _check_heads(trunk, found.head_width or config.get("head_dim"))
    trunk |= _rope(config)
    trunk |= {"qkv_bias": found.qkv_bias, "qk_norm": found.qk_norm}
    trunk["tied"] = _flag(config, "tie_word_embeddings")
    return Options(trunk, positions_of(config), _ids(config, trunk["vocabulary"]))


def from_options(options: Options, dtype: str) -> dict[str, Any]:
    """Returns the config.json of a folder that transformers loads, of any version.

    Args:
      options: of the model.
      dtype: of the arrays beside it, 'float32' or 'bfloat16'.

    Raises:
      ConversionError: no known architecture has these flags.
    """
    trunk = options.trunk
    flags = trunk["qkv_bias"], trunk["qk_norm"]
    names = {(row.qkv_bias, row.qk_norm): name for name, row in ARCHITECTURES.items()}
    if flags not in names:
        raise ConversionError(
            f"model.qkv_bias={flags[0]} with model.qk_norm={flags[1]} is of no architecture of "
            f"{', '.join(ARCHITECTURES)}"
        )
    scaling = None
    if trunk["rope_scaling"]["factor"] != 1:
        scaling = {theirs: trunk["rope_scaling"][ours] for ours, theirs in _SCALING.items()}
        scaling["rope_type"] = "llama3"
    return {
        "architectures": [names[flags]],
        "model_type": ARCHITECTURES[names[flags]].model_type,
        **{theirs: trunk[ours] for ours, (theirs, _, _) in _NUMBERS.items()},
        "num_key_value_heads": trunk["groups"],
        "head_dim": trunk["head_width"],
        "rope_theta": trunk["rope_base"],
        "rope_scaling": scaling,
        "tie_word_embeddings": trunk["tied"],
        "max_position_embeddings": options.positions,
        **{key: value for key, value in _FIXED.items() if value is not None},
        **{f"{name}_token_id": number for name, number in options.ids.items()},
        "torch_dtype": dtype,
    }


def is_release(config: Mapping[str, Any]) -> bool:
    """Recognises the config.json of a multimodal model of UniTok's release."""
    return "architectures" in config and config["architectures"] == [RELEASE]


def positions_of(config: Mapping[str, Any]) -> int:
    """Returns the longest row of pretraining that a config.json tells, or transformers' default.

    Raises:
      ConversionError: it is no number of positions.
    """
    return _number(config, "max_position_embeddings", Whole(1, 2**30), _POSITIONS)


def of_release(options: Options, dtype: str) -> dict[str, Any]:
    """Returns the config.json of a multimodal model for the release's code; see `from_options`."""
    config = from_options(options, dtype)
    return config | {"architectures": [RELEASE], "model_type": _RELEASE_TYPE}


def _architecture(config) -> Architecture:
    """Returns the architecture by its name, or by the model's type where no name is given."""
    names = config["architectures"] if "architectures" in config else None
    if names is None:
        types = {row.model_type: row for row in ARCHITECTURES.values()}
        name = config["model_type"] if "model_type" in config else None
        if isinstance(name, str) and name in types:
            return types[name]
    elif isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        name = names[0]
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
        if name == RELEASE:
            return ARCHITECTURES["LlamaForCausalLM"]
    else:
        name = names
    raise ConversionError(
        f"the architecture {show(name)} is not known; known: {', '.join(ARCHITECTURES)}"
    )


def _number(config, key, bound, default):
    """Returns a number of config.json; a null is as good as no key."""
    value = config[key] if key in config else None
    value = default if value is None else value
    if value is None:
        raise ConversionError(f"it lacks {key}")
    if not bound.allows(value):
        raise ConversionError(f"{key}={show(value)} must be {bound}")
    return value


def _flag(config, key) -> bool:
    value = config[key] if key in config else False
    if not isinstance(value, bool):
        raise ConversionError(f"{key}={show(value)} must be true or false")
    return value


def _check_heads(trunk, head_width):
    heads, groups = trunk["heads"], trunk["groups"]
    if heads % groups:
        raise ConversionError(
            f"num_key_value_heads={groups} does not divide num_attention_heads={heads}"
        )
    if head_width is None and trunk["width"] % heads:
        raise ConversionError(
            f"num_attention_heads={heads} does not divide hidden_size={trunk['width']}"
        )
    if trunk["head_width"] % 2:
        raise ConversionError(f"head_dim={trunk['head_width']} is odd: rotary positions need pairs")


def _rope(config) -> dict[str, Any]:
    """Returns base and scaling, by `rope_parameters` or the two keys of before transformers 5."""
    key = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    rope = config[key] if key in config and config[key] is not None else {}
    if not isinstance(rope, dict):
        raise ConversionError(f"{key}={show(rope)} must be an object")
    base = _number({**config, **rope}, "rope_theta", Real(1e12), _BASE)
    if base <= 0:
        raise ConversionError(f"rope_theta={show(base)} must be above 0")
    if {**config, **rope}.get("partial_rotary_factor") not in (None, 1):
        raise ConversionError("partial_rotary_factor: only heads that turn as a whole are built")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {"rope_base": float(base), "rope_scaling": dict(NO_SCALING)}
    if kind != "llama3":
        raise ConversionError(
            f"{key} of the type {show(kind)} is not known; known: default, llama3"
        )
    bounds = {"original": Whole(1, 2**30)}
    scaling = {
        ours: _number(rope, theirs, bounds.get(ours, Real(1e6)), None)
        for ours, theirs in _SCALING.items()
    }
    if scaling["factor"] < 1 or not 0 < scaling["low"] < scaling["high"]:
        raise ConversionError(
            f"{key}={show(rope)}: factor must be at least 1, and low_freq_factor above 0 and below "
            "high_freq_factor"
        )
    numbers = {key: float(value) for key, value in scaling.items()}
    return {"rope_base": float(base), "rope_scaling": numbers | {"original": scaling["original"]}}


def _ids(config, vocabulary) -> dict[str, int]:
    """Returns the special ids that config.json names; of several ends, the first."""
    found = {}
    for name in ("bos", "eos", "pad"):
        key = f"{name}_token_id"
        value = config[key] if key in config else None
        value = value[0] if isinstance(value, list) and value else value
        if value is None or value == -1:
            continue
        if not Whole(0, vocabulary - 1).allows(value):
            raise ConversionError(f"{key}={show(value)} is no id below vocab_size={vocabulary}")
        found[name] = value
    return found
