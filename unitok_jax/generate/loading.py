"""Reads and writes a generator: checkpoints, folders for the hub, and files of the release."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax import trees
from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.generate import limits, release
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.outputs import new_folder
from unitok_jax.system.paths import expand, printable
from unitok_jax.weights import document, files, hub, load, pretrained, torch_files, torch_layout
from unitok_jax.weights.generator_layout import ROWS, is_generator

TOKENIZER = "tokenizer of the codes"
"""Fact of a run's data: the hash of the tokenizer."""
FEATURES = "digest of the features"
"""Fact of a run's data: the digest of the stored features of texts, if those were read."""


class Weights(NamedTuple):
    """A generator's weights, and what they belong to."""

    config: ConfigDict  # with the key `model`
    params: Any  # nested dict of float32 arrays
    tokenizer_hash: str | None  # of the tokenizer whose codes it draws; None: not recorded
    notes: tuple[str, ...] = ()  # what the file lacks or left to choose, a line each
    stored_features: str | None = None  # digest of those of texts; None: it was trained on none


def read(
    path,
    weights: str | None = None,
    *,
    grid: tuple[int, int] | None = None,
    classes: int | None = None,
) -> Weights:
    """Reads a generator from `path`, of any kind.

    Args:
      path: a workdir, a checkpoint folder, a folder for the Hugging Face hub, `hf://owner/name`, or
        a .pth, .pt, .ckpt, .bin or .safetensors file.
      weights: 'ema' or 'raw', where there are both: a run, or a training checkpoint of the release;
        None: the average if there is one.
      grid: rows and columns of tokens, for a file of the release that does not tell them; 16 x 16
        if not given. Compared where the file tells them.
      classes: number of classes, for a file that does not tell them; compared as `grid`.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: the path is of another kind, such as a tokenizer, which the message names; or the
        weights do not fit their configuration.
      ImportError: a PyTorch file without PyTorch.
    """
    path = load.local(path)
    load.check_choice(path, weights)
    if not path.is_dir():
        return from_content(path, files.read_content(path, weights), grid=grid, classes=classes)
    if hub.is_folder(path):
        content = hub.read_document(path, "generator")
        state = files.read_state(path / hub.WEIGHTS)[1]
        found = _from_document(path / hub.WEIGHTS, content, state)
    else:
        found = _read_run(path, weights)
    _compare(path, found.config.model, grid, classes)
    return found


def _read_run(path, weights):
    with load.open_run(path) as (checkpoints, step):
        meta = checkpoints.meta(step)
        saved, data = meta["config"], meta["data"]
        where = checkpoints.folder if step is None else checkpoints.folder / str(step)
        document.check_product(where, "generator", differences.value(saved, "product"))
        model = _model(saved["model"])
        try:
            shapes = limits.abstract_params(model)
        except ValueError as error:
            raise ConversionError(f"{printable(where)}: {error}") from error
        params = load.restore_params(checkpoints, step, shapes, weights)
        facts = {"tokenizer_hash": TOKENIZER, "stored_features": FEATURES}
        found = {name: data[fact] if fact in data else None for name, fact in facts.items()}
        return Weights(_config(model), params, **found)


def from_content(
    path,
    content: torch_files.Content,
    *,
    grid: tuple[int, int] | None = None,
    classes: int | None = None,
) -> Weights:
    """Converts the content of a file to a generator; the arguments are those of `read`."""
    args, state, weights = content
    if args and "product" in args:
        document.check(args, f"{printable(path)}: the metadata entry 'args'", "generator")
        found = _from_document(path, args, state)
        _compare(path, found.config.model, grid, classes)
        return found
    if not is_generator(args, state):
        what = pretrained.recognise(state).what
        if what == pretrained.UNITOK:
            document.check_product(path, "generator", "tokenizer")
        names = ", ".join(map(printable, sorted(state)[:3]))
        raise ConversionError(f"{printable(path)} seems to be {what} (with {names}), no generator")
    try:
        model, *rest = release.infer(state, args, grid=grid, classes=classes)
        params = torch_layout.from_torch(state, limits.abstract_params(model), ROWS, {})
    except ValueError as error:
        raise ConversionError(f"{printable(path)}: {error}") from error
    found = Weights(_config(model), params, *rest)
    if weights == "ema":
        note = "it holds an average, which is taken; --weights=raw: the trained weights"
        found = found._replace(notes=(*found.notes, note))
    return found


