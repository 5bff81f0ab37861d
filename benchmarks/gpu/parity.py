"""Parity of the model on this device with the reference's numbers in `tests/golden`."""

import pathlib
import runpy

import jax
import numpy as np
from flax import nnx

from unitok_jax.models.unitok import abstract_model
from unitok_jax.weights import torch_layout, torch_options

_HELPERS = pathlib.Path(__file__).parents[2] / "tests" / "helpers" / "parity.py"
CERTAIN = 1e-4  # least margin of a code that must be equal in float32
TOLERANCE = 1e-4  # of the reference's standard deviation


def measure(name: str, dtype: str) -> dict:
    """Compares codes and outputs of seeded weights.

    Args:
      name: a model of `tests/golden`: tiny, base.
      dtype: float32, whose products are then of the highest precision, or bfloat16.

    Returns:
      `codes`, their number; `codes_changed`, the share that differs; `margin_of_changed`, the
      largest margin of one of them: of the cosines of the nearest and the second row in float32;
      `errors`, for each output the largest difference in the reference's standard deviations;
      `passes`, in float32: as the tests of parity ask for.
    """
    reference = runpy.run_path(str(_HELPERS))
    golden, weights, seed = reference["load"](name), reference["weights"], reference["SEED"]
    config = torch_options.to_config(reference["manifest"](name)["config"])
    config.model.dtype = dtype
    graph, abstract = abstract_model(config.model.to_dict())
    params = torch_layout.from_torch(reference["state"](name), abstract)
    params = jax.device_put(jax.tree.map(lambda a, b: np.asarray(a, b.dtype), params, abstract))
    count, side, text = len(golden["codes"]), config.data.image_size[0], config.model.text
    images = weights.reference_images(count, side, seed)
    ids = weights.reference_text(count, text.context_length, text.vocab_size, seed)

    @jax.jit
    def run(params, images, ids):
        model = nnx.merge(graph, params)
        return {
            "codes": model.encode(images),
            "quant_proj": model.latent(images),
            # Of the reference's codes: those of another latent are another image.
            "post_quant_proj": model.tokens(golden["codes"]),
            "clip_text_features": model.encode_text(ids),
        }

    precision = "highest" if dtype == "float32" else None
    with jax.default_matmul_precision(precision):
        found = jax.device_get(run(params, images, ids))
    changed = found.pop("codes") != golden["codes"]
    margin = golden["code_margin"]
    error = {
        key: float(np.abs(value.astype(np.float32) - golden[key]).max() / golden[key].std())
        for key, value in found.items()
    }
    row = {
        "codes": changed.size,
        "codes_changed": float(changed.mean()),
        "margin_of_changed": float(margin[changed].max()) if changed.any() else 0.0,
        "errors": error,
    }
    if dtype == "float32":
        close = max(error.values()) <= TOLERANCE
        row["passes"] = bool(close and not changed[margin > CERTAIN].any())
    return row
