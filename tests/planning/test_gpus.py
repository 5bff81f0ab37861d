"""GPUs to compile for: their names, the part of their memory that JAX takes, and a program."""

import re
import types

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from unitok_jax.multimodal import objective
from unitok_jax.planning import gpus, machines
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer import augment

needs_compiler = pytest.mark.skipif(
    not gpus.has_compiler(), reason="JAX's plugin for CUDA, the extra gpu-compile, is missing"
)
GPU, CPU = (types.SimpleNamespace(platform=platform) for platform in ("gpu", "cpu"))


@pytest.mark.parametrize(
    "name, asked", [("h100:1", ("h100", 1, 1)), ("h200:8", ("h200", 1, 8)), ("h100:32", (4, 8))]
)
def test_names_of_gpus(name, asked, monkeypatch):
    def devices(kind, nodes, of_a_node):
        assert (kind, nodes, of_a_node)[-len(asked) :] == asked
        return [GPU] * (nodes * of_a_node)

    monkeypatch.setattr(gpus, "has_compiler", lambda: True)
    monkeypatch.setattr(gpus, "devices", devices)
    found = machines.find(name)
    assert found.is_gpu and not found.simulated and found.options is gpus.OPTIONS
    assert len(found.devices) == found.chips


def test_without_the_compiler_devices_are_simulated():
    chip = machines.GPUS["h100"]
    found = machines.Topology("h100:1", [CPU], chip, 1, 1)
    assert found.is_gpu and found.simulated
    assert found.options == {"xla_backend_optimization_level": 0}


def test_the_memory_that_jax_takes(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    h100 = machines.Topology("h100:1", [GPU], machines.GPUS["h100"], 1, 1)
    tpu = machines.Topology("v5e:1x1", [GPU], machines.CHIPS["v5e"], 1, 1)
    assert h100.per_device.capacity == 60 * 2**30 and tpu.per_device.capacity == 16 * 2**30
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert h100.per_device.capacity == 72 * 2**30
    for wrong in ("80", "0", "abc", "nan"):
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", wrong)
        with pytest.raises(ValueError, match=f"MEM_FRACTION={wrong} in the environment must be ab"):
            _ = h100.per_device


def test_every_gpu_is_known_to_the_compiler():
    assert gpus.PROCESSORS.keys() == machines.GPUS.keys()
    for name, processor in gpus.PROCESSORS.items():
        chip = machines.GPUS[name]
        assert 0.95 * chip.capacity < processor.memory <= 1.07 * chip.capacity
        assert processor.bandwidth == pytest.approx(chip.bandwidth, rel=0.01)
        text = gpus._target(processor)
        assert text.count("{") == text.count("}") == 4
        assert re.search(rf"device_memory_size: {processor.memory}\n", text)


@needs_compiler
@pytest.mark.compiler
def test_memory_of_a_program():
    """What a loop keeps for its backward pass, 16 rounds of 4 MiB; it is divided among GPUs."""
    mesh = sharding.make_mesh(2, 1, gpus.devices("h100", 1, 2))
    where = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((2**21,), jnp.float32, sharding=where)

    def loss(x):
        return jnp.sum(jax.lax.scan(lambda x, _: (jnp.sin(x), None), x, None, length=16)[0])

    compiled = jax.jit(jax.grad(loss)).lower(x).compile(gpus.OPTIONS)
    found = compiled.memory_analysis()
    assert found.argument_size_in_bytes == 2**22
    assert 16 * 2**22 <= found.temp_size_in_bytes < 20 * 2**22


@needs_compiler
@pytest.mark.compiler
@pytest.mark.parametrize("part", ["augmentation", "loss"])
def test_what_is_chosen_for_a_batch_stays_on_its_device(part):
    """Neither values nor gradients are gathered."""
    mesh = sharding.make_mesh(2, 1, gpus.devices("h100", 1, 2))
    where = NamedSharding(mesh, PartitionSpec("data"))

    def shape(*sizes, dtype="float32"):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

    def augmented(images, coins, uniform):
        return jnp.sum(augment.diff_aug(images, augment.Draws(coins, uniform)) ** 2)

    def predicted(hidden, wanted, kernel):
        def part(hidden, wanted):
            nats = jax.nn.logsumexp(hidden @ kernel, axis=-1)
            return jnp.where(wanted, nats, 0.0).sum()

        return objective._in_pieces(part, wanted, (hidden,), chunk=2, shards=2)

    everywhere = NamedSharding(mesh, PartitionSpec())
    coins, uniform, kernel = (
        jax.ShapeDtypeStruct(sizes, dtype, sharding=everywhere)
        for sizes, dtype in (((3,), bool), ((7, 4), "float32"), ((16, 32), "float32"))
    )
    function, arguments = {
        "augmentation": (augmented, (shape(4, 16, 16, 3), coins, uniform)),
        "loss": (predicted, (shape(4, 8, 16), shape(4, 8, dtype=bool), kernel)),
    }[part]
    program = jax.jit(jax.value_and_grad(function)).lower(*arguments).compile(gpus.OPTIONS)
    assert "all-reduce" in program.as_text() and "all-gather" not in program.as_text()
