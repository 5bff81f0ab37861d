"""Plan of a tokenizer's train step, for machines that are not here."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unitok_jax.data.pipeline import effective_batch_size
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.config_checks import check
from unitok_jax.tokenizer.step import Programs, TokenizerSteps
from unitok_jax.training.plan import Phase, Plan, place
from unitok_jax.weights import pretrained

_IMAGES = 1.28e9  # image-text pairs of the published run
_ADVICE = (
    "model.remat=everything, a larger mesh.fsdp, data.decode_fraction=0.5, a larger "
    "optim.accumulation"
)


def plan(config: ConfigDict, devices: Sequence) -> Plan:
    """Plans the train step on devices that may be absent; `data.path` and `frozen.*` may be empty.

    Args:
      config: the whole configuration.
      devices: of the mesh.

    Raises:
      ValueError: the configuration is not valid, or does not fit the devices.
    """
    check(config)
    mesh, data = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices), config.data
    steps = TokenizerSteps(config)
    effective_batch_size(data, data.batch_size, steps.batch_divisor(mesh.size))
    programs, late = Programs(steps, mesh), 0.0
    if steps.adversary is not None:
        late = 1 - steps.adversary.first / config.steps
    phases = []
    if late < 1:
        phases.append(Phase("before the adversary", programs.phases[False], 1 - late))
    if late:
        phases.append(Phase("with the adversary", programs.phases[True], late))
    dtype, state = steps.model["dtype"], programs.abstract
    networks = {kind: pretrained.abstract(kind, dtype)[1] for kind in steps.networks}
    networks = place(networks, sharding.replicated(mesh))
    batch = {
        "image": jax.ShapeDtypeStruct((data.batch_size, *data.image_size, 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((data.batch_size, data.context_length), jnp.int32),
    }
    batch = place(batch, sharding.batch_sharding(mesh))
    parts = {
        "parameters": state.generator.params,
        "optimiser": state.generator.opt_state,
        "discriminator and its optimiser": state.discriminator,
        "average of the parameters": state.ema,
        "frozen networks": networks,
        "batch": batch,
    }
    arguments = (state, networks, batch)
    return Plan(
        mesh, phases, arguments, parts, _IMAGES, "images", config.optim.accumulation, _ADVICE
    )
