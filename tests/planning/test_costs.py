"""What a run costs: by timed steps where there are any, scaled from them, or above a bound."""

import math
import os
import re

import jax
import jax.numpy as jnp
import pytest

from configs import b16, default, generate, l16, multimodal_7b, tiny_full
from unitok_jax.checkpoints import differences
from unitok_jax.planning import costs, fit, machines, price_list, programs
from unitok_jax.planning.machines import CHIPS, GPUS, Topology
from unitok_jax.planning.timed_steps import TIMED
from unitok_jax.runtime import sharding
from unitok_jax.training.plan import Phase, Plan

EARLY, LATE = "before the adversary", "with the adversary"
H200, H200_LATE = TIMED[:2]
MACHINES = {machine.name: machine for machine in costs.MACHINES}


def large(**changes):
    """The configuration of the steps that were timed on an H200, but for changes."""
    config = l16.get_config()
    config.update_from_flattened_dict(dict(H200.keys) | changes)
    return config


def step_of(config, machine, operations, phase=EARLY, least=0.0):
    machine = MACHINES[machine] if isinstance(machine, str) else machine
    return costs.of_phase(config, costs.Work(phase, 1.0, operations, least), machine)


class TestMeasured:
    def test_a_timed_step_tells_its_own_time(self):
        found = step_of(large(), "h200:1", 1.009 * H200.operations)
        assert found == costs.Estimate("measured", 0.25647, (H200,))

    @pytest.mark.parametrize(
        "key, value",
        [
            ("model.remat", "products"),
            ("model.dtype", "float32"),
            ("model.residual_dtype", "bfloat16"),
            ("model.quant_causal", True),
            ("model.drop_path", 0.0),
            ("data.batch_size", 64),
            ("data.decode_fraction", 0.5),
            ("data.text_features", "folder"),
            ("loss.l1", 0.0),
            ("loss.gram", 1.0),
            ("loss.contrastive_kind", "sigmoid"),
            ("loss.teacher_token", 1.0),
            ("codebook.learning", "ema"),
            ("codebook.gradient", "rotation"),
            ("codebook.wrong_share", 0.1),
            ("gan.adaptive", False),
            ("gan.loss", "softplus"),
            ("gan.generator_loss", "non_saturating"),
            ("gan.consistency", 0.0),
            ("optim.accumulation", 2),
            ("optim.ema_decay", 0.9),
            ("optim.frozen", ("text_encoder.*",)),
        ],
    )
    def test_another_step_is_not_measured(self, key, value):
        assert step_of(large(**{key: value}), "h200:1", H200.operations).kind != "measured"

    @pytest.mark.parametrize(
        "key, value",
        [
            ("steps", 100),
            ("seed", 1),
            ("loss.l1", 0.3),
            ("gan.start_fraction", 0.5),
            ("codebook.ema_decay", 0.9),
            ("optim.learning_rate", 1e-3),
            ("optim.betas", (0.9, 0.99)),
            ("data.path", "folder"),
            ("data.crop_scale", (0.5, 1.0)),
            ("data.size_schedule", ((0.0, 128), (0.85, 256))),
            ("frozen.lpips", "file"),
            ("log.every", 1),
        ],
    )
    def test_other_numbers_are_the_same_step(self, key, value):
        assert step_of(large(**{key: value}), "h200:1", H200.operations).kind == "measured"

    def test_a_key_that_came_later_counts(self, monkeypatch):
        """A timed step had the value that brings back what was before it."""
        config = large()
        with config.unlocked():
            config.model.later = 1
        assert step_of(config, "h200:1", H200.operations).kind == "scaled"
        monkeypatch.setitem(differences.ADDED, "model.later", 1)
        assert step_of(config, "h200:1", H200.operations).kind == "measured"
        config.model.later = 2
        assert step_of(config, "h200:1", H200.operations).kind == "scaled"

    def test_other_operations_are_another_step(self):
        """As of another loss, which the keys of a timed step do not name."""
        assert step_of(large(), "h200:1", 1.011 * H200.operations).kind == "scaled"

    def test_another_machine_is_not_measured(self):
        assert step_of(large(), "h100:1", H200.operations).kind == "scaled"
        eight = Topology("h200:8", [], GPUS["h200"], 8, 1)
        found = step_of(large(), eight, H200.operations)
        assert (found.kind, found.seconds) == ("scaled", 0.25647 / 8)

    def test_phases_and_products_are_kept_apart(self):
        """Also where a step of another phase is of as many operations."""
        for timed, other in ((H200, H200_LATE), (H200_LATE, H200)):
            found = step_of(large(), "h200:1", other.operations, timed.phase)
            assert found.sources == (timed,)
        found = step_of(generate.get_config(), "h100:1", 1e15, "every step")
        assert [step.product for step in found.sources] == ["generator"]


