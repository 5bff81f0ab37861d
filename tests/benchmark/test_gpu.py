"""The benchmark of GPUs: order, resumption, failures, kinds of kernels, and a run of some."""

import inspect
import json
import os
import pathlib
import subprocess
import sys
import time
import types
from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks import generate, inference, multimodal, stages, train_step
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import fed, kernels, release, worker
from benchmarks.gpu.figures import SECTIONS, Figure, Settings, figures
from benchmarks.gpu.lines import Lines
from benchmarks.timing import configuration
from helpers.jobs import FAST
from unitok_jax.models import recomputation
from unitok_jax.tokenizer.run import Run

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = Settings("tiny_full", None, (32, 64), ("none", "blocks"), (1, 128), False)
MACHINE = {"device": "a card", "devices": 1, "jax": "0"}
# Measures like a worker: figures whose name says that they end the process, hang, or work.
WORKER = """
import json, os, sys, time
given = json.loads(sys.argv[-1])
def say(**row): print(json.dumps(row), flush=True)
say(machine={"device": "a card", "devices": 1, "jax": "0", "pid": os.getpid()}, dtype="float32")
for name in given["names"]:
    say(begin=name)
    if name == "dies": os.kill(os.getpid(), 9)
    if name == "hangs": time.sleep(600)
    say(figure=name, row={"pid": os.getpid()})
"""


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Measures names by `WORKER`; returns what is left and the rows of the output."""
    monkeypatch.setattr(gpu, "WORKER", [sys.executable, "-c", WORKER])

    def run(names, alone=(), seconds=60.0, **settings):
        lines = Lines(tmp_path / "out.jsonl")
        table = {name: Figure("peaks", dict, name in alone) for name in names}
        until = time.monotonic() + seconds
        wanted = SETTINGS._replace(**settings)
        left = gpu.measure(wanted, lines, lines.missing(names), table, until)
        return left, Lines(tmp_path / "out.jsonl").rows

    return run


class TestOrder:
    def test_the_most_important_come_first(self):
        names = list(figures(SETTINGS, dict))
        assert names[0] == "peaks" and names[1].startswith("parity")
        place = {section: names.index(f"{section}, batch 128") for section in ("encode", "decode")}
        assert place["encode"] < place["decode"] < names.index("train first, batch 32, remat none")
        assert names.index("train first, batch 32, remat none") < names.index(
            "train adversarial, batch 64, remat blocks"
        )

    def test_every_section_has_figures(self, monkeypatch):
        monkeypatch.setenv(release.VARIABLE, "somewhere")
        assert {figure.section for figure in figures(SETTINGS, dict).values()} == set(SECTIONS)

    def test_no_adversary_has_no_figure(self):
        assert not any(
            "adversarial" in name for name in figures(SETTINGS._replace(config="tiny"), dict)
        )


class TestProcesses:
    def test_neighbours_share_one(self, measure):
        left, rows = measure(["a", "b", "c", "d", "e"], alone=("c", "d"))
        pids = [rows[name]["pid"] for name in "abcde"]
        assert left == 0 and pids[0] == pids[1] and len(set(pids)) == 4

    def test_the_rest_go_on_after_one_that_ends_the_process(self, measure):
        left, rows = measure(["a", "dies", "b"])
        assert left == 0 and list(rows) == ["a", "dies", "b"]
        assert rows["dies"]["error"] == "the process ended with -9"

    def test_what_is_known_is_not_measured_again(self, measure):
        _, before = measure(["a", "b"])
        _, after = measure(["a", "b", "c"])
        assert after["a"] == before["a"] and after["c"]["pid"] != before["a"]["pid"]

    def test_it_stops_when_the_time_is_up(self, measure):
        begun = time.monotonic()
        left, rows = measure(["a", "hangs", "b"], seconds=3.0)
        assert time.monotonic() - begun < 30
        assert left == 2 and list(rows) == ["a"]  # no error: the next call measures it

    def test_figures_of_another_kind_are_refused(self, measure):
        measure(["a"])
        with pytest.raises(ValueError, match="config tiny_full there and b16 here"):
            measure(["b"], config="b16")


class TestLines:
    def test_a_line_cut_short_is_measured_again(self, tmp_path):
        path = tmp_path / "out.jsonl"
        lines = Lines(path)
        lines.begin(MACHINE, {"config": "a"})
        lines.add("one", {"seconds": 1.0})
        lines.add("two", {"error": "no"})
        whole = path.read_text()
        path.write_text(whole + '{"figure": "thr')
        found = Lines(path)
        assert found.rows["one"]["seconds"] == 1.0 and path.read_text() == whole
        assert found.missing(["one", "two", "three"]) == ["three"]
        assert found.missing(["one", "two", "three"], again=True) == ["two", "three"]

    @pytest.mark.parametrize("text", ["[1]\n", "hello\n", '{"machine": {}, "settings": {}}\n{}\n'])
    def test_another_file_is_refused_and_kept(self, tmp_path, text):
        path = tmp_path / "thesis.txt"
        path.write_text(text)
        with pytest.raises(ValueError, match="is no figure of this benchmark"):
            Lines(path)
        assert path.read_text() == text


def test_a_figure_that_fails_is_an_error():
    def fails():
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    assert worker._measured(Figure("train", fails)) == {
        "error": "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    }
    assert worker._measured(Figure("train", lambda: {"a": {"b": 1 / 3}})) == {"a": {"b": 0.33333}}


class TestKernels:
    @pytest.mark.parametrize(
        ("kernel", "operation", "wanted"),
        [
            ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_TNT", "command_buffer_3", "products"),
            ("gemm_fusion_dot_12", "command_buffer_3", "products, Triton"),
            ("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize_ffma_aligna4", "",
             "float32 products on plain cores"),
            ("void cutlass::Kernel2<cutlass_80_simt_sgemm_128x64_8x5_nt_align1>", "",
             "float32 products on plain cores"),
            ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc", "cudnn-conv-bw-input.3",
             "convolutions"),
            ("wgrad2d_c1_k1_nhwc", "cudnn-conv-bw-filter.2", "convolutions"),
            ("conv2d_c1_k1_nhwc_specialized", "", "convolutions"),
            ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma", "", "attention"),
            ("input_add_reduce_fusion_7", "command_buffer_1", "reductions"),
            ("loop_dynamic_update_slice_fusion_4", "command_buffer_1", "dynamic-update-slice"),
            ("memcpy128", "command_buffer_1", "copies"),
            ("loop_slice_fusion_4", "", "copies"),
            ("wrapped_transpose_2", "", "transposes"),
            ("triton_softmax_3", "", "softmax"),
            ("loop_convert_fusion_3", "command_buffer_1", "elementwise"),
            ("fusion_12", "fusion.12", "elementwise"),
            ("MysteryKernel", "", "other"),
        ],
    )  # fmt: skip
    def test_kinds(self, kernel, operation, wanted):
        assert kernels.kind(kernel, operation) == wanted

    def test_sums_are_of_one_step(self):
        events = [("memcpy1", "", 1.0), ("memcpy2", "", 2.0), ("nvjet", "", 9.0)]
        found = kernels.table(events, 2)
        assert list(found) == ["products", "copies"]
        assert found["copies"] == {"ms": 1.5, "share": 0.25, "launches": 1.0}

    @pytest.mark.parametrize(
        ("planes", "wanted"),
        [
            (("/host:CPU", "/device:GPU:0"), ["nvjet", "fusion_2"]),
            (("/host:CPU",), ["dot.1"]),
        ],
        ids=["gpu", "cpu"],
    )
    def test_events_of_a_trace(self, monkeypatch, tmp_path, planes, wanted):
        """Of a GPU what its streams ran; of a CPU its threads' operations, without loops."""

        def line(name, *events):
            made = [
                types.SimpleNamespace(name=kernel, stats=stats.items(), duration_ns=2e6)
                for kernel, stats in events
            ]
            return types.SimpleNamespace(name=name, events=made)

        traced = {
            "/host:CPU": [
                line("python", ("train_step", {})),
                line("worker", ("dot.1", {"hlo_op": "dot.1"}), ("w", {"hlo_op": "while.4"})),
            ],
            "/device:GPU:0": [
                line("XLA Ops", ("fusion.2", {"hlo_op": "fusion.2"})),
                line(
                    "Stream #13(Compute)",
                    ("nvjet", {"hlo_op": "call.3"}),
                    ("fusion_2", {"hlo_op": "command_buffer_1"}),
                ),
            ],
        }
        data = types.SimpleNamespace(
            planes=[types.SimpleNamespace(name=name, lines=traced[name]) for name in planes]
        )
        reader = types.SimpleNamespace(from_file=lambda path: data)
        monkeypatch.setattr(kernels.jax.profiler, "ProfileData", reader)
        (tmp_path / "one.xplane.pb").touch()
        found = list(kernels._events(tmp_path))
        assert [kernel for kernel, _, _ in found] == wanted and found[0][2] == 2.0


