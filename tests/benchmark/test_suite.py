"""The suite of benchmarks: what it counts and compares, and one run of everything, not timed."""

import json
import math
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks import reports, roofline, stages, timing
from benchmarks.__main__ import SECTIONS
from helpers.jobs import FAST
from unitok_jax.models.convolutions import UpsampleConv
from unitok_jax.models.unitok import abstract_model

pytestmark = [pytest.mark.slow, pytest.mark.long]

ROOT = pathlib.Path(__file__).parents[2]
PEAKS = {"float32": 100.0, "bfloat16": 200.0, "bytes": 10.0}


def report(**sections):
    """A report of PEAKS with some sections."""
    return {"machine": {"load": 1.0}, "settings": {"batch": 8}, "peaks": PEAKS} | sections


def test_the_roofline_is_the_slower_of_products_and_bytes():
    work = {"dtype": "float32", "flops": 300.0, "bytes": 20.0}
    assert roofline.least_seconds(work, PEAKS) == 3.0
    assert roofline.least_seconds(work | {"dtype": "bfloat16"}, PEAKS) == 2.0
    assert roofline.least_seconds(work | {"flops": 100.0}, PEAKS) == 2.0
    assert roofline.least_seconds({"bytes": 50.0}, PEAKS) == 5.0
    assert roofline.figures(work, 4.0, PEAKS)["of_roofline"] == 0.75


def test_upsampling_counts_as_published():
    module = UpsampleConv(
        4, 6, init=nnx.initializers.ones, dtype=jnp.float32, rngs=nnx.Rngs(params=0)
    )
    graph, params = nnx.split(module)
    stage = stages.Stage(
        lambda p, x: nnx.merge(graph, p)(x),
        (nnx.to_pure_dict(params), jnp.ones((2, 8, 8, 4))),
        "float32",
    )
    jobs = {
        "forward": roofline.Job(stage.function, stage.args, "float32"),
        "both": roofline.Job(stage.both_ways, stage.args, "float32"),
    }
    found = {name: work for name, (_, work) in roofline.compiled(jobs, at_once=2).items()}
    published = 2 * (3 * 3 * 4) * (2 * 16 * 16 * 6)
    assert found["forward"]["model_flops"] == published
    assert found["forward"]["flops"] == published * 4 / 9
    assert found["both"]["model_flops"] == 3 * published
    assert found["both"]["flops"] == 3 * published * 4 / 9


def test_bytes_of_a_program_are_those_it_reads_and_writes():
    x = jnp.ones((256, 256))
    _, work = roofline.compiled({"": roofline.Job(lambda x: x + 1, (x,), "float32")})[""]
    assert work["bytes"] == work["xla_bytes"] == 2 * x.nbytes
    assert work["flops"] == 0


@pytest.mark.parametrize("name", ["tiny_full", "b16"])
def test_the_stages_together_are_the_whole_program(name):
    from benchmarks import inference
    from unitok_jax.planning import flops

    config = timing.configuration(name)
    shapes = abstract_model(config.model.to_dict())[1]
    plan = stages.plan(config, shapes, 2)
    wholes = inference.methods(config, shapes, 2)
    for group in ("encode", "decode"):
        parts = sum(flops.count(job.function, *job.args) for job in plan[group].values())
        assert parts == flops.count(wholes[group].function, *wholes[group].args)
    used = {name for group in ("encode", "decode", "train") for name in plan[group]}
    assert {"stem", "stage 1", "stage 2", "pool", "up_conv4", "LPIPS", "text tower"} <= used


def test_gradients_of_a_stage_are_those_of_its_output():
    stage = stages.Stage(lambda p, x: p * x, (2.0, 3.0), "float32")
    out, (of_p, of_x) = stage.both_ways(2.0, 3.0)
    assert (out, of_p, of_x) == (6.0, 18.0, 12.0)
    assert len(stage._replace(gradients=(1,)).both_ways(2.0, 3.0)[1]) == 1


def test_a_comparison_is_of_equal_work_at_each_runs_peaks():
    work = {"dtype": "float32", "flops": 300.0, "bytes": 20.0}
    old = report(train={"first": work | {"seconds": 6.0}, "gone": {"seconds": 1.0}})
    # Three times the peaks, a third of the operations and half the time: 1.5 as slow as it should
    # be, for the same images.
    peaks = {key: 3 * value for key, value in PEAKS.items()}
    new = report(
        train={"first": work | {"seconds": 3.0, "flops": 100.0}, "new": {"seconds": 2.0}}
    ) | {"peaks": peaks}
    rows = {row[0]: row[1:] for row in reports.compare(new, old)}
    assert rows["train first"] == (3.0, 6.0, pytest.approx(1.5))
    assert rows["train gone"] == (None, 1.0, None)
    assert rows["train new"] == (2.0, None, None)
    assert all(row[-1] in (1.0, None) for row in reports.compare(old, old))