class TestScaled:
    def test_operations_and_chips(self):
        config = large(**{"data.batch_size": 320})
        found = step_of(config, "h200:1", 11 * H200.operations)
        assert found == costs.Estimate("scaled", pytest.approx(11 * 0.25647), (H200,))

    @pytest.mark.parametrize(
        "machine, slower",
        [("h100:1", 4800 / 3350), ("h100:8", 4800 / 3350 / 8), ("rtx4090:1", 989 / 165)],
    )
    def test_another_chip_by_what_it_has_least_of(self, machine, slower):
        found = step_of(large(), machine, H200.operations)
        assert found.seconds == pytest.approx(0.25647 * slower)

    def test_never_faster_than_the_bound(self):
        found = step_of(large(), "h100:1", H200.operations, least=0.5)
        assert found == costs.Estimate("bound", 0.5, ())

    @pytest.mark.parametrize("times, kind", [(7.9, "scaled"), (8.1, "bound")])
    def test_only_near_sizes_are_alike(self, times, kind):
        """Of operations a sample, up and down: no large model's speed is told of a small one."""
        batch = {"data.batch_size": 320}
        more = step_of(large(**batch), "h200:1", 10 * times * H200.operations)
        fewer = step_of(large(**batch), "h200:1", 10 / times * H200.operations)
        assert (more.kind, fewer.kind) == (kind, kind)

    def test_the_nearest_size_on_a_cpu_is_taken(self):
        """In any dtype: a CPU's runs are float32."""
        for config, size, operations in ((b16, "base", 900e9), (tiny_full, "tiny", 12e9)):
            config = config.get_config()
            config.data.batch_size = 64
            found = step_of(config, "cpu:1", 64 * operations)
            assert found.kind == "scaled" and found.sources[0].keys["model.size"] == size
            assert found.sources[0].kind == "cpu"

    def test_float32_on_a_gpu_is_not_alike(self):
        config = large(**{"model.dtype": "float32", "data.batch_size": 64})
        assert step_of(config, "h100:1", 2 * H200.operations).kind == "bound"


class TestBound:
    def test_no_tpu_was_timed(self):
        counted = [costs.Counted(EARLY, 1.0, dict.fromkeys(("cpu", "cuda", "tpu"), 197e12 * 512))]
        found = {m.name: e for m, e in costs.estimates(large(), counted)}
        assert found["v5e:16x16"] == costs.Estimate("bound", 2.0, ())
        assert found["v5e:4x4"].seconds == 32.0

    def test_operations_of_the_forms_of_each_chip(self):
        counted = [costs.Counted(EARLY, 1.0, {"cpu": 1e12, "cuda": 4e12, "tpu": 2e12})]
        config = large(**{"data.batch_size": 2})
        found = {m.name: e.seconds for m, e in costs.estimates(config, counted)}
        assert found["h200:1"] == pytest.approx(4e12 / H200.operations * H200.seconds)
        assert found["v5e:4x4"] == pytest.approx(2e12 / 197e12 / 16)
        assert found["cpu:1"] == pytest.approx(1e12 / 793e9 * 3.68)

    def test_what_nothing_is_known_of(self):
        counted = [costs.Counted("every step", 1.0, dict.fromkeys(("cpu", "cuda", "tpu"), 1e18))]
        config = multimodal_7b.get_config("pretrain")
        found = {m.name: e for m, e in costs.estimates(config, counted)}
        assert found["cpu:1"].kind == "not measured" and math.isnan(found["cpu:1"].seconds)
        assert {e.kind for name, e in found.items() if name != "cpu:1"} == {"bound"}
        assert price_list.figures(config, MACHINES["cpu:1"], found["cpu:1"]) == ["-"] * 3


