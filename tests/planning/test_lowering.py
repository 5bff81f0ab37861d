"""Steps, sampling and answers of every product are lowered for a GPU and a TPU, without either."""

import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks.saved import as_on_a_gpu
from configs import generate, tiny_full
from helpers import generators, multimodals
from unitok_jax.generate import plan as generator_plan
from unitok_jax.generate.compiled import CompiledSampler, Settings
from unitok_jax.models.sampling import Filters
from unitok_jax.multimodal import plan as multimodal_plan
from unitok_jax.multimodal.compiled import Answering, CompiledModel, Drawing
from unitok_jax.multimodal.sampling import Prompt
from unitok_jax.tokenizer import plan as tokenizer_plan

pytestmark = pytest.mark.slow

CUDNN = "__cudnn$fmhaSoftmax"


def lowered(function, *args) -> dict[str, str]:
    """Texts of a program by platform, traced as on a machine with a GPU."""
    with as_on_a_gpu():
        traced = function.trace(*args)
        return {
            platform: traced.lower(lowering_platforms=(platform,)).as_text()
            for platform in ("cuda", "tpu")
        }


def step_of(module, config: ConfigDict, devices: int = 1) -> dict[str, str]:
    """Texts of the last phase's train step, of a plan on some devices."""
    found = module.plan(config, jax.devices()[:devices])
    return lowered(found.phases[-1].step, *found.arguments, found.phases[-1].batch)


def called(text: str) -> set[str]:
    """What a program calls by name."""
    return set(re.findall(r"custom_call @([\w.$]+)", text))


def by_booleans(text: str) -> list[str]:
    """Conditionals that choose by a boolean, of all functions of a program."""
    found = []
    for function in text.split("func.func")[1:]:
        numbers = re.findall(r"(%\w+) = stablehlo.convert %\w+ : \(tensor<i1>\)", function)
        chosen_by = re.findall(r'"stablehlo.case"\((%\w+)\)', function)
        found += [number for number in chosen_by if number in numbers]
    return found


def check(texts: dict[str, str], attention: bool, trains: bool = False) -> None:
    """Attention is cuDNN's on the GPU alone, if it may be; no operation is that of a CPU.

    In training nothing is chosen by a boolean: what such a conditional takes and gives, the
    compiler of GPUs gathers on every device.
    """
    for platform, text in texts.items():
        names = called(text)
        cudnn = platform == "cuda" and attention
        assert (CUDNN in names, CUDNN + "Backward" in names) == (cudnn, cudnn and trains)
        assert not [name for name in names if "cpu" in name or "lapack" in name]
        assert "xf64>" not in text
        assert not (trains and by_booleans(text))


def test_the_tokenizers_step():
    """With both players and all losses."""
    config = tiny_full.get_config()
    config.model.update(dict(size="nano", quant_heads=2, dtype="bfloat16", remat="products"))
    config.model.text.layers = 1
    config.data.image_size, config.data.batch_size = (128, 128), 4
    check(step_of(tokenizer_plan, config), attention=True, trains=True)


def test_a_conditional_by_a_boolean_is_found():
    """As XLA finds it: by a number it is another."""
    x, some = jax.ShapeDtypeStruct((8,), "float32"), jax.ShapeDtypeStruct((8,), bool)

    def double(choose):
        def loss(x, some):
            return choose(some, lambda: jax.numpy.sum(x**2), lambda: 0.0)

        text = jax.jit(jax.grad(loss)).lower(x, some).as_text()
        return by_booleans(text), text.count("stablehlo.case")

    assert double(lambda some, *branches: jax.lax.cond(some.any(), *branches))[0]
    numbered = double(lambda some, *branches: jax.lax.switch(some.sum(), branches[::-1]))
    assert numbered == ([], 2)


@pytest.mark.parametrize("prompt", ["class", "text"])
def test_the_generators_step(prompt):
    """Texts are padded: what their tokens see is a mask."""
    config = generate.get_config()
    config.model.update(generators.SMALL | dict(grid=(8, 8), prompt=prompt))
    if prompt == "text":
        config.model.update(dict(prompt_rope="identity", text_tokens=8, text_features=16))
        config.data.text_features = "stored"
    config.data.batch_size, config.loss.chunk = 4, 16
    check(step_of(generator_plan, config), attention=prompt == "class", trains=True)


def test_the_generators_step_on_eight_devices():
    """How cuDNN's attention is divided is asked of JAX when the program is compiled."""
    config = generate.get_config()
    config.model.update(generators.SMALL | dict(grid=(8, 8)))
    config.data.batch_size, config.loss.chunk, config.mesh.fsdp = 8, 16, 2
    names = {k: called(v) for k, v in step_of(generator_plan, config, devices=8).items()}
    assert names["cuda"] - names["tpu"] == {"CustomSPMDPartitioning"}


@pytest.mark.parametrize("completes", [False, True])
def test_sampling(completes):
    """A loop of single tokens, and a picture that is completed."""
    model, params = generators.fresh(grid=(8, 8))
    sampler = CompiledSampler(model, params, 2, jax.devices()[:1], "bfloat16")
    filters, numbers = Filters(0.9, 5).split()
    program = sampler._programs._compile(Settings(filters, 64, completes), 3)
    rows = {"index": np.arange(2, dtype=np.uint32), "labels": np.zeros(2, np.int32)}
    if completes:
        rows["given"] = np.zeros((2, 2, 64), np.int32)
    scale, known = np.ones((64, 2), np.float32), np.zeros(64, bool)
    given = sampler.params, np.uint32(0), rows, scale, known, numbers
    check(lowered(program, *given), attention=False)


def test_the_multimodal_step():
    """Rows are packed: what their tokens see is a mask."""
    config = multimodals.configured(dtype="bfloat16")
    config.data.batch_size, config.data.length, config.optim.accumulation = 4, 64, 2
    check(step_of(multimodal_plan, config), attention=False, trains=True)


@pytest.mark.parametrize(
    "settings",
    [Answering(Filters(0.8, 5), (multimodals.EOS,), 6), Drawing(Filters(0.8, 5), True, False)],
    ids=["answers", "drawings"],
)
def test_answers_and_drawings(settings):
    model = multimodals.model_keys()
    made = CompiledModel(model, multimodals.parameters(model), 2, jax.devices()[:1], "bfloat16")
    filters, numbers = settings.filters.split()
    ids, none = np.ones((2, 64), np.int32), np.full((2, 64), -1, np.int32)
    codes = np.zeros((2, 1, 2, multimodals.TOKENS), np.int32)
    prompt = Prompt(ids, none, codes, np.ones((2, 64), bool))
    rows = {"index": np.arange(2, dtype=np.uint32), "prompt": prompt}
    shared = [numbers]
    if isinstance(settings, Drawing):
        rows["null"] = prompt
        shared.append(np.ones((multimodals.TOKENS, 2), np.float32))
    program = made._programs._compile(settings._replace(filters=filters), len(shared))
    check(lowered(program, made.params, np.uint32(0), rows, *shared), attention=False)