def test_a_comparison_names_settings_that_differ(capsys):
    old = report(encode={"encode": {"seconds": 1.0}})
    reports.print_comparison(old | {"settings": {"batch": 1}}, old)
    out = capsys.readouterr().out
    assert "settings.batch: 1, stored 8" in out
    assert "| encode encode | 1 | 1 | 1 |" in out


def test_a_report_is_read_as_it_was_written(tmp_path):
    wanted = report(data={"ours": {"seconds": 0.012346789, "cores": 4}})
    reports.write(tmp_path / "a.json", wanted)
    found = reports.read(tmp_path / "a.json")
    assert found["data"] == {"ours": {"seconds": 0.01235, "cores": 4}}
    assert found["peaks"] == PEAKS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:50], "is not JSON"),
        (lambda text: "[1]", "not an object"),
        (lambda text: text.replace('"peaks"', '"tops"'), "has no 'peaks'"),
        (lambda text: text.replace('"bytes": 10.0', '"bytes": 0'), "peaks.bytes is 0"),
        (lambda text: text.replace('"seconds": 1.0', '"seconds": NaN'), "encode.seconds is nan"),
        (lambda text: text.replace('"flops": 5.0', '"flops": "5"'), "encode.flops is '5'"),
        (lambda text: text.replace('"dtype": "float32"', '"dtype": "int8"'), "dtype is 'int8'"),
    ],
)
def test_a_damaged_report_is_refused(tmp_path, change, message):
    path = tmp_path / "stored.json"
    row = {"seconds": 1.0, "flops": 5.0, "bytes": 5.0, "dtype": "float32"}
    reports.write(path, report(encode={"encode": row}))
    reports.read(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError) as error:
        reports.read(path)
    assert message in str(error.value)
    assert f"--compare={path}" in str(error.value) and "--output" in str(error.value)


def run(*arguments):
    """The command in a process of its own, on one device and as many threads as cores."""
    simulated = ("XLA_FLAGS", "NPROC")
    environment = {key: value for key, value in os.environ.items() if key not in simulated}
    environment["XLA_FLAGS"] = FAST
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare=nothing.json"], "--compare=nothing.json does not exist"),
        (["--config=b17"], "--config=b17: there is no configs/b17.py"),
        (["--batch=0"], "--batch=0 must be at least 1"),
        (["--output=nowhere/a.json"], "there is no folder nowhere"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr


def test_it_runs_and_stands_beside_the_stored_report(tmp_path):
    """The two shortest sections: .ci/run runs them all."""
    stored = ROOT / "benchmarks" / "stored" / "cpu.json"
    output = tmp_path / "out.json"
    done = run("--quick", "--only", "encode", "decode", f"--output={output}", f"--compare={stored}")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(output.read_text())
    assert found.keys() - set(reports.ABOUT) == {"encode", "decode"}
    for name in ("encode", "decode"):
        row = found[name][name]
        for key in ("seconds", "bytes", "flops", "of_roofline"):
            assert math.isfinite(row[key]) and row[key] > 0, (name, key)
        assert row["model_flops"] >= row["flops"]
    # A figure by another name would be compared with nothing.
    compared = {row[0]: row[-1] for row in reports.compare(found, reports.read(stored))}
    assert {name.split()[0] for name in compared} >= {"encode", "decode"}
    assert all(f"| {name} | " in done.stdout for name in compared)


def test_the_stored_report_has_every_stage():
    """What has another name in the stored report would be compared with nothing."""
    stored = reports.read(ROOT / "benchmarks" / "stored" / "cpu.json")
    assert stored.keys() - set(reports.ABOUT) == set(SECTIONS)
    settings = stored["settings"]
    config = timing.configuration(settings["config"], settings["dtype"])
    plan = stages.plan(config, abstract_model(config.model.to_dict())[1], settings["batch"])
    assert {group: set(named) for group, named in plan.items()} == {
        group: set(found["stages"]) for group, found in stored["stages"].items()
    }
