"""Folder of a model for the Hugging Face hub: config.json, model.safetensors and README.md."""

import json
import pathlib
import re

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax import trees
from unitok_jax.checkpoints import reader
from unitok_jax.codes import STRIDE
from unitok_jax.models.limits import show
from unitok_jax.models.unitok import abstract_model
from unitok_jax.system import foreign_json
from unitok_jax.system.foreign_files import ConversionError, check_file
from unitok_jax.system.outputs import new_folder
from unitok_jax.system.paths import printable
from unitok_jax.weights import files, torch_layout, torch_options

SCHEME = "hf://"
LIBRARY = "unitok_jax"
FORMAT = 1  # format version of config.json
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_FILES = (CONFIG, WEIGHTS, INDEX, "README.md")  # files to download: never a pickle
_KEYS = ("library_name", "format_version", "layout", "image_size", "model")
_LAYOUTS = ("public", "unitok_jax")
_MOST_CONFIG = 1 << 20  # maximum bytes of a config.json; those of this package have a thousand


def is_folder(path: pathlib.Path) -> bool:
    """Returns True for a folder for the hub, complete or not, that is not a workdir."""
    if (path / "checkpoints").exists():
        return False
    return any((path / name).exists() for name in (CONFIG, WEIGHTS, INDEX)) or bool(_pickles(path))


def fetch(name: str) -> pathlib.Path:
    """Returns the local cache folder of `hf://owner/name` or `hf://owner/name@revision`.

    Files missing in the cache are downloaded, except pickles. The environment variables of
    huggingface_hub apply: HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN.

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
        folder = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=_FILES)
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
    _check_files(folder)
    saved = _read_config(folder / CONFIG)
    try:
        _, abstract = abstract_model(saved["model"])
        size = torch_options.image_size(saved["image_size"], "image_size")
    except ValueError as error:
        raise ConversionError(f"{printable(folder / CONFIG)}: {error}") from error
    config = ConfigDict({"model": saved["model"], "data": {"image_size": size}})
    _, state = files.read_state(folder / WEIGHTS)
    try:
        torch_options.check_heads(config.model, heads)
        if saved["layout"] == "public":
            return config, torch_layout.from_torch(state, abstract)
        named = trees.flatten(abstract)
        reader.refuse(trees.differences(state, named), "the arrays do not fit the model")
    except ValueError as error:
        raise ConversionError(f"{folder / WEIGHTS} does not fit {CONFIG}: {error}") from error
    arrays = [np.asarray(state[name], np.float32) for name in named]
    return config, jax.tree.unflatten(jax.tree.structure(abstract), arrays)


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
    values = (LIBRARY, FORMAT, layout, list(config.data.image_size), config.model.to_dict())
    text = json.dumps(dict(zip(_KEYS, values, strict=True)), indent=2)
    with new_folder(folder) as folder:
        files.write_safetensors(state, folder / WEIGHTS, metadata)
        (folder / "README.md").write_text(_card(config, params))
        # Written last: a folder cut short by a kill lacks this file and is not read as a model.
        (folder / CONFIG).write_text(text + "\n")


def _check_files(folder):
    if (folder / WEIGHTS).is_file():
        return
    if (folder / INDEX).is_file():
        raise ConversionError(
            f"{folder} holds weights in several files ({INDEX}); one {WEIGHTS} is read: load them "
            "with the library that wrote them and save them as one file"
        )
    pickles = _pickles(folder)
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
    check_file(path)
    with open(path, "rb") as file:
        content = file.read(_MOST_CONFIG + 1)
    if len(content) > _MOST_CONFIG:
        raise ConversionError(f"{path} has over {_MOST_CONFIG} bytes, more than a configuration")
    try:
        config = foreign_json.parse_object(content, printable(path))
    except ValueError as error:
        raise ConversionError(str(error)) from error
    library = config.get("library_name")
    if library != LIBRARY:
        raise ConversionError(
            f"{path} is not of {LIBRARY}: it has library_name={show(library)}; was it saved by "
            "another library?"
        )
    missing = [key for key in _KEYS if key not in config]
    if missing:
        raise ConversionError(f"{path} lacks {', '.join(missing)}")
    version, layout = config["format_version"], config["layout"]
    if type(version) is not int or version != FORMAT or layout not in _LAYOUTS:
        raise ConversionError(
            f"{path} has format_version={show(version)} and layout={show(layout)}; this version of "
            f"{LIBRARY} reads {FORMAT} and {' or '.join(_LAYOUTS)}: install a newer one"
        )
    model = config["model"]
    if not isinstance(model, dict) or not isinstance(model.get("text"), dict):
        raise ConversionError(f"{path}: 'model' must be an object that holds an object 'text'")
    return config


def _pickles(folder):
    found = sorted(path.name for path in folder.iterdir() if path.suffix in files.TORCH)
    return [name for name in found if name not in ("optimizer.bin", "training_args.bin")]


def _first_line(error) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _card(config, params) -> str:
    model = config.model
    height, width = config.data.image_size
    tokens = model.num_query + height // STRIDE * (width // STRIDE)
    rows = model.vocab_size // model.num_codebooks
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"""---
library_name: {LIBRARY}
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
| parameters | {count:,} |
| image size | {height} x {width} |
| codes of an image (K x N) | {model.num_codebooks} x {tokens} |
| rows of each codebook (V) | {rows:,} |
| quantizer | {model.quantizer} |
| joint space (E) | {model.embed_dim} |
| tokenizer.hash | `{reader.weights_hash(model.to_dict(), params)}` |

Codes mean the same to all tokenizers that have this hash.
"""
