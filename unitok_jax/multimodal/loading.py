"""Reads and writes a multimodal model: checkpoints, folders for the hub, and the release's folder.

Beside the weights lies the tokenizer of its text: in the folder itself or, for a run or a folder of
ours, in `LANGUAGE`.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax import trees
from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.data import language_tokenizer
from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.models.layers import l2_normalize
from unitok_jax.models.limits import show
from unitok_jax.multimodal import adapters, limits, release, trunk
from unitok_jax.multimodal.prompt import TEMPLATES, Turn, conversation, template_of
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.outputs import new_folder
from unitok_jax.system.paths import expand, printable
from unitok_jax.weights import document, hub, llama_layout, load, shards, torch_layout
from unitok_jax.weights.llama_options import Options, of_release, positions_of

TOKENIZER = "tokenizer of the codes"
"""Fact of a run's data: the hash of the tokenizer of images."""

LANGUAGE = "language"
"""Folder with the tokenizer of text, beside `checkpoints`."""

POSITIONS = 2048
"""Longest row of the release's training."""


class Form(NamedTuple):
    """Form of the conversations that a model was trained on: keys of `config.data`."""

    template: str = ""  # a key of `prompt.TEMPLATES`; '': the one that fits the tokenizer
    bare_images: bool = False  # no ids stand around images


class Weights(NamedTuple):
    """A multimodal model's weights, and what they belong to."""

    config: ConfigDict  # with the key `model`
    params: Any  # nested dict of float32 arrays
    tokenizer_hash: (
        str | None
    )  # of the tokenizer whose codes it reads and draws; None: not recorded
    text: LanguageTokenizer
    form: Form = Form()
    notes: tuple[str, ...] = ()  # what the folder lacks or left to choose, a line each
    positions: int = POSITIONS  # longest row that it was trained on, as far as the folder tells


def read(
    path,
    weights: str | None = None,
    *,
    text=None,
    grid: tuple[int, int] | None = None,
) -> Weights:
    """Reads a multimodal model from a folder of any kind.

    Args:
      path: a workdir, a checkpoint folder, a folder for the Hugging Face hub, `hf://owner/name`, or
        a folder as of the release.
      weights: 'ema' or 'raw', of a run with an average; None: the average if there is one.
      text: a folder with the tokenizer of text, if `path` holds none.
      grid: rows and columns of visual tokens, for a folder of the release, which does not tell
        them; 16 x 16 if not given. Compared where a folder tells them.

    Raises:
      FileNotFoundError: the path, or the tokenizer of text, does not exist.
      ValueError: the path is of another kind, such as a generator, which the message names; or the
        weights do not fit their configuration.
    """
    path = load.local(path, trunk.FILES)
    load.check_choice(path, weights)
    if not path.is_dir():
        raise ConversionError(
            f"{printable(path)} is a file; a multimodal model is a folder: of its weights and the "
            "tokenizer of its text"
        )
    given = None if text is None else load.local(text, trunk.FILES)
    if not hub.is_folder(path):
        found = _read_run(path, weights, given)
    else:
        document.check_product(path / hub.CONFIG, "multimodal", hub.product_of(path))
        config = hub.read_config(path / hub.CONFIG)
        if "library_name" in config:
            found = _read_ours(path, config, given or path)
        else:
            found = _read_release(path, config, given or path, grid)
    if grid is not None and tuple(grid) != found.config.model.grid:
        raise ConversionError(
            f"grid={tuple(grid)} was given, but {printable(path)} has "
            f"model.grid={found.config.model.grid}"
        )
    return found


def _read_run(path, weights, given):
    with load.open_run(path) as (checkpoints, step):
        meta = checkpoints.meta(step)
        saved, data = meta["config"], meta["data"]
        where = checkpoints.folder if step is None else checkpoints.folder / str(step)
        document.check_product(where, "multimodal", differences.value(saved, "product"))
        model = _model(saved["model"])
        shapes = _shapes(where, model, differences.value(saved, "optim.lora_rank"))
        params = load.restore_params(checkpoints, step, shapes, weights)
        adapters.merge(params)
        beside = checkpoints.folder.parent / LANGUAGE
        text = language_tokenizer.read(given or beside, rows=model["vocabulary"])
        tokenizer = data.get(TOKENIZER) or None  # '' of a run on text alone
        form = _form(where, saved["data"], text)
        # A short row of ours does not shorten what the language model was trained on before.
        positions = max(POSITIONS, saved["data"].get("length", POSITIONS))
        return Weights(_config(model), params, tokenizer, text, form, positions=positions)


class Named(NamedTuple):
    """Tokenizer of images that a run names."""

    path: str
    config: ConfigDict  # this and `params` as `weights.load.read` returns them
    params: Any
    hash: str  # `Tokenizer.hash`


