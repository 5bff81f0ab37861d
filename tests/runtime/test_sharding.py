"""The mesh, the shape rule, and equal numbers on any mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from helpers import arrays
from unitok_jax.models.text_encoder import TextEncoder
from unitok_jax.planning import hlo
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.run import Run

pytestmark = [pytest.mark.slow, pytest.mark.long]


class TestMesh:
    @pytest.mark.parametrize(
        "data, fsdp, expected", [(-1, 1, (8, 1)), (2, -1, (2, 4)), (-1, 8, (1, 8)), (4, 2, (4, 2))]
    )
    def test_sizes(self, data, fsdp, expected):
        mesh = sharding.make_mesh(data, fsdp)
        assert mesh.axis_names == ("data", "fsdp")
        assert (mesh.shape["data"], mesh.shape["fsdp"]) == expected

    @pytest.mark.parametrize("data, fsdp", [(3, -1), (4, 4), (2, 2), (-1, -1), (0, 8), (-1, 16)])
    def test_sizes_that_do_not_cover_the_devices(self, data, fsdp):
        with pytest.raises(ValueError, match=f"mesh.data={data} x mesh.fsdp={fsdp} .* 8 devices"):
            sharding.make_mesh(data, fsdp)


@pytest.mark.parametrize(
    "shape, spec",
    [
        ((3072, 768), P("fsdp")),
        ((768, 3072), P(None, "fsdp")),
        ((14, 768, 2304), P(None, None, "fsdp")),
        ((768,), P()),
        ((4, 4), P()),
        ((130, 127, 3), P("fsdp")),
        ((129, 127, 3), P()),
    ],
)
def test_rule(shape, spec):
    assert sharding.param_spec(shape, 2) == spec
    assert sharding.param_spec(shape, 1) == P()


class TestRows:
    def test_rows_of_one_process_are_all(self):
        mesh = sharding.make_mesh(2, 4)
        assert sharding.local_rows(mesh, 16) == tuple(range(16))

    def test_a_batch_is_the_array_it_was(self):
        mesh = sharding.make_mesh(2, 4)
        value = np.arange(48).reshape(16, 3)
        for array in (
            sharding.shard_batch({"x": value}, mesh)["x"],
            sharding.shard_whole(value, mesh),
        ):
            assert array.sharding == sharding.batch_sharding(mesh)
            np.testing.assert_array_equal(array, value)


@pytest.fixture(scope="module")
def devices():
    """Of two slices of eight chips."""
    pytest.importorskip("libtpu")
    from unitok_jax.planning import machines

    return machines.find("v5e:2x4*2").devices


class TestSlices:
    """TPU slices, as the TPU compiler describes them to any machine."""

    def test_fsdp_stays_inside_a_slice(self, devices):
        mesh = sharding.make_mesh(-1, 8, devices)
        assert [{d.slice_index for d in row} for row in mesh.devices] == [{0}, {1}]

    def test_data_reaches_over_slices_once(self, devices):
        mesh = sharding.make_mesh(8, 2, devices)
        assert [d.slice_index for d in mesh.devices[:, 0]] == [0] * 4 + [1] * 4

    @pytest.mark.parametrize(
        "name, data, fsdp",
        [("v5p:4x4x4", -1, 2), ("v5e:16x16", 1, 256), ("v5e:4x8", 8, 4), ("v5p:2x2x4*2", -1, 8)],
    )
    def test_sizes_that_are_no_sides_of_the_slice(self, devices, name, data, fsdp):
        from unitok_jax.planning import machines

        found = machines.find(name).devices
        mesh = sharding.make_mesh(data, fsdp, found)
        assert mesh.shape["fsdp"] == fsdp
        assert {d.id for d in mesh.devices.flat} == {d.id for d in found}

    def test_fsdp_larger_than_a_slice(self, devices):
        with pytest.raises(ValueError, match="mesh.fsdp=16 does not fit into a slice.* divisor of"):
            sharding.make_mesh(1, 16, devices)


def configuration():
    """Losses of every kind and both players, from the first step on; half of the images decoded."""
    from configs import tiny_full

    config = tiny_full.get_config()
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    config.data.image_size = (48, 48)
    config.data.batch_size = 16
    config.data.decode_fraction = 0.5
    config.gan.start_fraction = 0.0
    # Half of the compile time, for two more means over the batch.
    config.gan.consistency = config.loss.perceptual = 0.0
    config.optim.ema_decay = 0.0  # an average would be compiled, and is not looked at
    return config


class Meshes:
    """Metrics and gradients of one step in float32, on any mesh."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.batch = {
            "image": rng.integers(0, 256, (16, 48, 48, 3), np.uint8),
            "text": rng.integers(1, 49_000, (16, 77)).astype(np.int32),
        }
        self.state = None

    def step(self, data, fsdp):
        config = configuration()
        config.mesh.data, config.mesh.fsdp = data, fsdp
        run = Run(config, jax.devices()[: data * fsdp])
        if self.state is None:
            self.state = jax.device_get(run.programs.init().replace(step=jnp.int32(20)))
        state = jax.device_put(self.state, run.programs.shardings)
        if fsdp > 1:
            kernel = state.discriminator.params["heads"][0]["conv2"]["kernel"]
            assert kernel.sharding.spec == P(None, "fsdp")
        arguments = state, run.frozen, sharding.shard_batch(self.batch, run.mesh)
        step = run.programs.phases[True].lower(*arguments).compile()
        if fsdp == 1:  # images, tokens and their subset stay on their devices
            assert not re.search("all-to-all|collective-permute", step.as_text())
        state, metrics = step(*arguments)
        # The first moments are the gradients, scaled; AdamW's update would make noise as large.
        players = state.generator, state.discriminator
        return jax.device_get((metrics, [player.opt_state[1].mu for player in players]))


