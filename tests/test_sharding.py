"""The mesh, the shape rule, and equal numbers on any mesh."""

import jax
import numpy as np
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
    """Losses, gradient norms and weights after two steps of both players, in float32.

    2 x 4 splits the batch over both axes and the state over one; a mesh costs a minute to compile.
    """
    config, results = configuration(), {}
    for data, fsdp in ((1, 1), (2, 4)):
        config.mesh.data, config.mesh.fsdp = data, fsdp
        run = Run(config, jax.devices()[: data * fsdp])
        state = run.init()
        if fsdp > 1:
            kernel = state.discriminator.params["heads"][0]["conv2"]["kernel"]
            assert kernel.sharding.spec == P(None, "fsdp")
        rng = np.random.default_rng(0)
        batch = {
            "image": rng.integers(0, 256, (16, 48, 48, 3), np.uint8),
            "text": rng.integers(1, 49_000, (16, 77)).astype(np.int32),
        }
        state = state.replace(step=state.step + 20)
        for step in range(20, 22):
            state, metrics = run.train_step(step, state, sharding.shard_batch(batch, run.mesh))
            jax.block_until_ready(metrics)
        results[data, fsdp] = jax.device_get(
            (metrics, (state.generator.params, state.discriminator.params))
        )
    expected, params = results.pop((1, 1))
    for mesh, (metrics, ours) in results.items():
        for key in ("loss", "loss/contrastive", "loss/vq", "loss/perceptual", "gan/discriminator"):
            assert metrics[key] == pytest.approx(expected[key], rel=1e-5), (mesh, key)
        for key in ("grad_norm", "gan/grad_norm", "gan/weight"):
            assert metrics[key] == pytest.approx(expected[key], rel=1e-4), (mesh, key)
        np.testing.assert_allclose(metrics["usage"], expected["usage"])
        for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
            other = params
            for key in path:
                other = other[getattr(key, "key", getattr(key, "idx", None))]
            # AdamW divides by the size of a gradient: where that is noise, so is the update.
            np.testing.assert_allclose(leaf, other, atol=2e-3, err_msg=str(path))