def tokenizer_of(path) -> Named | None:
    """Reads the tokenizer that a run names, if that of its codes is there.

    Args:
      path: a workdir or a checkpoint folder in one; any other place has none.

    Returns:
      That of `data.tokenizer`; None if it is not set, does not exist here, or holds another
      tokenizer by now.

    Raises:
      ValueError: the folder is of no kind that holds weights.
    """
    if str(path).startswith(hub.SCHEME):
        return None
    folder = load.local(path)
    if not folder.is_dir() or hub.is_folder(folder):
        return None
    with load.open_run(folder) as (checkpoints, step):
        meta = checkpoints.meta(step)
    named, made_by = meta["config"]["data"].get("tokenizer"), meta["data"].get(TOKENIZER)
    if differences.value(meta["config"], "product") != "multimodal" or not made_by:
        return None
    if not named:
        return None
    try:
        return Named(named, *load.read_maker(named, made_by, "the run"), made_by)
    except (ValueError, OSError, ImportError):
        return None


def _read_ours(path, config, text):
    document.check(config, printable(path / hub.CONFIG), "multimodal")
    model = _model(config["model"])
    shapes = _shapes(path / hub.CONFIG, model)
    tokenizer = language_tokenizer.read(text, rows=model["vocabulary"])
    params = _arrays(path, model, shapes, config["layout"])
    form = _form(path / hub.CONFIG, config, tokenizer)
    model, told = _config(model), positions_of(config)
    return Weights(model, params, config["tokenizer"], tokenizer, form, positions=told)


def _read_release(path, config, text, grid):
    options = trunk.read_options(path)
    tokenizer = language_tokenizer.read(text, rows=options.trunk["vocabulary"], ids=options.ids)
    told = config.get("dtype") or config.get("torch_dtype")
    dtype = "bfloat16" if told in ("float16", "bfloat16") else "float32"
    with shards.open_folder(path) as state:
        try:
            model, notes = release.infer(state, options, dtype, grid)
        except ValueError as error:
            raise ConversionError(f"{printable(path)}: {error}") from error
    if tokenizer.rows > model["vocabulary"]:
        raise ConversionError(
            f"{printable(path)}: the ids of images, {tokenizer.special[3:]}, are behind its "
            f"{model['vocabulary']} rows: its text has another tokenizer"
        )
    params = _arrays(path, model, _shapes(path, model), "public")
    notes += ("its codebooks are a tokenizer's, which is not named: --tokenizer=PATH binds it",)
    form = Form("vicuna", True)
    return Weights(_config(model), params, None, tokenizer, form, notes, options.positions)


def _arrays(path, model, shapes, layout):
    with shards.open_folder(path) as state:
        of_layout = {}
        if layout == "public":
            fixed = llama_layout.fixed_entries(shapes)
            of_layout = {"rows": llama_layout.rows(model), "fixed": fixed}
        try:
            return hub.arrays(layout, trunk.without_computed(state), shapes, **of_layout)
        except ValueError as error:
            raise ConversionError(f"{printable(path)}: {error}") from error


def write(path, weights: Weights) -> None:
    """Writes a folder of ours, as a run leaves it, atomically; it must be new or empty.

    Raises:
      ConversionError: the folder is not empty, or the path has a suffix, as of a file.
      OSError: it cannot be written; the disk may be full.
    """
    path = expand(path)
    if path.suffix:
        raise ConversionError(
            f"{printable(path)}: a multimodal model is a folder, of its weights and the tokenizer "
            "of its text: give a path without a suffix"
        )
    data = weights.form._asdict()
    config = {"product": "multimodal", **weights.config.to_dict(), "data": data}
    facts = {TOKENIZER: weights.tokenizer_hash} if weights.tokenizer_hash else {}
    with new_folder(path) as folder:
        (folder / LANGUAGE).mkdir()
        language_tokenizer.write(folder / LANGUAGE, weights.text)
        with Checkpoints(folder, create=True) as checkpoints:
            checkpoints.save(0, {"params": weights.params}, ConfigDict(config), {}, facts)


def write_hub(path, weights: Weights) -> None:
    """Writes a folder for the hub atomically, which must be new or empty.

    A model that the release's code can build is written so that this code reads it too: with its
    names of arrays, and its keys of config.json beside ours.

    Args:
      path: of the folder.
      weights: the model.

    Raises:
      ConversionError: the folder is not empty.
      OSError: it cannot be written; the disk may be full.
    """
    model, params = weights.config.model.to_dict(), weights.params
    keys = {}
    if release.is_buildable(model):
        layout, rows = "public", llama_layout.rows(model)
        state = torch_layout.views(params, rows, llama_layout.fixed_entries(params))
        special = weights.text.special._asdict()
        ids = {key: special[key] for key in ("bos", "eos", "pad") if special[key] is not None}
        keys = of_release(Options(model, weights.positions, ids), "float32")
    else:
        layout = "unitok_jax"
        state = trees.flatten(params)
    content = document.of_product("multimodal", layout, model, weights.tokenizer_hash)
    content |= weights.form._asdict()
    with new_folder(path) as folder:
        shards.write(folder, state, "float32")
        language_tokenizer.write(folder, weights.text)
        (folder / "README.md").write_text(_card(weights))
        # Written last: a folder cut short by a kill lacks this file and is not read as a model.
        (folder / hub.CONFIG).write_text(json.dumps(keys | content, indent=2) + "\n")


