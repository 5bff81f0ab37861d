"""Language models of Hugging Face folders: weights, configuration and tokenizer, both ways."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unitok_jax.data import language_tokenizer
from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.models.limits import show
from unitok_jax.multimodal import limits
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.outputs import new_folder
from unitok_jax.system.paths import printable
from unitok_jax.weights import hub, llama_layout, load, shards, torch_layout
from unitok_jax.weights.llama_options import Options, from_options, to_options

FILES = (
    *(hub.CONFIG, shards.WEIGHTS, shards.INDEX, "model-*.safetensors"),
    *language_tokenizer.FILES,
)
"""Files of a folder, as patterns: what is fetched from the hub."""

_COMPUTED = ".rotary_emb.inv_freq"


class Folder(NamedTuple):
    """Language model of a folder, whose weights are not read yet."""

    path: pathlib.Path
    options: Options
    tokenizer: LanguageTokenizer

    @property
    def keys(self) -> dict[str, Any]:
        """Values of `config.model` that the folder decides; `vocabulary` has room for images."""
        return self.options.trunk | {"vocabulary": self.tokenizer.rows}


def open_folder(path, tokenizer=None, **special: int) -> Folder:
    """Reads configuration and tokenizer of a folder.

    Args:
      path: a folder, or `hf://owner/name`.
      tokenizer: a folder with the tokenizer, if `path` has none.
      **special: boi and eoi, as for `LanguageTokenizer`.

    Raises:
      FileNotFoundError: the folder, config.json or tokenizer.json is missing.
      ValueError: the architecture is unknown, code of the folder would have to run, or tokenizer
        and embeddings do not fit each other.
    """
    folder = load.local(path, FILES)
    if not folder.is_dir():
        raise FileNotFoundError(f"{printable(folder)} is no folder of a language model")
    options = read_options(folder)
    text = folder if tokenizer is None else load.local(tokenizer, FILES)
    rows = options.trunk["vocabulary"]
    return Folder(
        folder, options, language_tokenizer.read(text, rows=rows, ids=options.ids, **special)
    )


def read_options(folder: pathlib.Path) -> Options:
    """Reads config.json of a folder.

    Raises:
      FileNotFoundError: there is none.
      ConversionError: as `to_options`; the message names the file.
    """
    config = hub.read_config(folder / hub.CONFIG)
    try:
        return to_options(config)
    except ValueError as error:
        raise ConversionError(f"{printable(folder / hub.CONFIG)}: {error}") from error


def read(folder: Folder, model: Mapping[str, Any]) -> dict:
    """Reads the weights of a folder, for the language model of a multimodal one.

    Rows of ids that the folder lacks are the mean of those that it has.

    Args:
      folder: of the language model.
      model: `config.model`, with the values of `folder.keys`; `vocabulary` may be larger.

    Returns:
      The subtree `language` of the parameters, float32.

    Raises:
      ConversionError: a key of `model` differs from the folder's, all of which are named; or the
        weights do not fit config.json, all differences of which are named.
    """
    options = folder.options.trunk
    stored = options["vocabulary"]
    wrong = [
        f"model.{key}={show(model[key])} (the folder: {show(value)})"
        for key, value in options.items()
        if (model[key] < value if key == "vocabulary" else model[key] != value)
    ]
    if wrong:
        raise ConversionError(f"{printable(folder.path)} is another model: {', '.join(wrong)}")
    shapes = limits.abstract_params({**model, "vocabulary": stored})
    with shards.open_folder(folder.path) as state:
        state = without_computed(state)
        if model["tied"]:
            state.pop("lm_head.weight", None)
        language = {"language": shapes["language"]}
        try:
            params = torch_layout.from_torch(state, language, llama_layout.rows(model), {})
        except ValueError as error:
            raise ConversionError(f"{printable(folder.path)}: {error}") from error
    return _grown(params["language"], model["vocabulary"])


def write(
    path, model: Mapping[str, Any], params, tokenizer: LanguageTokenizer, positions: int, dtype: str
) -> None:
    """Writes the language model of a multimodal one as a Hugging Face folder, atomically.

    Args:
      path: a new or empty folder.
      model: `config.model`.
      params: the subtree `language` of the parameters.
      tokenizer: of the model.
      positions: longest row that the model was trained on.
      dtype: 'float32' or 'bfloat16', of the weights.

    Raises:
      ConversionError: the folder is not empty, or no known architecture has the model's flags.
      OSError: it cannot be written; the disk may be full.
    """
    special = tokenizer.special._asdict()
    ids = {key: special[key] for key in ("bos", "eos", "pad") if special[key] is not None}
    config = from_options(Options(dict(model), positions, ids), dtype)
    state = torch_layout.views({"language": params}, llama_layout.rows(model), {})
    with new_folder(path) as folder:
        shards.write(folder, state, dtype)
        language_tokenizer.write(folder, tokenizer)
        # Written last: a folder cut short by a kill lacks this file and is not read as a model.
        (folder / hub.CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def without_computed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays of a folder but for tables that are computed: old files hold them."""
    return {name: array for name, array in state.items() if not name.endswith(_COMPUTED)}


def _grown(language: dict, rows: int) -> dict:
    """Adds rows to the tables of ids: each the mean of those that are there."""
    language = dict(language)
    for name, axis in (("embedding", 0), ("kernel", 1)):
        if name in language and (missing := rows - language[name].shape[axis]):
            mean = language[name].mean(axis, keepdims=True, dtype=np.float64)
            more = np.repeat(mean.astype(np.float32), missing, axis)
            language[name] = np.concatenate([language[name], more], axis)
    return language
