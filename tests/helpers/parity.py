"""The reference's numbers, and the seeded weights and inputs that gave them.

The arrays lie in ``tests/golden``.  The environment variable ``UNITOK_PARITY`` may name another
folder of the same layout: its own ``meta.json`` (the seed) and ``reference_weights.py`` are used.
"""

import functools
import importlib.util
import json
import os
import pathlib

import numpy as np

FOLDER = pathlib.Path(
    os.environ.get("UNITOK_PARITY") or pathlib.Path(__file__).parents[1] / "golden"
)
SEED = json.loads((FOLDER / "meta.json").read_text())["seed"]


def _reference_weights():
    """The module ``reference_weights.py`` of the folder in use."""
    path = FOLDER / "reference_weights.py"
    spec = importlib.util.spec_from_file_location("reference_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


weights = _reference_weights()
"""Makes inputs: ``weights.reference_images`` (NHWC), ``weights.reference_text``."""


@functools.cache
def load(name: str) -> dict[str, np.ndarray]:
    """Every array of ``{name}.npz``, such as ``tiny`` or ``base``.  Read-only: shared by tests."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


@functools.cache
def manifest(name: str) -> dict:
    """``{name}_manifest.json``: ``config``, ``state`` (entry -> shape) and ``parameters``."""
    return json.loads((FOLDER / f"{name}_manifest.json").read_text())


@functools.cache
def state(name: str) -> dict[str, np.ndarray]:
    """The seeded reference state dict of ``manifest(name)``, float32.  Read-only."""
    arrays = weights.reference_state(manifest(name), SEED)
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


@functools.cache
def network_state(section: str) -> dict[str, np.ndarray]:
    """Seeded weights of ``lpips``, ``dino``, ``discriminator`` or ``inception``.

    The names in the manifests, which the draws depend on, carry a prefix that public
    files do not have; it is cut off here.  Read-only.
    """
    arrays = {}
    if section == "inception":
        shapes = json_file("inception_manifest.json")
    else:
        shapes = json_file("manifest_losses.json")[section]
    for name, shape in shapes.items():
        array = weights.reference_array(name, shape, SEED)
        array.setflags(write=False)
        arrays[name.split(".", 1)[1]] = array
    return arrays


@functools.cache
def json_file(name: str):
    """A JSON file of the folder, such as ``schedules.json``."""
    return json.loads((FOLDER / name).read_text())
