"""Writes a tokenizer as compiled-on-load programs that run without this package.

They are `encode.jax` and `decode.jax` (jax.export), beside `weights.safetensors`, `export.json` and
`example.py`, which shows how to use them: it needs jax, flatbuffers, numpy, safetensors and pillow.
"""

import importlib.util
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from unitok_jax import trees
from unitok_jax.codes import STRIDE
from unitok_jax.models import gpu, precision
from unitok_jax.system import outputs
from unitok_jax.system.extras import how_to_install
from unitok_jax.system.paths import expand
from unitok_jax.weights import files

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_PARTS = ("encoder", "quant_proj", "quantizer", "post_quant_proj", "decoder")
_EXAMPLE = pathlib.Path(__file__).with_name("example.py")


def programs(tokenizer, size: tuple[int, int], platforms, batch: int | None) -> tuple[dict, dict]:
    """A tokenizer's methods as functions of named weights.

    The weights are an argument, since a program that held them could pass the 2 GB that its file
    format allows.

    Args:
      tokenizer: a `Tokenizer`.
      size: (height, width) of the images, multiples of 16.
      platforms: some of `PLATFORMS`; each adds a lowering to the file.
      batch: images of a call; None leaves it open, and each number compiles once.

    Returns:
      name -> `jax.export.Exported`, and name -> float32 array, the weights that all of them take.
      encode: (weights, uint8 (B, H, W, 3)) -> int32 (B, K, N); decode: (weights, int32 (B, K, N))
      -> uint8 (B, H, W, 3).

    Raises:
      ValueError: a platform does not compute in the tokenizer's precision.
    """
    for platform in platforms:
        precision.find(tokenizer.precision, platform)
    functions = tokenizer.functions
    used = {name: tokenizer.params[name] for name in _PARTS if name in tokenizer.params}
    tree = jax.tree.structure(used)
    weights = trees.flatten(used)
    order = tuple(weights)

    def params(weights):
        # What stands for the text tower is never computed with.
        parts = jax.tree.unflatten(tree, [weights[name] for name in order])
        return functions.shapes | parts

    def encode(weights, images):
        return functions.encode(params(weights), images)

    def decode(weights, codes):
        grid = size[0] // STRIDE, size[1] // STRIDE
        images = functions.decode(params(weights), codes, grid)
        return jnp.rint((images + 1) * 127.5).astype(jnp.uint8)

    (b,) = export.symbolic_shape("b") if batch is None else (batch,)
    books, _ = tokenizer.codebook_shape
    tokens = tokenizer.config.model.num_query + size[0] // STRIDE * (size[1] // STRIDE)
    shapes = {name: jax.ShapeDtypeStruct(w.shape, w.dtype) for name, w in weights.items()}
    images = jax.ShapeDtypeStruct((b, *size, 3), jnp.uint8)
    codes = jax.ShapeDtypeStruct((b, books, tokens), jnp.int32)
    with gpu.for_any_machine():
        exported = {
            "encode": export.export(jax.jit(encode), platforms=platforms)(shapes, images),
            "decode": export.export(jax.jit(decode), platforms=platforms)(shapes, codes),
        }
    arrays = {name: np.array(jax.device_get(w), order="C") for name, w in weights.items()}
    return exported, arrays


def write(folder, tokenizer, size: tuple[int, int], platforms, batch: int | None) -> None:
    """Writes the files of an export; the arguments are those of `programs`.

    Raises:
      ValueError: the folder holds something.
      ImportError: flatbuffers is not installed.
      OSError: writing failed; nothing of it stays.
    """
    folder = expand(folder)
    with outputs.new_folder(folder, "--output") as aside:
        if importlib.util.find_spec("flatbuffers") is None:
            raise ImportError(
                "jax.export writes its files with flatbuffers, which is not installed: "
                + how_to_install("export")
            )
        exported, weights = programs(tokenizer, size, platforms, batch)
        _, rows = tokenizer.codebook_shape
        facts = {
            "image_size": list(size),
            "codes": list(exported["encode"].out_avals[0].shape[1:]),  # (K, N)
            "codebook_rows": rows,
            "batch_size": batch,
            "platforms": list(platforms),
            "precision": tokenizer.precision,
            "hash": tokenizer.hash,
            "jax": jax.__version__,
            "calling_convention": exported["encode"].calling_convention_version,
        }
        try:
            for name, program in exported.items():
                (aside / f"{name}.jax").write_bytes(program.serialize())
            files.write_safetensors(weights, aside / "weights.safetensors")
            (aside / "export.json").write_text(json.dumps(facts, indent=2) + "\n")
            shutil.copyfile(_EXAMPLE, aside / "example.py")
        except OSError as error:
            raise OSError(f"--output={folder} cannot be written: {error}") from error