@pytest.fixture(scope="module")
def meshes():
    """On smooth networks: a rounding that crosses a kink would change a gradient by its size.

    Of ReLU, leaky ReLU, maxima and absolute values, as it happens on one mesh and not on another;
    sums over devices are what is compared here, and GELU has as many of them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.nn, "relu", jax.nn.gelu)
        patch.setattr(jax.nn, "leaky_relu", lambda x, slope=0.01: jax.nn.gelu(x))
        yield Meshes()


@pytest.fixture(scope="module")
def on_one(meshes):
    """What one device computes."""
    return meshes.step(1, 1)


@pytest.mark.parametrize(
    "data, fsdp",
    [(2, 4), *(pytest.param(*m, marks=pytest.mark.thorough) for m in ((8, 1), (4, 2), (1, 8)))],
)
def test_equal_on_every_mesh(meshes, on_one, data, fsdp):
    """Losses and gradients of both players, on one device and on eight: replicated, and split.

    In the adversarial phase, which has all terms of the first.
    """
    expected, whole = on_one
    assert "gan/weight" in expected
    metrics, split = meshes.step(data, fsdp)
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-5, atol=1e-7, err_msg=key)
    for ours, theirs in zip(split, whole, strict=True):
        assert arrays.error(ours, theirs) < 1e-5


def test_the_text_towers_gradient_exchanges_nothing_but_itself():
    """Its end tokens stay where their texts are: no device sends activations."""
    mesh = sharding.make_mesh(-1, 1)
    tower = nnx.eval_shape(
        lambda: TextEncoder(
            width=16,
            heads=2,
            depth=1,
            vocab_size=32,
            context_length=7,
            embed_dim=8,
            remat="blocks",
            dtype=jnp.float32,
            stream=jnp.float32,
            rngs=nnx.Rngs(0),
        )
    )
    graph, params = nnx.split(tower)
    whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    gradient = jax.jit(
        jax.grad(lambda params, text: jnp.sum(nnx.merge(graph, params)(text) ** 2)),
        in_shardings=(whole, split),
        out_shardings=whole,
    )
    text = jax.ShapeDtypeStruct((2 * mesh.size, 7), jnp.int32)
    found = hlo.traffic(
        gradient.lower(nnx.to_pure_dict(params), text).compile().as_text(), mesh.size
    ).collectives
    assert {collective.kind for collective in found} == {"all-reduce"}
    sizes = sum(leaf.size for leaf in jax.tree.leaves(params)) * 4
    assert sum(size for _, size in found.values()) <= sizes
