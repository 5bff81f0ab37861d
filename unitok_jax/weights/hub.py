"""Folder of a model for the Hugging Face hub: config.json, model.safetensors and README.md."""

import json
import pathlib
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax import trees
from unitok_jax.checkpoints import reader
from unitok_jax.codes import STRIDE
from unitok_jax.models.unitok import abstract_model
from unitok_jax.system import foreign_json
from unitok_jax.system.foreign_files import ConversionError, check_file
from unitok_jax.system.outputs import new_folder
from unitok_jax.system.paths import printable
from unitok_jax.weights import document, files, llama_options, torch_layout, torch_options
from unitok_jax.weights.shards import INDEX, WEIGHTS

SCHEME = "hf://"
CONFIG = "config.json"
FILES = (CONFIG, WEIGHTS, INDEX, "README.md")
"""Files of a folder that are downloaded: never a pickle."""

_MOST_CONFIG = 1 << 20  # maximum bytes of a config.json; those of this package have a thousand


def is_folder(path: pathlib.Path) -> bool:
    """Returns True for a folder for the hub, complete or not, that is not a workdir."""
    if (path / "checkpoints").exists():
        return False
    return any((path / name).exists() for name in (CONFIG, WEIGHTS, INDEX)) or bool(_pickles(path))


def fetch(name: str, patterns: Sequence[str] = FILES) -> pathlib.Path:
    """Returns the local cache folder of `hf://owner/name` or `hf://owner/name@revision`.

    Files missing in the cache are downloaded, of those that `patterns` name: never pickles. The
    environment variables of huggingface_hub apply: HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN.

    Raises:
      ConversionError: the name or revision does not exist, access is denied, or the model is not
        in the cache and the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    match = re.fullmatch(rf"{SCHEME}([\w.-]+/[\w.-]+)(?:@([^@\s]+))?", name)
    if not match:
        raise ConversionError(f"{name}: expected hf://owner/name or hf://owner/name@revision")
    repo, revision = match.groups()
    try:
        folder = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=patterns)
    except errors.HFValidationError as error:
        raise ConversionError(f"{name} is no name of the hub: {_first_line(error)}") from error
    except errors.RevisionNotFoundError as error:
        raise ConversionError(f"{name}: {repo} has no revision {revision}") from error
    except errors.RepositoryNotFoundError as error:
        raise ConversionError(
            f"{name}: the hub has no such model, or HF_TOKEN gives no access to it"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ConversionError(
            f"{name} is not in the cache ({constants.HF_HUB_CACHE}) and the hub "
            "cannot be reached: is there a network, is HF_HUB_OFFLINE set? A folder that was "
            "downloaded elsewhere can be given by its path"
        ) from error
    # Errors of the hub, as opposed to disk errors, and of a cache that was modified have no common
    # base class.
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, errors.HfHubHTTPError):
            raise
        raise ConversionError(f"{name} cannot be fetched: {_first_line(error)}") from error
    return pathlib.Path(folder)


def read(folder, heads: dict[str, int]) -> tuple[ConfigDict, dict]:
    """Reads configuration and parameters of a folder for the hub; see `load.read`.

    Raises:
      ConversionError: files are missing, belong to another library or version, or do not fit each
        other.
    """
    folder = pathlib.Path(folder)
    saved = read_document(folder, "tokenizer")
    try:
        _, abstract = abstract_model(saved["model"])
        size = torch_options.image_size(saved["image_size"], "image_size")
    except ValueError as error:
        raise ConversionError(f"{printable(folder / CONFIG)}: {error}") from error
    config = ConfigDict({"model": saved["model"], "data": {"image_size": size}})
    _, state = files.read_state(folder / WEIGHTS)
    try:
        torch_options.check_heads(config.model, heads)
        return config, arrays(saved["layout"], state, abstract)
    except ValueError as error:
        raise ConversionError(f"{folder / WEIGHTS} does not fit {CONFIG}: {error}") from error


def arrays(layout: str, state: Mapping, abstract, **of_layout) -> dict:
    """Converts the arrays of a file to parameters.

    Args:
      layout: 'public' or 'unitok_jax', whose names the arrays have.
      state: name -> array.
      abstract: nested dict of `jax.ShapeDtypeStruct` of the model.
      **of_layout: as for `torch_layout.from_torch`.

    Raises:
      ValueError: the arrays do not fit the model; the message lists every difference. Or one
        holds values that are not finite.
    """
    if layout == "public":
        return torch_layout.from_torch(state, abstract, **of_layout)
    named = trees.flatten(abstract)
    reader.refuse(trees.differences(state, named), "the arrays do not fit the model")
    leaves = [torch_layout.finite(name, state[name]) for name in named]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def write(folder, config: ConfigDict, params) -> None:
    """Writes a folder for the hub atomically; the folder must be new or empty.

    The arrays have the names of the public layout if that can express the model, else those of
    this package; `layout` in config.json has the layout used.

    Raises:
      ConversionError: the folder is not empty.
      OSError: the folder cannot be written; the disk may be full.
    """
    try:
        metadata = {"args": json.dumps(torch_options.from_config(config)), "format": "pt"}
        layout, state = "public", torch_layout.to_torch(params)
    except ConversionError:
        layout, metadata = "unitok_jax", None
        state = {k: np.array(v, order="C") for k, v in trees.flatten(params).items()}
    size, library = list(config.data.image_size), document.LIBRARY
    values = (library, document.FORMAT, layout, size, config.model.to_dict())
    content = dict(zip(document.KEYS, values, strict=True))
    write_folder(folder, content, state, metadata, _card(config, params))


def write_folder(folder, content: Mapping, state: Mapping, metadata, card: str) -> None:
    """Writes the three files of a folder atomically: weights, README.md and config.json."""
    with new_folder(folder) as folder:
        files.write_safetensors(state, folder / WEIGHTS, metadata)
        (folder / "README.md").write_text(card)
        # Written last: a folder cut short by a kill lacks this file and is not read as a model.
        (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def read_document(folder: pathlib.Path, product: str) -> dict:
    """Reads and checks config.json of a folder that has all its files.

    Args:
      folder: the folder.
      product: what it must be of, a key of `document`.

    Raises:
      ConversionError: files are missing, or belong to another library, version or product.
    """
    document.check_product(folder / CONFIG, product, product_of(folder))
    config = _read_config(folder / CONFIG)
    document.check(config, printable(folder / CONFIG), product)
    return config


def product_of(folder: pathlib.Path) -> str:
    """Tells what a folder holds the weights of.

    Returns:
      'tokenizer', 'generator' or 'multimodal', the last of the release too; or 'language', a
      language model of another library.
    """
    path = folder / CONFIG
    if path.is_file() and any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        config = read_config(path)
        if llama_options.is_release(config) or document.product_of(config) == "multimodal":
            return "multimodal"  # in one or several files
        if _is_of_transformers(config):
            return "language"
    _check_files(folder)
    return document.product_of(_read_config(path))


def _check_files(folder):
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        raise ConversionError(
            f"{folder} holds weights in several files ({INDEX}); one {WEIGHTS} is read: load them "
            "with the library that wrote them and save them as one file"
        )
    pickles = _pickles(folder)
    config = folder / CONFIG
    if pickles and config.is_file() and _is_of_transformers(read_config(config)):
        raise ConversionError(
            f"{folder} holds a language model as {', '.join(pickles[:2])}: a pickle can run code "
            "when it is opened, so none is read. If you trust its origin, load it with "
            "transformers and save it anew: save_pretrained(NEW_FOLDER) writes .safetensors"
        )
    if pickles:
        raise ConversionError(
            f"{folder} holds no {WEIGHTS}, only {', '.join(pickles)}: a pickle can run code when "
            "it is opened by a library that trusts it, so none is read from such a folder. If you "
            f"trust its origin: unitok convert {folder / pickles[0]} NEW_FOLDER "
            "--format=hub"
        )
    raise ConversionError(
        f"{folder} holds no {WEIGHTS} (and no folder 'checkpoints', as a workdir has once a "
        "checkpoint was saved). Pickles of the hub are not fetched: download one and convert it "
        "with unitok convert FILE NEW_FOLDER --format=hub"
    )


def _read_config(path):
    if not path.is_file():
        raise ConversionError(
            f"{path.parent} holds {WEIGHTS} but no {CONFIG}; give the file itself as "
            f"{path.parent / WEIGHTS}, with --heads, --quant_heads and --text_heads if it needs "
            "them"
        )
    config = read_config(path)
    document.check_library(config, printable(path))
    return config


def read_config(path: pathlib.Path) -> dict:
    """Reads a config.json of any library.

    Raises:
      FileNotFoundError: there is none.
      ConversionError: it is no JSON object, or larger than a configuration.
    """
    check_file(path)
    with open(path, "rb") as file:
        content = file.read(_MOST_CONFIG + 1)
    if len(content) > _MOST_CONFIG:
        raise ConversionError(f"{path} has over {_MOST_CONFIG} bytes, more than a configuration")
    try:
        return foreign_json.parse_object(content, printable(path))
    except ValueError as error:
        raise ConversionError(str(error)) from error


def _is_of_transformers(config: dict) -> bool:
    return "architectures" in config and "library_name" not in config


def _pickles(folder):
    found = sorted(path.name for path in folder.iterdir() if path.suffix in files.TORCH)
    return [name for name in found if name not in ("optimizer.bin", "training_args.bin")]


def _first_line(error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def facts(config: ConfigDict, params) -> dict[str, str]:
    """Describes a tokenizer in a few words a line, for people: name -> value."""
    model = config.model
    height, width = config.data.image_size
    tokens = model.num_query + height // STRIDE * (width // STRIDE)
    return {
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}",
        "image size": f"{height} x {width}",
        "codes of an image (K x N)": f"{model.num_codebooks} x {tokens}",
        "rows of each codebook (V)": f"{model.vocab_size // model.num_codebooks:,}",
        "quantizer": model.quantizer,
        "joint space (E)": f"{model.embed_dim}",
        "tokenizer.hash": reader.weights_hash(model.to_dict(), params),
    }


def _card(config, params) -> str:
    model, (height, width) = config.model, config.data.image_size
    table = "\n".join(f"| {name} | {value} |" for name, value in facts(config, params).items())
    return f"""---
library_name: {document.LIBRARY}
pipeline_tag: image-feature-extraction
tags:
- image-tokenizer
- unitok
- jax
# license: state one before you publish, such as apache-2.0
---

# UniTok ({model.size}), for unitok_jax

A tokenizer that turns images into codes and back, with image and text features in one space
([UniTok, arXiv 2502.20321](https://arxiv.org/abs/2502.20321)).

```python
import unitok_jax
tokenizer = unitok_jax.load("hf://OWNER/NAME")  # or the path of this folder
codes = tokenizer.encode(images)  # uint8 (B, {height}, {width}, 3) -> int32 (B, K, N)
```

| | |
|---|---|
{table}

Codes mean the same to all tokenizers that have this hash.
"""
