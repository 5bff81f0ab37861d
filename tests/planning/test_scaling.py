"""What a compiled step tells of more chips."""

import math
import re

import jax
import pytest

from benchmarks import scaling
from configs import tiny
from unitok_jax.planning import machines
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.step import TokenizerSteps

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.compiler]


def configuration(batch, accumulation):
    config = tiny.get_config()
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    config.data.image_size = (32, 32)
    config.data.batch_size, config.optim.accumulation = batch, accumulation
    return config


@pytest.fixture(scope="module")
def step():
    return scaling.compile_step(configuration(64, accumulation=2), 8)


def test_causes_of_a_compiled_step(step):
    shapes = jax.tree.leaves(TokenizerSteps(configuration(64, accumulation=2)).abstract_params)
    sizes = [4 * math.prod(a.shape) for a in shapes]
    split = [
        4 * math.prod(a.shape)
        for a in shapes
        if sharding.param_spec(a.shape, 8) != sharding.param_spec((), 8)
    ]
    assert step.parameters == sum(split)
    # Of the embedding the rows' cotangents are gathered, which are less in a batch this small.
    # Kernels before which the picture doubles are 16 numbers instead of 9 when they are reduced.
    whole = sum(sizes) - 4 * 49_408 * 64
    assert whole <= step.gradients < 16 / 9 * whole
    assert step.gathered > 4 * 77 * 64
    # The gradient of one tower's features; the texts' end tokens stay where their texts are.
    assert 4 * 64 <= step.reduced < 2 * 4 * 64


@pytest.mark.thorough
def test_what_grows_with_the_batch_and_with_micro_batches(step):
    larger = scaling.compile_step(configuration(128, accumulation=4), 8)
    assert larger.parameters == step.parameters
    assert larger.gradients == pytest.approx(step.gradients, rel=0.01)
    assert larger.gathered == pytest.approx(step.gathered, rel=0.2)
    assert step.once < step.flops == pytest.approx(larger.flops, rel=0.01)


def test_times_of_a_step():
    step = scaling.Step(1e12, 8e11, 4e9, 5e9, gathered=8e3, reduced=4e3, traffic=3e9)
    v5e = scaling.machine_of("v5e", 256)
    assert (v5e.name, v5e.axes) == ("v5e:16x16", 2)
    found = scaling.predict(step, v5e, images=64, micro=4, fsdp=256)
    assert found.compute == pytest.approx(64e12 / 197e12)
    assert found.memory == pytest.approx(64 * 3e9 / 819e9)
    assert found.parameters == pytest.approx(255 / 256 * 4e9 / 200e9)
    assert found.gradients == pytest.approx(4 * 255 / 256 * 5e9 / 200e9)
    assert found.features == pytest.approx((8e3 + 2 * 4e3) * 255 / 256 * 64 * 256 / 200e9)
    assert found.exposed == pytest.approx(found.compute / (found.compute + found.exchange))
    assert found.hidden == 1

    cluster = scaling.machine_of("h100", 256)
    found = scaling.predict(step, cluster, images=64, micro=1, fsdp=8)
    assert found.parameters == pytest.approx(7 / 8 * 4e9 / 450e9)  # within a node
    between = 2 * 31 / 32 * 5e9 / 8 / 50e9  # an eighth, from every GPU to its peers
    assert found.gradients == pytest.approx(7 / 8 * 5e9 / 450e9 + between)
    assert found.compute == pytest.approx(64 * 8e11 / 989e12)
    whole = scaling.predict(step, cluster, images=64, micro=1, fsdp=1)
    assert whole.parameters == 0
    assert whole.gradients == pytest.approx(2 * 255 / 256 * 5e9 / 400e9)
    assert scaling.machine_of("v5e", 512) is None


@pytest.mark.parametrize("kind, chips, fsdp", [("v5e", 256, 256), ("h100", 64, 8), ("h100", 8, 1)])
def test_images_at_which_exchange_is_a_part(kind, chips, fsdp):
    step = scaling.Step(1e12, 8e11, 4e9, 5e9, gathered=8e3, reduced=4e3)
    machine = scaling.machine_of(kind, chips)
    for share in (0.1, 0.5):
        images = scaling.images_for(share, step, machine, 2, fsdp)
        found = scaling.predict(step, machine, images, 2, fsdp)
        assert found.exchange / (found.work + found.exchange) == pytest.approx(share)
    heavy = step._replace(gathered=1e9)
    assert scaling.images_for(0.1, heavy, machine, 2, fsdp) == math.inf


def test_the_network_is_that_of_the_topology():
    """A node of GPUs exchanges over NVLink alone."""
    gpu = machines.GPUS["h100"]
    step = scaling.Step(1e12, 8e11, 4e9, 0, 0, 0)
    found = scaling.predict(step, scaling.machine_of("h100", 8), 1, 1, 8)
    assert found.parameters == pytest.approx(7 / 8 * 4e9 / gpu.links)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--fsdp", "3"], "--fsdp=3 divides none of the machines of v5e, 8, 16, 32, 64, 128, 256"),
        (["--fsdp", "512", "--machines", "h100", "v5e"], "--fsdp=512 divides none .* of v5e"),
        (["--config", "nope"], "--config=nope: there is no configs/nope.py"),
        (["--micro", "0"], "--micro=0 must be at least 1"),
    ],
)
def test_bad_flags_end_before_the_compilation(monkeypatch, capsys, flags, words):
    monkeypatch.setattr("sys.argv", ["scaling", *flags])
    with pytest.raises(SystemExit, match="2"):
        scaling.main()
    assert re.search(words, capsys.readouterr().err)
