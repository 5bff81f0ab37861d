"""A workdir in a bucket, on a stand-in for Google Cloud Storage."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from etils.epath.backend import _FileSystemSpecBackend
from fsspec.registry import _registry

from configs import tiny
from helpers import bucket
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.models.unitok import abstract_model
from unitok_jax.runtime import workdir
from unitok_jax.training.metrics import Writer
from unitok_jax.weights import initialize, load

pytestmark = pytest.mark.slow


@pytest.fixture
def run(monkeypatch):
    """A new workdir in an empty bucket."""
    server = bucket.serve()
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setitem(_registry, "gcs", bucket.FileSystem)
    # Orbax asks the real package whether the bucket has real folders.
    cloud = types.ModuleType("google.cloud")
    answer = types.SimpleNamespace(hierarchical_namespace_enabled=False)
    client = types.SimpleNamespace(get_bucket=lambda name: answer)
    cloud.storage = types.SimpleNamespace(Client=lambda: client)
    monkeypatch.setitem(sys.modules, "google.cloud", cloud)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    bucket.OBJECTS.clear()
    yield workdir.make("gs://bucket/run")
    server.shutdown()
    server.server_close()
    _FileSystemSpecBackend._get_filesystem.cache_clear()  # other tests have no bucket


def items(step):
    key = jax.random.key(step)
    return {
        "params": {"a": {"kernel": jax.random.normal(key, (1000, 30))}, "b": jnp.ones(3)},
        "training": {"step": jnp.int32(step)},
    }


def target():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), items(0))


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_checkpoints(run, caplog):
    config = tiny.get_config()
    with workdir.lock(run), Checkpoints(run, config.checkpoint, create=True) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in (1, 2, 3):
            checkpoints.save(step, items(step), config, {"eval/psnr": 1.0 / step})
    with Checkpoints("gs://bucket/run") as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]  # the best, and the newest two
        equal(checkpoints.restore(target(), config), items(3))
    data = max(
        (name for name in bucket.OBJECTS if name.startswith("bucket/run/checkpoints/3/params")),
        key=lambda name: len(bucket.OBJECTS[name]),
    )
    bucket.OBJECTS[data] = bucket.OBJECTS[data][:1000]
    # A save that was killed has no sign that it is complete.
    bucket.OBJECTS["bucket/run/checkpoints/4/params/manifest.ocdbt"] = b"x"
    with Checkpoints(run, config.checkpoint, create=True) as checkpoints:
        equal(checkpoints.restore(target(), config), items(2))
        assert checkpoints.steps() == [1, 2]
        for step in (3, 4):
            checkpoints.save(step, items(step), config, {})
    assert "checkpoint 3 is damaged" in caplog.text
    assert any(name.startswith("bucket/run/checkpoints/damaged/3/") for name in bucket.OBJECTS)
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps() == [1, 3, 4]
        equal(checkpoints.restore(target(), config), items(4))


def test_a_model_is_read_from_a_workdir(run, weights):
    config, params = load.read(weights)
    with Checkpoints(run, create=True) as checkpoints:
        for step in (1, 2):
            one = jax.tree.map(lambda array, step=step: np.asarray(array * step), params)
            checkpoints.save(step, {"params": one}, config, {})
    assert load.is_folder("gs://bucket/run") and load.product("gs://bucket/run/") == "tokenizer"
    for path, scale in ((str(run), 2), ("gs://bucket/run/checkpoints/1", 1)):
        found, read = load.read(path)
        assert found.model.to_dict() == config.model.to_dict()
        equal(read, jax.tree.map(lambda array, scale=scale: array * scale, params))
    model, abstract = config.model.to_dict(), abstract_model(config.model.to_dict())[1]
    taken, _ = initialize.match("gs://bucket/run", abstract, model=model)
    np.testing.assert_array_equal(taken["logit_scale"].array, 2 * params["logit_scale"])


@pytest.mark.parametrize(
    "path, error, words",
    [
        ("gs://bucket/other", FileNotFoundError, "^gs://bucket/other does not exist"),
        ("gs://bucket/run/a.safetensors", ValueError, "gs://bucket/run/a.safetensors is no work"),
        ("gs://bucket/run", ValueError, "no folder 'checkpoints': of a bucket only a run's ch"),
        ("ab://bucket/run", ValueError, "ab://bucket/run: no path begins with .*use a folder or"),
    ],
)
def test_what_is_no_workdir_of_a_bucket(run, path, error, words):
    bucket.OBJECTS["bucket/run/a.safetensors"] = b"x"
    with pytest.raises(error, match=words):
        load.read(path)


def test_metrics_and_pictures(run):
    writer = Writer(run, 0)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": step})
    writer.image(3, "reconstruction", np.zeros((4, 4, 3), np.uint8))
    lines = bucket.OBJECTS["bucket/run/metrics.jsonl"].decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]  # before it is closed
    writer.close()
    assert bucket.OBJECTS["bucket/run/images/reconstruction_00000003.png"].startswith(b"\x89PNG")
    writer = Writer(run, 2)
    writer.scalars(3, {"loss": 30})
    writer.close()
    lines = bucket.OBJECTS["bucket/run/metrics.jsonl"].decode().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1, 2, 30]


def test_files_appear_whole(run):
    workdir.write(run / "config.json", "{}")
    assert bucket.OBJECTS == {"bucket/run/config.json": b"{}"}
    assert workdir.free_bytes(run) == float("inf")
    assert epath.Path("gs://bucket/run/config.json").read_text() == "{}"