def write(path, weights: Weights) -> None:
    """Writes a generator atomically, in the format that `path` implies; see `read`.

    Args:
      path: an existing file is replaced, an existing folder must be empty.
      weights: the generator.

    Raises:
      ValueError: unknown suffix, a model that the release cannot build, or a folder that is not
        empty.
      OSError: the path cannot be written; the disk may be full.
      ImportError: a PyTorch file without PyTorch.
    """
    path, (config, params, tokenizer, _, features) = expand(path), weights
    if path.suffix == ".safetensors":
        content, state = _document(weights)
        files.write_safetensors(state, path, {"args": json.dumps(content)})
    elif path.suffix in files.TORCH:
        args = release.to_args(config.model.to_dict(), tokenizer, features)
        torch_files.write(path, args, torch_layout.to_torch(params, ROWS, {}), ("model",))
    elif path.suffix:
        raise ConversionError(f"{printable(path)}: {files.kinds()}")
    else:
        config = ConfigDict({"product": "generator", **config.to_dict(), "data": {}})
        facts = {TOKENIZER: tokenizer, FEATURES: features}
        data = {fact: value for fact, value in facts.items() if value}
        with new_folder(path) as folder, Checkpoints(folder, create=True) as checkpoints:
            checkpoints.save(0, {"params": params}, config, {}, data)


def write_hub(folder, weights: Weights) -> None:
    """Writes a folder for the hub atomically, as `hub.write`; the folder must be new or empty."""
    content, state = _document(weights)
    hub.write_folder(folder, content, state, {"format": "pt"}, _card(weights))


def _from_document(path: pathlib.Path, content: Mapping, state: Mapping) -> Weights:
    model = _model(content["model"])
    try:
        shapes = limits.abstract_params(model)
        params = hub.arrays(content["layout"], state, shapes, rows=ROWS, fixed={})
    except ValueError as error:
        raise ConversionError(f"{printable(path)}: {error}") from error
    return Weights(
        _config(model), params, content["tokenizer"], stored_features=content.get("stored_features")
    )


def _document(weights: Weights) -> tuple[dict, dict]:
    """Returns the document and the arrays of a file: under public names where those suffice."""
    try:
        layout, state = "public", torch_layout.to_torch(weights.params, ROWS, {})
    except torch_layout.LayoutError:
        layout = "unitok_jax"
        state = {k: np.array(v, order="C") for k, v in trees.flatten(weights.params).items()}
    model = weights.config.model.to_dict()
    content = document.of_product("generator", layout, model, weights.tokenizer_hash)
    if weights.stored_features:
        content["stored_features"] = weights.stored_features
    return content, state


def _config(model: Mapping) -> ConfigDict:
    return ConfigDict({"model": model})


def _model(saved: Mapping) -> dict:
    """Returns a model whose grid is a tuple; JSON has lists."""
    grid = saved["grid"] if "grid" in saved else None
    return {**saved, "grid": tuple(grid)} if isinstance(grid, list) else dict(saved)


def _compare(path, model, grid, classes):
    for key, given in (("grid", grid and tuple(grid)), ("classes", classes)):
        if given is not None and given != model[key]:
            raise ConversionError(
                f"{key}={given} was given, but {printable(path)} has model.{key}={model[key]}"
            )


def facts(weights: Weights) -> dict[str, str]:
    """Describes a generator in a few words a line, for people: name -> value."""
    model = weights.config.model
    rows, columns = model.grid
    null = "one null class" if model.null_class else "no null class"
    prompts = f"{model.classes} classes, {null}" if model.prompt == "class" else "texts"
    if weights.stored_features:
        prompts += f", by stored features ({weights.stored_features})"
    return {
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(weights.params)):,}",
        "prompts": prompts,
        "codes of an image (K x N)": f"{model.num_codebooks} x {rows * columns}",
        "grid": f"{rows} x {columns}",
        "rows of each codebook (V)": f"{model.vocab_size // model.num_codebooks:,}",
        "blocks of the depth head": f"{model.head_depth}",
        "hash": weights_hash(model.to_dict(), weights.params),
        "tokenizer.hash": weights.tokenizer_hash or "not recorded",
    }


def _card(weights: Weights) -> str:
    model = weights.config.model
    drawn = "labels=[0]" if model.prompt == "class" else "features=features, valid=valid"
    shape = f"1, {model.num_codebooks}, {model.grid[0] * model.grid[1]}"
    table = "\n".join(f"| {name} | {value} |" for name, value in facts(weights).items())
    return f"""---
library_name: {document.LIBRARY}
tags:
- autoregressive
- unitok
- jax
# license: state one before you publish, such as apache-2.0
---

# Generator ({model.size}) on UniTok's codes, for unitok_jax

An autoregressive model that draws codes, which the tokenizer that made its own decodes to images
([UniTok, arXiv 2502.20321](https://arxiv.org/abs/2502.20321)).

```python
import unitok_jax
generator = unitok_jax.load_generator("hf://OWNER/NAME")  # or the path of this folder
codes = generator.sample({drawn}, key=0)  # int32 ({shape})
images = unitok_jax.load(TOKENIZER).decode(codes)
```

| | |
|---|---|
{table}

Codes of another tokenizer than that of `tokenizer.hash` mean nothing to it.
"""