class TestRun:
    def test_both_phases_by_their_shares(self):
        work = [
            costs.Work(EARLY, 0.375, H200.operations, 0.1),
            costs.Work(LATE, 0.625, H200_LATE.operations, 0.1),
        ]
        found = costs.of_run(large(), work, MACHINES["h200:1"])
        assert found.seconds == pytest.approx(0.375 * 0.25647 + 0.625 * 0.345)
        assert (found.kind, found.sources) == ("measured", (H200, H200_LATE))

    def test_phases_of_one_kind_name_their_timed_step_once(self):
        """As those of a curriculum, whose sizes are phases of their own."""
        work = [costs.Work(LATE, 0.5, factor * H200_LATE.operations, 0.0) for factor in (0.5, 1)]
        found = costs.of_run(large(), work, MACHINES["h200:1"])
        assert found.sources == (H200_LATE,)

    def test_it_is_as_sure_as_its_least_sure_phase(self):
        work = [
            costs.Work(EARLY, 0.375, H200.operations, 0.1),
            costs.Work(LATE, 0.625, 2 * H200_LATE.operations, 0.1),
        ]
        assert costs.of_run(large(), work, MACHINES["h200:1"]).kind == "scaled"
        work[1] = work[1]._replace(least=10.0)
        assert costs.of_run(large(), work, MACHINES["h200:1"]).kind == "bound"


class TestReport:
    def config(self):
        return large(steps=36_000, **{"data.batch_size": 1024})

    def test_hours_of_all_steps_on_all_chips(self):
        found = costs.Estimate("scaled", 2.0, (H200,))
        cells = price_list.figures(self.config(), MACHINES["h100:8"], found, price=2.5)
        assert cells == ["512", "20.0", "160", "400"]

    def test_a_bound_is_told_as_one(self):
        found = costs.Estimate("bound", 0.0123456, ())
        cells = price_list.figures(self.config(), MACHINES["v5e:4x4"], found)
        assert cells == ["<= 82,900", ">= 0.123", ">= 1.98"]

    def test_columns_are_apart_whatever_they_hold(self):
        found = [(machine, costs.Estimate("bound", 1e-9, ())) for machine in costs.MACHINES]
        for line in price_list.report(self.config(), found, 1e-6).splitlines()[2:9]:
            assert len(line.split()) == 1 + 2 * 4 + 1

    def test_sources_are_named_once_and_referred_to(self):
        one = costs.Estimate("scaled", 2.0, (H200, H200_LATE))
        two = costs.Estimate("bound", 1.0, ())
        found = [(MACHINES["h100:1"], one), (MACHINES["h100:8"], one), (MACHINES["v5e:4x4"], two)]
        lines = price_list.report(self.config(), found).splitlines()
        assert lines[0].startswith("36,000 steps of 1,024 samples")
        assert lines[1].split() == ["machine", "samples/s", "hours", "chip-hours", "figure"]
        assert lines[3].split() == ["h100:8", "512", "20.0", "160", "scaled", "[1,2]"]
        assert lines[4].split()[-1] == "bound"
        assert len({line.index(line.split()[-1]) for line in (lines[1], lines[4])}) == 1
        assert lines[5].startswith("1: NVIDIA H200, 2026-11-27, jax 0.11.2: tokenizer, model.size=")
        assert "batch 32 in 256 ms, 229 TFLOP/s, 23% of the peak; python -m ben" in lines[5]
        assert lines[6].startswith("2: NVIDIA H200, 2026-11-26")
        assert [line.partition(":")[0] for line in lines[7:]] == ["scaled", "bound"]
        assert "USD" not in lines[1]
        assert "USD" in price_list.report(self.config(), found, 3.0).splitlines()[1]


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_price(price):
    with pytest.raises(ValueError, match=r"--price=.* is no price: US dollars an hour of one chip"):
        price_list.check_price(price, "h100:8")


