"""Curriculum of image sizes: stages of a run, values that do not fit, one program per size."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from configs import recipes, tiny, tiny_full
from unitok_jax.tokenizer.config_checks import check
from unitok_jax.tokenizer.plan import plan
from unitok_jax.tokenizer.run import Run
from unitok_jax.tokenizer.sizes import Stage, line, stages


def scheduled(*schedule, steps=200, config=tiny):
    config = config.get_config()
    config.steps, config.data.size_schedule = steps, schedule
    return config


def test_the_recipe():
    config = recipes.get_config("curriculum")
    found = stages(config.steps, config.data)
    assert found == (Stage(0, (128, 128)), Stage(66_406, (256, 256)))
    assert line(found) == "128x128 px from step 0, 256x256 px from step 66,406"
    check(config)


def test_without_a_schedule_there_is_one_size():
    config = scheduled()
    assert stages(config.steps, config.data) == (Stage(0, (64, 64)),)


def test_sizes_are_squares_or_height_and_width():
    config = scheduled((0, (32, 48)), (0.25, 48), (0.5, (64,)))
    sizes = (0, (32, 48)), (50, (48, 48)), (100, (64, 64))
    assert stages(config.steps, config.data) == sizes


def test_a_schedule_of_a_file_is_one_of_lists():
    config = scheduled((0, 32), (0.5, (64, 64)))
    data = dict(config.data.to_dict(), size_schedule=[[0, 32], [0.5, [64, 64]]])
    other = type(config)({"data": data}).data
    assert stages(200, other) == stages(200, config.data)


@pytest.mark.parametrize(
    "schedule, message",
    [
        (((0, 60), (0.5, 64)), "data.size_schedule=60: 60 is not a positive multiple of 16; nea"),
        (((0, 32), (0.5, (64, 72))), r"data.size_schedule=\(64, 72\): 72 is not a positive"),
        (((0, "32"), (0.5, 64)), "data.size_schedule='32': give one integer"),
        (((0.1, 32), (0.5, 64)), "begins at 0.1 of the run; the first size begins at 0"),
        (((0, 32), (0.8, 48), (0.5, 64)), "0.5 comes after 0.8; fractions of the run ascend"),
        (((0, 32), (0.5, 48), (0.5, 64)), "0.5 comes after 0.5; fractions"),
        (((0, 64), (0.5, 64)), "64x64 comes after 64x64; sizes grow"),
        (((0, 80), (0.5, 64)), "64x64 comes after 80x80; sizes grow"),
        (((0, 32), (0.5, 48)), r"ends with 48x48, but data.image_size=\(64, 64\)"),
        (((0, 32), (0.001, 64)), "leaves 32x32 none of steps=200"),
        (((0, 32), (1.0, 64)), "leaves 64x64 none of steps=200"),
        (((0, 32), (float("nan"), 64)), "are not all fractions"),
        (((0, 32), ("0.5", 64)), "are not all fractions"),
        ((0, 32), r"give \(first fraction, size\) pairs, as \(\(0, 128\), \(0.85, 256\)\)"),
        (((0, 32, 48),), "give .* pairs"),
    ],
)
def test_schedules_that_do_not_fit(schedule, message):
    with pytest.raises(ValueError, match=message) as error:
        check(scheduled(*schedule))
    assert str(error.value).startswith("data.size_schedule=") and "\n" not in str(error.value)


def test_lpips_needs_the_shortest_side_of_all():
    config = scheduled((0, (32, 64)), (0.5, 64), config=tiny_full)
    with pytest.raises(ValueError, match=r"at least 48 px, but data\.size_schedule=.*\(32, 64\)"):
        check(config)


def test_every_program_of_a_run_is_planned():
    """Where the size changes and where the adversary begins, with the steps between."""
    config = scheduled((0, 48), (0.5, 64), config=tiny_full)
    config.model.size, config.model.quant_heads, config.data.batch_size = "nano", 2, 8
    config.gan.start_fraction = 0.25
    found = plan(config, jax.devices()[:1])
    assert [(phase.name, phase.batch["image"].shape) for phase in found.phases] == [
        ("48x48 px, before the adversary", (8, 48, 48, 3)),
        ("48x48 px, with the adversary", (8, 48, 48, 3)),
        ("64x64 px, with the adversary", (8, 64, 64, 3)),
    ]
    assert [phase.share for phase in found.phases] == pytest.approx([51 / 200, 49 / 200, 0.5])
    first, second, third = (phase.step for phase in found.phases)
    assert first is not second and second is third
    config.data.size_schedule = ()
    names = [phase.name for phase in plan(config, jax.devices()[:1]).phases]
    assert names == ["before the adversary", "with the adversary"]
    config.gan.start_fraction = 0.0  # the first step is still without it
    shares = [phase.share for phase in plan(config, jax.devices()[:1]).phases]
    assert shares == pytest.approx([1 / 200, 199 / 200])


def test_buckets_are_planned_at_the_most_pixels_of_any():
    config = tiny.get_config()
    config.data.source, config.data.bucket_ratio = "array_record", 2.0
    (phase,) = plan(config, jax.devices()[:1]).phases
    assert phase.name == "buckets of up to 64x64 px, before the adversary" and phase.share == 1
    assert phase.batch["image"].shape == (16, 64, 64, 3)


@pytest.mark.slow
def test_every_phase_takes_every_size():
    """LPIPS, DINOv2, both players and the model's grids, without any arrays."""
    config = scheduled((0, (48, 64)), (0.5, 64), config=tiny_full)
    config.model.size, config.model.quant_heads, config.data.batch_size = "nano", 2, 4
    found = plan(config, jax.devices()[:1])
    for phase in found.phases:
        after, metrics = jax.eval_shape(phase.step, *found.arguments, phase.batch)
        assert jax.tree.structure(after) == jax.tree.structure(found.arguments[0])
        assert metrics["loss"].dtype == jnp.float32
    assert len(found.phases) == 3


def test_a_run_reads_each_step_at_its_size():
    config = scheduled((0, 32), (0.5, 64), steps=4)
    config.model.size, config.model.quant_heads = "nano", 2
    config.data.batch_size, config.data.num_threads = 4, 1
    run = Run(config, jax.devices()[:1])
    with contextlib.closing(run.batches(1)) as batches:
        sides = [next(batches)["image"].shape[1] for _ in range(3)]
    assert sides == [32, 64, 64]
