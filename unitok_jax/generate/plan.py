"""Plan of a generator's train step, for machines that are not here."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unitok_jax.data.pipeline import effective_batch_size
from unitok_jax.generate.config_checks import check
from unitok_jax.generate.step import GeneratorSteps, Programs
from unitok_jax.runtime import sharding
from unitok_jax.training.plan import Phase, Plan, place

_IMAGES = 300 * 1_281_167  # epochs by images of the published run
_ADVICE = "model.remat=blocks, a smaller loss.chunk, a larger mesh.fsdp, a smaller data.batch_size"


def plan(config: ConfigDict, devices: Sequence) -> Plan:
    """Plans the train step on devices that may be absent; `data.path` may be empty.

    Texts are planned as stored features: a text tower takes more.

    Args:
      config: the whole configuration.
      devices: of the mesh.

    Raises:
      ValueError: the configuration is not valid, or does not fit the devices.
    """
    check(config)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    size = config.data.batch_size
    effective_batch_size(config.data, size, mesh.size, reason="the number of devices")
    programs = Programs(GeneratorSteps(config), mesh)
    state, batch = programs.abstract, place(_batch(config), sharding.batch_sharding(mesh))
    parts = {
        "parameters": state.generator.params,
        "optimiser": state.generator.opt_state,
        "average of the parameters": state.ema,
    }
    phases = [Phase("every step", programs.step, 1.0, batch)]
    return Plan(mesh, phases, (state, {}), parts, _IMAGES, "images", 1, _ADVICE)


def _batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch, as `data.train_batches` reads it."""
    size, model = config.data.batch_size, config.model
    shapes = {"codes": ((model.num_codebooks, math.prod(model.grid)), jnp.uint16)}
    if model.prompt == "class":
        shapes["labels"] = (), jnp.int32
    else:
        shapes["features"] = (model.text_tokens, model.text_features), jnp.float32
        shapes["valid"], shapes["null"] = ((model.text_tokens,), bool), ((), bool)
    return {
        key: jax.ShapeDtypeStruct((size, *shape), dtype) for key, (shape, dtype) in shapes.items()
    }
