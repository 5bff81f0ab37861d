"""Checkpoints: what is kept, what is refused, and damage that is seen."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from unitok_jax import differences, stored
from unitok_jax.checkpoint import CheckpointError, Checkpoints


@pytest.fixture
def config():
    return tiny.get_config()


def items(step, width=4):
    return {
        "params": {"a": {"kernel": jnp.arange(3.0 * width).reshape(3, width) + step}},
        "training": {"step": jnp.int32(step), "generator": {"m": jnp.ones(5)}},
    }


def target(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def save(folder, config, steps, metrics=None):
    with Checkpoints(folder, config.checkpoint, create=True) as checkpoints:
        for step in steps:
            values = {} if metrics is None else {"eval/psnr": metrics[step]}
            checkpoints.save(step, items(step), config, values)


def test_round_trip(tmp_path, config):
    save(tmp_path, config, [5])
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(target(items(5)), config)
        meta = checkpoints.meta()
    jax.tree.map(np.testing.assert_array_equal, found, items(5))
    assert meta["step"] == meta["data_position"] == 5
    assert meta["config"]["model"]["size"] == "tiny"


def test_latest_and_best_are_kept(tmp_path, config):
    config.checkpoint.keep_latest, config.checkpoint.keep_best = 2, 1
    psnr = {1: 10.0, 2: 30.0, 3: 20.0, 4: 15.0, 5: 12.0}
    save(tmp_path, config, psnr, psnr)
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == {2, 4, 5}


def test_params_alone_can_be_read(tmp_path, config):
    save(tmp_path, config, [5])
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore({"params": target(items(5)["params"])})
    assert found.keys() == {"params"}


class TestRefused:
    def test_empty_folder(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.latest_step() is None
            with pytest.raises(CheckpointError, match="no complete checkpoint"):
                checkpoints.meta()

    def test_a_step_that_is_not_there(self, tmp_path, config):
        save(tmp_path, config, [5, 6])
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(CheckpointError, match="checkpoint 4; it has: 5, 6"):
                checkpoints.meta(4)

    def test_every_difference_is_listed(self, tmp_path, config):
        save(tmp_path, config, [5])
        wanted = target(items(5, width=8))
        wanted["params"]["b"] = target(jnp.zeros(2))
        del wanted["training"]["generator"]["m"]
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(CheckpointError) as error:
                checkpoints.restore(wanted)
        for line in (
            "shape: a.kernel is (3, 4), the model has (3, 8)",
            "missing: b (2,)",
            "unknown: generator.m (5,)",
        ):
            assert line in str(error.value)

    def test_configuration(self, tmp_path, config, caplog):
        save(tmp_path, config, [5])
        config.model.num_codebooks = 8
        config.data.batch_size = 32
        config.optim.learning_rate = 1.0
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(CheckpointError) as error, caplog.at_level("INFO"):
                checkpoints.restore(target(items(5)), config)
        assert "model.num_codebooks: saved 4, now 8" in str(error.value)
        assert "data.batch_size: saved 16, now 32" in str(error.value)
        assert "learning_rate" not in str(error.value)
        assert "optim.learning_rate: saved 0.002, now 1.0" in caplog.text

    def test_older_step_than_the_newest(self, tmp_path, config):
        save(tmp_path, config, [5])
        with Checkpoints(tmp_path, config.checkpoint, create=True) as checkpoints:
            with pytest.raises(CheckpointError, match="already holds step 5"):
                checkpoints.save(4, items(4), config, {})

    def test_changed_bytes(self, tmp_path, config):
        """Orbax has no checksums; a digest that does not fit the arrays must be seen."""
        save(tmp_path, config, [5])
        (meta,) = (tmp_path / "checkpoints" / "5" / "meta").glob("metadata")
        content = json.loads(meta.read_text())
        content["digests"]["params"]["a.kernel"] += 1
        meta.write_text(json.dumps(content))
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(CheckpointError, match="do not have the bytes.*\n.*a.kernel"):
                checkpoints.restore(target(items(5)))


def test_digest_sees_order_and_single_bits():
    a = jnp.arange(6.0)
    flipped = a.at[3].set(jnp.nextafter(a[3], jnp.inf))
    values = [int(stored.digests(x)) for x in (a, a[::-1], flipped, a + 0)]
    assert len(set(values[:3])) == 3 and values[0] == values[3]


def test_binding_keys_exist():
    flat = differences.flat(tiny.get_config().to_dict())
    for name in differences.BINDING:
        assert any(key == name or key.startswith(name + ".") for key in flat), name
