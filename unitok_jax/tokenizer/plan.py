"""Plan of a tokenizer's train step, for machines that are not here."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unitok_jax.data.pipeline import effective_batch_size
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.adversary import Adversary
from unitok_jax.tokenizer.config_checks import check
from unitok_jax.tokenizer.sizes import stages
from unitok_jax.tokenizer.step import Programs, TokenizerSteps
from unitok_jax.tokenizer.teaching import Teaching
from unitok_jax.training.plan import Phase, Plan, place

_IMAGES = 1.28e9  # image-text pairs of the published run
_KINDS = {False: "before the adversary", True: "with the adversary"}
_ADVICE = (
    "model.remat=everything, a larger mesh.fsdp, data.decode_fraction=0.5, a larger "
    "optim.accumulation"
)


def plan(config: ConfigDict, devices: Sequence) -> Plan:
    """Plans the train step on devices that may be absent.

    `data.path`, `init.path` and `frozen.*` may be empty; of `data.text_features` and
    `teacher.features` only that they are set counts. With `data.bucket_ratio` all batches are
    planned at `data.image_size`, the most pixels of any.

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
    programs = Programs(steps, mesh)
    state = programs.abstract
    networks = place(steps.abstract_networks(), sharding.replicated(mesh))
    parts = {
        "parameters": state.generator.params,
        "optimiser": state.generator.opt_state,
        "discriminator and its optimiser": state.discriminator,
        "heads of the teacher and their optimiser": state.teacher_heads,
        "average of the parameters": state.ema,
        "use of the codebooks": state.usage,
        "frozen networks": networks,
    }
    where = sharding.batch_sharding(mesh)
    phases = [
        Phase(
            *(name, programs.phases[adversarial], share),
            place(batch_shapes(config, size, steps.teaching), where),
            _KINDS[adversarial],
        )
        for name, adversarial, share, size in _parts(config, steps.adversary)
    ]
    micro_batches = config.optim.accumulation
    return Plan(mesh, phases, (state, networks), parts, _IMAGES, "images", micro_batches, _ADVICE)


def _parts(config: ConfigDict, adversary: Adversary | None) -> Iterator[tuple]:
    """Yields (name, whether the adversary acts, share of the steps, image size) of each program."""
    steps, found = config.steps, stages(config.steps, config.data)
    acts = steps if adversary is None else adversary.first
    starts = sorted({0, acts, *(stage.start for stage in found)} - {steps})
    for start, end in zip(starts, [*starts[1:], steps], strict=True):
        size = next(stage.size for stage in reversed(found) if stage.start <= start)
        name = _KINDS[start >= acts]
        if len(found) > 1:
            name = "{}x{} px, {}".format(*size, name)
        if config.data.bucket_ratio:
            name = "buckets of up to {}x{} px, {}".format(*size, name)
        yield name, start >= acts, (end - start) / steps, size


def batch_shapes(
    config: ConfigDict, size: tuple[int, int], teaching: Teaching | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a global batch of images of a size, as `train_batches` reads it."""
    count, data = config.data.batch_size, config.data
    text = jax.ShapeDtypeStruct((count, data.context_length), jnp.int32)
    if data.text_features:
        text = jax.ShapeDtypeStruct((count, config.model.embed_dim), jnp.float32)
    found = {"image": jax.ShapeDtypeStruct((count, *size, 3), jnp.uint8), "text": text}
    if teaching is not None and teaching.stored:
        found |= teaching.batch_shapes(count, size)
    return found