def test_shares_are_of_the_time_after_the_first_step():
    records = [
        {"step": 0, "seconds": {"starting": 50.0}},
        {"step": 1, "seconds": {"starting": 20.0}},
        {"step": 11, "seconds": {"training": 9.0, "input": 1.0}},
        {"step": 21, "seconds": {"training": 10.0, "saving": 5.0}},
    ]
    found = fed.shares(records, 4)
    assert found["wait_share"] == 1 / 20 and found["saving_share"] == 5 / 25
    assert found["seconds"] == 1.0 and found["images_per_second"] == 4.0
    assert found["shares"] == {"training": 19 / 25, "input": 1 / 25, "saving": 5 / 25}


# A network with the release's names, that knows only the options which it reads.
NETWORK = """
import torch
class UniTok(torch.nn.Module):
    def __init__(self, args):
        super().__init__()
        assert args.model == "vitamin_tiny" and args.num_codebooks == 4 and args.vocab_size == 256
        self.scale = torch.nn.Parameter(torch.ones(()))
    def img_to_idx(self, images):
        assert images.shape == (3, 3, 64, 64)
        return (images * self.scale).sum().long()
"""


class TestRelease:
    @pytest.fixture
    def checkout(self, tmp_path, monkeypatch):
        monkeypatch.setenv(release.VARIABLE, str(tmp_path))
        monkeypatch.delitem(sys.modules, "models", raising=False)
        (tmp_path / "models").mkdir()
        yield tmp_path
        for name in ("models.unitok", "models"):
            sys.modules.pop(name, None)

    def test_it_is_imported_from_there(self, checkout):
        pytest.importorskip("torch")
        (checkout / "models" / "unitok.py").write_text(NETWORK)
        path = list(sys.path)
        found = release.measure(configuration("tiny"), "encode", 3, 2)
        assert found["images_per_second"] == pytest.approx(3 / found["seconds"])
        assert sys.path == path

    def test_what_it_lacks_is_named(self, checkout):
        pytest.importorskip("torch")
        (checkout / "models" / "unitok.py").write_text(NETWORK)
        with pytest.raises(ValueError, match="its UniTok has no method idx_to_img"):
            release.measure(configuration("tiny"), "decode", 3, 2)

    def test_another_network_is_refused(self, checkout):
        pytest.importorskip("torch")
        text = NETWORK.replace("args.model ==", "args.novel ==")
        (checkout / "models" / "unitok.py").write_text(text)
        with pytest.raises(ValueError, match="its UniTok is another one.*novel"):
            release.measure(configuration("tiny"), "encode", 3, 2)

    def test_another_folder_is_refused(self, checkout):
        with pytest.raises(ValueError, match=f"{release.VARIABLE}=.* has no models/unitok.py"):
            release.folder()

    def test_it_must_be_named(self, monkeypatch):
        monkeypatch.delenv(release.VARIABLE, raising=False)
        with pytest.raises(ValueError, match=f"{release.VARIABLE} is not set"):
            release.folder()


