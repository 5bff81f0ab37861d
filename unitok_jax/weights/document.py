"""Document beside weights that says which model they are of: config.json of a folder for the hub.

A generator's .safetensors file has the same in its metadata, and `stored_features` if it was
trained on such features of texts. A multimodal model's config.json has the keys of transformers
beside these.
"""

from collections.abc import Mapping

from unitok_jax.models.limits import show
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.paths import printable

LIBRARY = "unitok_jax"
FORMAT = 1  # format version
KEYS = ("library_name", "format_version", "layout", "image_size", "model")
_ON_CODES = ("library_name", "product", "format_version", "layout", "model", "tokenizer")
_PRODUCTS = {"tokenizer": KEYS, "generator": _ON_CODES, "multimodal": _ON_CODES}
LAYOUTS = ("public", "unitok_jax")


# (words for what a folder holds, what it is used for)
_USES = {
    "tokenizer": (
        "a tokenizer",
        "it makes codes of images; unitok train --config=configs/generate.py trains a generator on "
        "them",
    ),
    "generator": (
        "a generator",
        "unitok generate --checkpoint=... draws codes with it, which the tokenizer of its codes "
        "decodes",
    ),
    "multimodal": ("a multimodal model", "unitok chat --checkpoint=... asks it about images"),
    "language": (
        "a language model",
        "unitok train --config=configs/multimodal.py teaches one to see and draw",
    ),
}


def of_product(product: str, layout: str, model: Mapping, tokenizer_hash: str | None) -> dict:
    """Returns what config.json holds of a generator or a multimodal model."""
    values = (LIBRARY, product, FORMAT, layout, dict(model), tokenizer_hash)
    return dict(zip(_ON_CODES, values, strict=True))


def check_product(path, wanted: str, found: str) -> None:
    """Refuses a tokenizer where a generator is wanted, and the like.

    Raises:
      ConversionError: the message says what to do with what is there.
    """
    if found == wanted:
        return
    if not isinstance(found, str) or found not in _USES:
        raise ConversionError(
            f"{printable(path)} is of product={show(found)}; known: {', '.join(_PRODUCTS)}"
        )
    what, use = _USES[found]
    raise ConversionError(f"{printable(path)} holds {what}, not {_USES[wanted][0]}: {use}")


def check(config: Mapping, path: str, product: str) -> None:
    """Checks the keys of config.json, or of the same in a file's metadata.

    Raises:
      ConversionError: another library, version or product; the message has `path`.
    """
    check_library(config, path)
    check_product(path, product, product_of(config))
    missing = [key for key in _PRODUCTS[product] if key not in config]
    if missing:
        raise ConversionError(f"{path} lacks {', '.join(missing)}")
    version, layout = config["format_version"], config["layout"]
    if type(version) is not int or version != FORMAT or layout not in LAYOUTS:
        raise ConversionError(
            f"{path} has format_version={show(version)} and layout={show(layout)}; this version of "
            f"{LIBRARY} reads {FORMAT} and {' or '.join(LAYOUTS)}: install a newer one"
        )
    model = config["model"]
    if product == "tokenizer":
        if not isinstance(model, dict) or not isinstance(model.get("text"), dict):
            raise ConversionError(f"{path}: 'model' must be an object that holds an object 'text'")
    elif not isinstance(model, dict) or not isinstance(config["tokenizer"], str | None):
        raise ConversionError(f"{path}: 'model' must be an object, and 'tokenizer' a hash or null")
    elif product == "generator" and not isinstance(config.get("stored_features"), str | None):
        raise ConversionError(f"{path}: 'stored_features' must be a digest, or absent")


def product_of(config: Mapping) -> str:
    """Returns the product of a document; those of tokenizers do not name it."""
    return config["product"] if "product" in config else "tokenizer"


def check_library(config: Mapping, path: str) -> None:
    """Checks that a document is of this package; the message has `path`.

    Raises:
      ConversionError: it is of another library.
    """
    library = config.get("library_name")
    if library != LIBRARY:
        raise ConversionError(
            f"{path} is not of {LIBRARY}: it has library_name={show(library)}; was it saved by "
            "another library?"
        )