def bind(weights: Weights, config: ConfigDict, params, path) -> Weights:
    """Binds the tokenizer of the codes; one of other codebooks than the model's is refused.

    Args:
      weights: the model.
      config, params: of the tokenizer, as `load.read` returns them.
      path: of the tokenizer, for messages.

    Raises:
      ConversionError: the codes are of another tokenizer.
    """
    model = weights.config.model
    for key in ("num_codebooks", "vocab_size", "latent_width"):
        if config.model[key] != model[key]:
            raise ConversionError(
                f"--tokenizer={path} has model.{key}={config.model[key]}, and the multimodal model "
                f"{model[key]}: its codes are of another"
            )
    if not is_codebook_of(weights.params["image"]["quantizer"]["codebook"], params):
        raise ConversionError(
            f"--tokenizer={path} has other codebooks than the multimodal model, whose codes are of "
            "another tokenizer"
        )
    hash = weights_hash(config.model.to_dict(), params)
    if weights.tokenizer_hash not in (None, hash):
        raise ConversionError(
            f"--tokenizer={path} has the hash {hash}, and the codes of the multimodal model are of "
            f"the tokenizer {weights.tokenizer_hash}"
        )
    return weights._replace(tokenizer_hash=hash)


def is_codebook_of(codebook, tokenizer) -> bool:
    """Returns True if codes by the codebooks of a multimodal model are those of a tokenizer.

    Args:
      codebook: (K, V, width), of the model.
      tokenizer: parameters of the tokenizer.
    """
    theirs = tokenizer["quantizer"].get("codebook")
    if theirs is None or theirs.shape != codebook.shape:
        return False
    # Rounded to 16 bits in the release's files; only the directions of rows are used.
    return bool(np.abs(l2_normalize(theirs) - l2_normalize(codebook)).max() <= 1e-2)


def facts(weights: Weights) -> dict[str, str]:
    """Describes a multimodal model in a few words a line, for people: name -> value."""
    model, text = weights.config.model, weights.text
    rows, columns = model.grid
    special = {key: number for key, number in text.special._asdict().items() if number is not None}
    return {
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(weights.params)):,}",
        "language model": f"{model.depth} blocks of width {model.width}",
        "text ids": f"{model.vocabulary:,}",
        "special ids": ", ".join(f"{key} {number}" for key, number in special.items()),
        "codes of an image (K x N)": f"{model.num_codebooks} x {rows * columns}",
        "grid": f"{rows} x {columns}",
        "rows of each codebook (V)": f"{model.vocab_size // model.num_codebooks:,}",
        "blocks of the depth head": f"{model.head_depth}",
        "conversations": weights.form.template or template_of(text),
        "hash": weights_hash(model.to_dict(), weights.params),
        "tokenizer.hash": weights.tokenizer_hash or "not recorded",
    }


def _shapes(path, model, lora_rank=0):
    try:
        return limits.abstract_params(model, lora_rank)
    except ValueError as error:
        raise ConversionError(f"{printable(path)}: {error}") from error


def _config(model: Mapping) -> ConfigDict:
    return ConfigDict({"model": model})


def _model(saved: Mapping) -> dict:
    """Returns a model whose grid is a tuple; JSON has lists."""
    grid = saved["grid"] if "grid" in saved else None
    return {**saved, "grid": tuple(grid)} if isinstance(grid, list) else dict(saved)


def _form(path, keys: Mapping, text: LanguageTokenizer) -> Form:
    """Returns the form that a configuration names, of which older ones have no key."""
    form = Form(**{key: keys[key] for key in Form._fields if key in keys})
    if form.template not in ["", *TEMPLATES] or not isinstance(form.bare_images, bool):
        raise ConversionError(
            f"{printable(path)}: template={show(form.template)} and bare_images="
            f"{show(form.bare_images)} must be '' or one of {', '.join(TEMPLATES)}, and a bool"
        )
    try:
        conversation([Turn("?", "!")], text, form.template or None)
    except ValueError as error:
        raise ConversionError(f"{printable(path)}: {error}") from error
    return form


def _card(weights: Weights) -> str:
    table = "\n".join(f"| {name} | {value} |" for name, value in facts(weights).items())
    return f"""---
library_name: {document.LIBRARY}
tags:
- multimodal
- unitok
- jax
# license: state one before you publish, such as apache-2.0
---

# Multimodal model on UniTok's codes, for unitok_jax

A language model that answers questions about images and draws them, as codes that the tokenizer of
`tokenizer.hash` makes and decodes ([UniTok, arXiv 2502.20321](https://arxiv.org/abs/2502.20321)).

| | |
|---|---|
{table}
"""
