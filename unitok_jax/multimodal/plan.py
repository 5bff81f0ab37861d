"""Plan of a multimodal model's train step, for machines that are not here."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unitok_jax.multimodal import data
from unitok_jax.multimodal.config_checks import check, check_batch
from unitok_jax.multimodal.step import MultimodalSteps, Programs
from unitok_jax.runtime import sharding
from unitok_jax.training.plan import Phase, Plan, place

_ADVICE = "optim.accumulation above, a smaller loss.chunk or data.length, a larger mesh.fsdp"


def plan(config: ConfigDict, devices: Sequence) -> Plan:
    """Plans the train step on devices that may be absent; `data` and `init` name no files yet.

    Args:
      config: the whole configuration.
      devices: of the mesh.

    Raises:
      ValueError: the configuration is not valid, or does not fit the devices.
    """
    check(config)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    check_batch(config, mesh.size)
    programs = Programs(MultimodalSteps(config), mesh)
    state, batch = programs.abstract, place(batch_shapes(config), sharding.batch_sharding(mesh))
    parts = {
        "parameters": state.network.params,
        "optimiser": state.network.opt_state,
    }
    phases = [Phase("every step", programs.step, 1.0, batch)]
    rows = config.steps * config.data.batch_size
    return Plan(*(mesh, phases, (state,), parts, rows, "rows", config.optim.accumulation, _ADVICE))


def batch_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch, as `data.Packed.batches` reads it."""
    rows, model = config.data.batch_size, config.model
    tokens = math.prod(model.grid)
    images = data.images_of(config.data, tokens)
    shapes = {
        **dict.fromkeys(
            ("ids", "image_at", "labels", "segments", "positions", "kinds"),
            (rows, config.data.length),
        ),
        "codes": (rows, images, model.num_codebooks, tokens),
        "drawn": (rows, images),
    }
    return {
        key: jax.ShapeDtypeStruct(shape, bool if key == "drawn" else jnp.int32)
        for key, shape in shapes.items()
    }
