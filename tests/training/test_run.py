"""What a run evaluates with."""

import jax
import pytest

from unitok_jax.data.formats.shapes import shape_source
from unitok_jax.data.records import subset
from unitok_jax.tokenizer.run import Run

pytestmark = pytest.mark.slow


def test_networks_measure_in_float32_whatever_the_model_computes_in(tiny):
    tiny.data.image_size = (48, 48)
    tiny.model.dtype, tiny.loss.perceptual, tiny.frozen.lpips = "bfloat16", 1.0, "seeded"
    assert Run(tiny, jax.devices()[:1]).evaluator.networks == {"lpips": "float32"}


def test_subset_keeps_labels():
    source = shape_source("held_out")
    few = subset(source, [5, 2, 9])
    assert len(few) == 3 and few.class_names == source.class_names
    assert [few.label(i) for i in range(3)] == [source.label(i) for i in (5, 2, 9)]
    assert few[1] == source[2]
    assert not hasattr(subset(shape_source("train"), [0]), "label")
