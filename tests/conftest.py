"""What every test runs under: eight simulated devices and one compilation cache."""

import contextlib
import ctypes
import gc
import os
import pathlib
import tempfile

from helpers.jobs import FAST

# Before JAX starts. XLA's thread pool must hold twice the simulated devices, or collectives hang.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count=8 {FAST}"
)
CACHE = pathlib.Path(tempfile.gettempdir()) / f"unitok_jax_test_cache_{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compilers of many threads would keep as many heaps. Read when a worker starts.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402
from flax import nnx  # noqa: E402

from helpers import parity  # noqa: E402

flags.FLAGS.mark_as_parsed()  # Grain's worker processes ask for it
# Tracing makes millions of objects and hardly a cycle; looking for them took a third of its time.
gc.set_threshold(100_000, 50, 100)


# Files of minutes: they begin first, so that no worker is left with one when the others are done.
LONGEST = (
    "test_step",
    "test_processes",
    "test_card",
    "test_configs",
    "test_torture",
    "test_full_run",
    "test_sharding",
    "test_train_steps",
    "test_quantizers",
    "test_multimodal_training",
    "test_train",
    "test_with_a_tokenizer",
    "test_resume",
    "test_price_list",
    "test_generator_training",
)


def pytest_collection_modifyitems(items):
    def rank(item):
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture
def strict_shapes():
    """Arrays of different ranks do not broadcast: (B,) and (B, 1) would make (B, B) of a loss."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def tiny():
    """A configuration of seconds: the smallest model, six steps of eight photographs."""
    from configs import tiny

    config = tiny.get_config()
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    config.steps = 6
    config.data.batch_size = 8
    config.data.num_threads = 1
    config.eval.every = 3
    config.eval.batch_size = 8
    config.eval.max_images = 12
    config.eval.grid_images = 2
    config.checkpoint.every = 3
    config.log.every = 2
    return config


@pytest.fixture(scope="module", autouse=True)
def memory():
    """Compiled programs and the reference's weights of one file of tests do not outlive it."""
    yield
    jax.clear_caches()
    parity.state.cache_clear()
    gc.collect()
    with contextlib.suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module")
def reference():
    """name -> (config, model with the reference's seeded weights) of a parity manifest."""
    from unitok_jax.models.unitok import abstract_model
    from unitok_jax.weights import torch_layout, torch_options

    made = {}

    def make(name):
        if name not in made:
            config = torch_options.to_config(parity.manifest(name)["config"])
            graph, abstract = abstract_model(config.model.to_dict())
            params = torch_layout.from_torch(parity.state(name), abstract)
            made[name] = config, nnx.merge(graph, jax.tree.map(jax.numpy.asarray, params))
            parity.state.cache_clear()
        return made[name]

    return make


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A .safetensors file of the public layout with the tiny reference weights."""
    from unitok_jax.weights import load, torch_options

    config = torch_options.to_config(parity.manifest("tiny")["config"])
    from unitok_jax.models.unitok import abstract_model
    from unitok_jax.weights import torch_layout

    params = torch_layout.from_torch(
        parity.state("tiny"), abstract_model(config.model.to_dict())[1]
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    load.write(path, config, params)
    return path


@pytest.fixture
def images():
    """(2, 64, 64, 3) uint8 pictures."""
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
