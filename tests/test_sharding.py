"""The mesh, the shape rule, and equal numbers on any mesh."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from unitok_jax import sharding
from unitok_jax.run import Run


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


def configuration():
    """Every loss and both players, acting from the second step on."""
    from configs import tiny_full

    config = tiny_full.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    config.data.image_size = (48, 48)
    config.data.batch_size = 16
    config.optim.accumulation = 2
    config.gan.start_fraction = 0.0
    return config


def test_equal_on_one_device_and_on_a_mesh():
    """Losses and gradients of one step of both players, in float32.

    2 x 4 splits the batch over both axes and the state over one; a mesh costs a minute to compile.
    """
    config, results = configuration(), {}
    for data, fsdp in ((1, 1), (2, 4)):
        config.mesh.data, config.mesh.fsdp = data, fsdp
        run = Run(config, jax.devices()[: data * fsdp])
        state = run.programs.init()
        if fsdp > 1:
            kernel = state.discriminator.params["heads"][0]["conv2"]["kernel"]
            assert kernel.sharding.spec == P(None, "fsdp")
        rng = np.random.default_rng(0)
        batch = {
            "image": rng.integers(0, 256, (16, 48, 48, 3), np.uint8),
            "text": rng.integers(1, 49_000, (16, 77)).astype(np.int32),
        }
        state = state.replace(step=state.step + 20)
        state, metrics = run.train_step(20, state, sharding.shard_batch(batch, run.mesh))
        # The first moments are the gradients, scaled; AdamW's update would make noise as large.
        players = state.generator, state.discriminator
        moments = [player.opt_state[1].mu for player in players]
        results[data, fsdp] = jax.device_get((metrics, moments))
    (expected, whole), (metrics, split) = results[1, 1], results[2, 4]
    assert "gan/weight" in metrics
    for key, value in expected.items():
        tolerance = 1e-4 if "norm" in key or key == "gan/weight" else 1e-5
        np.testing.assert_allclose(metrics[key], value, rtol=tolerance, atol=1e-7, err_msg=key)
    for ours, theirs in zip(split, whole, strict=True):
        error = optax.tree.norm(jax.tree.map(np.subtract, ours, theirs)) / optax.tree.norm(theirs)
        # 1e-6 where no rounding error crosses a kink (ReLU, leaky ReLU, maximum, absolute value):
        # one that does changes an element of a gradient by its size, 8e-5 of the whole.
        assert error < 3e-4