def environment():
    """Of one device and as many threads as cores."""
    return {key: value for key, value in os.environ.items() if key != "NPROC"} | {"XLA_FLAGS": FAST}


def run(*arguments):
    """The command, on one device and as many threads as cores."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config=b17", "--config=b17: there is no configs/b17.py"),
        ("--only=trains", "--only=trains is none of peaks, parity"),
        ("--remat=True", "model.remat='True' is not one of none"),
        ("--minutes=0", "--minutes, --batches and --inference-batches must be above 0"),
        ("--output=nowhere/a", "there is no folder nowhere"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(argument, message):
    done = run(argument)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_worker_ends_with_its_parent():
    """It holds the device: what is killed above it must not leave it behind."""
    settings = Settings("tiny", None, (2,), ("none",), (2,), False)
    given = {"settings": settings._asdict(), "names": ["parity base, float32"], "peaks": None}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    command = [*gpu.WORKER, json.dumps(given)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), **pipes) as process:
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdin.close()
        assert "machine" in told[0] and told[1] == {"begin": "parity base, float32"}
        assert process.wait(60) == 1 and process.stdout.read() == ""


@pytest.mark.slow
@pytest.mark.thorough
def test_it_runs(tmp_path):
    """The sections in which a process measures one figure with what another has compiled."""
    output, sections = tmp_path / "gpu.jsonl", ("peaks", "parity", "encode", "kernels", "compile")
    command = ["--config=tiny", "--quick", "--batches=2", "--remat=none", "--inference-batches=2"]
    command += ["--minutes=60", "--only", *sections, f"--output={output}"]
    done = run(*command)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {row["figure"]: row for row in map(json.loads, output.read_text().splitlines()[1:])}
    assert [name for name, row in rows.items() if "error" in row] == []
    table = figures(Settings("tiny", None, (2,), ("none",), (2,), True), dict)
    assert list(rows) == [name for name in table if table[name].section in sections]
    assert rows["parity tiny, float32"]["passes"]
    assert rows["parity tiny, float32"]["codes_changed"] == 0
    assert rows["kernels first, batch 2, remat none"]["kinds"]["products"]["launches"] > 1
    first = rows["compile again"]["first"]
    again = rows["compile again"].get("first, again", first)
    assert again["from_cache"]
    before = output.read_text()
    assert run(*command).returncode == 0 and output.read_text() == before


class Light(Run):
    """A run that trains and evaluates nothing; its data, its saves and its clock are real."""

    def initial_state(self):
        def zeros(a):
            return jax.device_put(np.zeros(a.shape, a.dtype), a.sharding)

        return jax.tree.map(zeros, self.abstract)

    def train_step(self, step, state, batch):
        assert batch["image"].shape == (8, 64, 64, 3)
        metrics = {"loss": np.float32(0), "skipped": np.int32(0), "skipped_in_a_row": np.int32(0)}
        return state.replace(step=state.step + 1), metrics

    def evaluate(self, state):
        return {"l1": np.float32(0)}, None


@pytest.mark.slow
def test_a_training_tells_how_long_it_waited_for_data(monkeypatch):
    monkeypatch.setattr(fed, "Run", Light)
    found = fed.measure("tiny", "float32", 8, 6, "none", quick=True)
    assert 0 < found["wait_share"] < 1 and 0 < found["saving_share"] < 1
    assert found["images_per_second"] * found["seconds"] == pytest.approx(8)
    assert (found["batch"], found["steps"]) == (8, 6)


class TestFigures:
    """What measures them runs in the tests of the other benchmarks."""

    PEAKS = {"float32": 4.0, "bfloat16": 4.0, "bytes": 2.0}
    SETTINGS = Settings("tiny_full", "float32", (2,), ("products",), (4,), True)

    @pytest.fixture
    def measured(self, monkeypatch):
        """Measures a figure by name, without the work: (row, arguments of what measures it)."""

        def call(name, module, function, result, **changed):
            spec = mock.create_autospec(getattr(module, function), return_value=result)
            monkeypatch.setattr(module, function, spec)
            settings = self.SETTINGS._replace(**changed)
            row = figures(settings, lambda: self.PEAKS)[name].measure()
            given = inspect.signature(spec).bind(*spec.call_args.args, **spec.call_args.kwargs)
            return row, given.arguments

        return call

    def test_of_training(self, measured):
        name = "train adversarial, batch 2, remat products"
        work = {"batch": 2, "seconds": 4.0, "model_flops": 8.0, "dtype": "float32"}
        row, given = measured(name, train_step, "measure", {"adversarial": dict(work)})
        assert row["images_per_second"] == 0.5 and row["of_peak"] == 0.5
        assert given["config"].model.remat == "products" and given["phases"] == ("adversarial",)
        row, given = measured("decode, batch 4", inference, "measure", {"decode": dict(work)})
        assert row["of_peak"] == 0.5 and given["batch"] == 4 and given["names"] == ["decode"]

    def test_of_data(self, measured):
        _, given = measured("data, batch 2, remat products", fed, "measure", {})
        assert (given["batch"], given["steps"], given["remat"]) == (2, 6, "products")

    def test_of_a_generator(self, measured, monkeypatch):
        monkeypatch.setattr(generate, "fill", mock.create_autospec(generate.fill))
        monkeypatch.setattr(generate, "compile_all", mock.create_autospec(generate.compile_all))
        row, given = measured(
            "sampler tiny, batch 2, scale 1.5", generate, "sampling_row", {"s": 1.0}
        )
        assert row == {"s": 1.0} and given["setting"] == (2, 1.5) and given["bandwidth"] == 2.0

    def test_of_a_multimodal_models_answers(self, measured, monkeypatch):
        monkeypatch.setattr(generate, "fill", mock.create_autospec(generate.fill))
        _, given = measured("answers shapes, batch 2", multimodal, "use_row", {})
        assert given["batch"] == 2 and given["args"].limit == 4

    @pytest.mark.parametrize(
        ("quick", "size", "rows"), [(True, "shapes", 2), (False, "qwen_0p5b", 16)]
    )
    def test_of_a_multimodal_models_training(self, measured, quick, size, rows):
        name = f"multimodal train {size}, batch {rows}"
        _, given = measured(name, multimodal, "train_row", {}, quick=quick)
        assert given["size"] == size and given["batch"] == rows and given["peak"] == 4.0
        assert given["remat"] in recomputation.BLOCKS

    def test_of_stages_and_of_the_release(self, measured, monkeypatch):
        _, given = measured("stages, batch 2", stages, "measure", {}, quick=False)
        assert given["batch"] == 2
        monkeypatch.setenv(release.VARIABLE, "somewhere")
        _, given = measured("release encode, batch 4", release, "measure", {})
        assert given["batch"] == 4 and given["method"] == "encode"