def test_a_price_is_that_of_a_machine():
    with pytest.raises(
        ValueError, match="--price=2.0 is that of one kind of chip: name .*topology"
    ):
        price_list.check_price(2.0, "")
    price_list.check_price(2.0, "h100:8")
    price_list.check_price(None, "")


def test_the_cost_of_a_plan_that_was_compiled(monkeypatch, capsys):
    """Operations of all devices are scaled, and both phases count; none of the GPUs is there."""
    monkeypatch.setattr(machines.gpus, "has_compiler", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])

    def make_plan(config, devices):
        mesh = sharding.make_mesh(8, 1, devices)
        one = jax.ShapeDtypeStruct(
            (8192, 65_536), jnp.bfloat16, sharding=sharding.batch_sharding(mesh)
        )
        other = jax.ShapeDtypeStruct(
            (65_536, 8192), jnp.bfloat16, sharding=sharding.replicated(mesh)
        )
        step = jax.jit(jnp.matmul)
        phases = [
            Phase(f"128 px, {kind}", step, share, other, kind)
            for kind, share in ((EARLY, 0.25), (LATE, 0.75))
        ]
        return Plan(mesh, phases, (one,), {"first": one}, 1e9, "images", 1, "")

    config = large(steps=1_000_000, **{"data.batch_size": 8})
    fit.fit(make_plan, config, "h100:8", 0.5, price=2.0)
    head, row = re.findall(r"^  +(?:machine|h100:8) .*$", capsys.readouterr().out, re.M)
    operations = 2 * 8192 * 8192 * 65_536
    early, late = (operations * step.seconds / step.operations for step in TIMED[:2])
    seconds = (0.25 * early + 0.75 * late) * 4800 / 3350 / 8
    told = dict(zip(head.split(), row.replace(",", "").split(), strict=False))
    assert float(told["samples/s"]) == pytest.approx(8 / seconds, rel=0.01)
    assert float(told["hours"]) == pytest.approx(1e6 * seconds / 3600, rel=0.01)
    assert float(told["chip-hours"]) == pytest.approx(8e6 * seconds / 3600, rel=0.01)
    assert float(told["USD"]) == pytest.approx(2 * 8e6 * seconds / 3600, rel=0.01)
    assert told["figure"] == "scaled"


class TestRecords:
    @pytest.mark.parametrize("step", TIMED, ids=lambda s: f"{s.kind}, {s.keys['model.size']}")
    def test_each_is_complete(self, step):
        config = {"tokenizer": default, "generator": generate}[step.product].get_config()
        config.update_from_flattened_dict(dict(step.keys))  # of keys and types that exist
        assert step.kind == "cpu" or step.kind in GPUS
        assert step.date < "2027" and step.command and step.card and step.jax
        share = step.operations / step.seconds / (GPUS.get(step.kind) or CHIPS["v5e"]).flops
        assert 0 < share < 0.6

    @pytest.mark.parametrize(
        "file, step",
        [(l16, TIMED[0]), (b16, TIMED[2]), (tiny_full, TIMED[4]), (generate, TIMED[6])],
    )
    def test_each_is_of_a_configuration_of_today(self, file, step):
        """Of the one that its command names, with the few keys that a reader is told."""
        config = file.get_config()
        assert not programs.same(step.keys, config.to_dict())
        config.update_from_flattened_dict(step.told)
        assert programs.same(step.keys, config.to_dict())

    def test_no_two_are_of_the_same_step(self):
        told = [(s.product, s.phase, s.kind, sorted(s.keys.items())) for s in TIMED]
        assert all(told.count(one) == 1 for one in told)
