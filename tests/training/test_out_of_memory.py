"""Out of memory: the message names settings that fit, by the compiler's figures."""

import types

import jax
import numpy as np
import pytest

from configs import generate, tiny
from unitok_jax.training import out_of_memory
from unitok_jax.training.out_of_memory import OutOfMemoryError, explained

GIB = 2**30
REASON = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 83751862272 bytes."


AVAILABLE = out_of_memory.available


class Run:
    """A run whose steps need what `bytes_of` says of its configuration: first phase, last phase."""

    def __init__(self, config, bytes_of):
        self.config, self._bytes_of = config, bytes_of
        self.mesh = types.SimpleNamespace(devices=np.array(jax.devices()[:1]))
        self.compiled = []

    def plan(self, config, devices):
        if config.data.batch_size % config.optim.get("accumulation", 1):
            raise ValueError("data.batch_size is not a multiple")
        size = self._bytes_of(config)
        self.compiled.append(size)
        phases = [types.SimpleNamespace(step=size, batch=part) for part in (0.5, 1)]
        return types.SimpleNamespace(phases=phases, arguments=())


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    """The compiler's figures, and a device of 60 GiB."""
    monkeypatch.setattr(
        out_of_memory, "memory", lambda step, batch: {"temporaries": int(step * batch)}
    )
    monkeypatch.setattr(out_of_memory, "available", lambda device: 60 * GIB)


def config_of(module, **changes):
    config = module.get_config()
    config.update_from_flattened_dict({key.replace("__", "."): v for key, v in changes.items()})
    return config


def message(run, reason=REASON):
    with pytest.raises(OutOfMemoryError) as caught, explained(run):
        raise jax.errors.JaxRuntimeError(reason)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def of_remat(**sizes):
    return lambda config: sizes[config.model.remat] * GIB / config.optim.accumulation


def test_more_recomputation_that_fits():
    config = config_of(tiny, model__remat="none", data__batch_size=32)
    run = Run(config, of_remat(none=89, products=70, blocks=45, everything=30))
    assert message(run) == (
        "out of memory: a step of data.batch_size=32, model.remat=none, optim.accumulation=1 needs "
        "89.0 GiB on each device, which has 60.0 GiB for JAX. By the compiler's figures "
        "--config.model.remat=blocks fits: data.batch_size=32, model.remat=blocks, "
        "optim.accumulation=1 needs 45.0 GiB"
    )
    assert [size / GIB for size in run.compiled] == [89, 70, 45]  # no more than needed


def test_micro_batches_that_fit():
    config = config_of(tiny, model__remat="everything", data__batch_size=12)
    found = message(Run(config, of_remat(everything=150)))
    assert "--config.optim.accumulation=4 fits" in found and found.endswith("needs 37.5 GiB")


def test_a_batch_that_fits_without_micro_batches():
    config = config_of(generate, model__remat="blocks", data__batch_size=64)
    found = message(Run(config, lambda config: config.data.batch_size * GIB * 2))
    assert "--config.data.batch_size=16 fits" in found


def test_nothing_that_fits():
    config = config_of(tiny, model__remat="none", data__batch_size=2)
    found = message(Run(config, lambda config: 100 * GIB))
    assert found.endswith("Lower data.batch_size") and "Nor does this fit" in found
    assert found.count("needs 100.0 GiB") == 5  # three names, and two micro-batches


def test_a_device_that_tells_no_limit(monkeypatch):
    monkeypatch.setattr(out_of_memory, "available", lambda device: None)
    config = config_of(tiny, model__remat="none", data__batch_size=2)
    found = message(Run(config, of_remat(none=9, products=5)))
    assert "--config.model.remat=products needs less" in found and "for JAX" not in found


def test_settings_that_the_compiler_refuses(monkeypatch):
    """As a TPU's does; then a program that is compiled at all fits."""

    def memory(step, batch):
        if step > 60 * GIB:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM.")
        return {"temporaries": int(step * batch)}

    monkeypatch.setattr(out_of_memory, "memory", memory)
    config = config_of(tiny, model__remat="none", data__batch_size=32)
    found = message(Run(config, of_remat(none=89, products=70, blocks=45)))
    assert "optim.accumulation=1 needs more than there is on each device" in found
    assert "--config.model.remat=blocks fits" in found and "needs 45.0 GiB" in found


def test_other_errors_of_the_compiler_pass(monkeypatch):
    def memory(step, batch):
        raise jax.errors.JaxRuntimeError("INTERNAL: another bug")

    monkeypatch.setattr(out_of_memory, "memory", memory)
    run = Run(config_of(tiny, model__remat="none"), of_remat(none=89))
    with pytest.raises(jax.errors.JaxRuntimeError, match="another bug"), explained(run):
        raise jax.errors.JaxRuntimeError(REASON)


def test_other_errors_pass():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), explained(Run(None, None)):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_what_a_device_tells():
    told = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 7})
    silent = types.SimpleNamespace(memory_stats=lambda: None)
    assert (AVAILABLE(told), AVAILABLE(silent)) == (7, None)
