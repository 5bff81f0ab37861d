"""--mode=compile: what a step needs on machines that are not here."""

import importlib.util
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from helpers.jobs import FAST
from unitok_jax.planning import costs, fit, hlo, links, replica_groups
from unitok_jax.planning import machines as topology
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.step import TokenizerSteps

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.compiler]

ROOT = pathlib.Path(__file__).parents[2]
NANO = {
    "model.size": "nano",
    "model.quant_heads": 2,
    "model.text.layers": 1,
    "data.image_size": "(32,32)",
    "data.source": "folder",  # of no path: nothing is read
}
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the extra tpu-compile, is missing"
)


def run(config, topology, *flags, settings=NANO):
    """main in a process of its own: JAX must not have started."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "unitok_jax.main",
            "--mode=compile",
            f"--config=configs/{config}.py",
            f"--topology={topology}",
            *(f"--config.{key}={value}" for key, value in settings.items()),
            *flags,
        ],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FAST},
        capture_output=True,
        text=True,
        timeout=900,
    )


def rows(text):
    """[{name: the rest of its line}] of every phase."""
    phases = re.split(r"^(?:before the adversary|with the adversary|every step)$", text, flags=re.M)
    return [dict(re.findall(r"^  (\S.*?)  +(.*)$", phase, re.M)) for phase in phases[1:]]


def gibibytes(row):
    return float(re.match(r"([\d.]+) GiB", row)[1])


@pytest.mark.thorough
def test_both_phases_on_simulated_devices():
    settings = NANO | {"frozen.dinov2": "", "loss.perceptual": 0, "loss.contrastive": 0}
    settings |= {"gan.consistency": 0}  # half of the compile time
    done = run("tiny_full", "host:8", "--config.mesh.fsdp=2", settings=settings)
    assert done.returncode == 0, done.stderr
    first, second = rows(done.stdout)
    for phase in (first, second):
        for name in ("optimiser", "activations and temporaries", "operations", "memory traffic"):
            assert float(phase[name].split()[0]) > 0, name
        parts = [gibibytes(row) for name, row in phase.items() if "GiB" in row and name != "peak"]
        assert gibibytes(phase["peak"]) == pytest.approx(sum(parts), abs=0.01)
        assert "all-reduce" in phase
    assert gibibytes(second["activations and temporaries"]) > gibibytes(
        first["activations and temporaries"]
    )

    from configs import tiny_full

    config = tiny_full.get_config()
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    sizes = [
        math.prod(a.shape) // (2 if sharding.param_spec(a.shape, 2) != P() else 1) * 4
        for a in jax.tree.leaves(TokenizerSteps(config).abstract_params)
    ]
    # Parameters are gathered once; activations never are.
    gathered = 1e9 * float(first["all-gather"].split()[0])
    assert gathered < 1.1 * 2 * sum(sizes)
    assert f"{sum(sizes)} bytes" in first["parameters"]
    assert f"{sum(sizes)} bytes" in first["average of the parameters"]


def test_without_a_machine_the_price_list():
    """Of several machines and nothing compiled; the mesh of the configuration is not built."""
    done = run(
        "tiny", "", "--config.mesh.fsdp=64", "--config.steps=1000", "--config.data.batch_size=64"
    )
    assert done.returncode == 0, done.stderr
    assert "1,000 steps of 64 samples" in done.stdout
    listed = dict(re.findall(r"^ +(\S+:\S+) .*  (\w[\w ]+)", done.stdout, re.M))
    assert listed == {m.name: "bound" for m in costs.MACHINES} | {"cpu:1": "not measured"}
    assert "\n--topology=NAME" not in done.stdout and "--topology=NAME compiles" in done.stdout


@needs_compiler
def test_a_tpu_slice():
    done = run("tiny", "v5e:2x2")
    assert done.returncode == 0, done.stderr
    (phase,) = rows(done.stdout)
    assert "of 16 GiB: fits" in phase["peak"]
    assert "over 4 devices" in phase["all-reduce"]
    assert "images/s" in phase["at 50% of it"]
    assert "days for 1.28 billion images at 50%" in done.stdout
    assert re.search(r"^ +v5e:2x2 +<= [\d,]+ +>= \S+ +>= \S+  bound$", done.stdout, re.M)


GENERATOR = {
    "model.size": "nano",
    "model.head_depth": 1,
    "model.num_codebooks": 2,
    "model.vocab_size": 128,
    "model.grid": "(2,4)",
    "loss.chunk": 8,
    "data.batch_size": 16,
}


def test_a_generator():
    done = run("generate", "h100:4", "--config.mesh.fsdp=2", settings=GENERATOR)
    assert done.returncode == 0, done.stderr
    (phase,) = rows(done.stdout)
    assert "of 60 GiB: at least" in phase["peak"]
    assert "over 2 devices" in phase["all-gather"]
    assert phase["batch"].endswith(f" {16 // 4 * (2 * 8 * 2 + 4)} bytes")  # codes and labels
    assert "0.38 billion images at 50% of the roofline\n" in done.stdout

    from configs import generate
    from unitok_jax.generate.step import abstract_model

    config = generate.get_config()
    model = config.model.to_dict() | {"size": "nano", "head_depth": 1, "grid": (2, 4)}
    shapes = abstract_model(model | {"num_codebooks": 2, "vocab_size": 128})[1]
    sizes = [
        4 * math.prod(a.shape) // (2 if sharding.param_spec(a.shape, 2) != P() else 1)
        for a in jax.tree.leaves(shapes)
    ]
    assert phase["parameters"].endswith(f" {sum(sizes)} bytes")
    assert phase["average of the parameters"] == phase["parameters"]


def test_a_multimodal_model():
    """Its rows are those of its own stage; the language model's blocks are split and gathered."""
    flags = ("--config.mesh.fsdp=4", "--config.data.batch_size=8", "--config.steps=1000000")
    done = run("unified", "h100:4", *flags, settings={})
    assert done.returncode == 0, done.stderr
    (phase,) = rows(done.stdout)
    assert "over 4 devices" in phase["all-gather"] and " rows/s" in phase["at 50% of it"]
    assert "days for 8.00 million rows at 50% of the roofline\n" in done.stdout


@needs_compiler
def test_a_generator_that_is_too_large_for_a_chip():
    done = run("generate", "v5e:1x1", settings=GENERATOR | {"data.batch_size": 2**24})
    assert done.returncode == 2
    assert "does not fit: needs at least" in done.stderr
    assert "try model.remat=blocks, a smaller loss.chunk" in done.stderr


@needs_compiler
def test_a_step_that_is_too_large_for_a_chip():
    done = run("tiny", "v5e:1x1", settings=NANO | {"data.batch_size": 2**20})
    assert done.returncode == 2
    assert re.search(r"does not fit: needs at least [\d.]+ GiB of 15.75 GiB; try", done.stderr)


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5e:3x3", "v9:2x2", "host:0", "v5e:4x4*0", "host:x", "h100:x"]
)
def test_names_that_are_no_machine(name):
    with pytest.raises(ValueError, match="valid names are") as caught:
        topology.find(name)
    for expected in (
        "v5e:SHAPE, 16 GiB a chip",
        "16x16",
        "v5p:SHAPE, 95 GiB",
        "h100:N, 80 GiB",
        "host:N",
    ):
        assert expected in str(caught.value)


def test_part_of_a_node():
    with pytest.raises(
        ValueError, match="--topology=h100:12 is not whole nodes of 8 GPUs; try h100:8"
    ):
        topology.find("h100:12")


def test_without_the_compiler(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[tpu-compile\]'"):
        topology.find("v5e:4x4")


def test_main_tells_in_one_line():
    done = run("tiny", "host:8", settings=NANO | {"data.batch_size": 12})
    assert done.returncode == 2
    assert "data.batch_size=12 is not a multiple of 8" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("tiny", "host:8", "--efficiency=1.5")
    assert done.returncode == 2 and "--efficiency=1.5" in done.stderr
    done = run("tiny", "h100:8", "--price=-2")
    assert done.returncode == 2 and "--price=-2.0 is no price" in done.stderr


@pytest.mark.parametrize(
    "text, numbers",
    [
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (54.88G) "
            "exceeds available HBM (15.75G).",
            "54.88 GiB of 15.75 GiB",
        ),
        (
            "Ran out of memory in memory space hbm. Used 33.39G of 15.75G hbm. Exceeded hbm "
            "capacity by 17.64G.",
            "33.39 GiB of 15.75 GiB",
        ),
    ],
)
def test_what_the_compiler_says_of_memory(text, numbers):
    error = jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {text}")
    message = fit.out_of_memory(error, "model.remat=everything")
    assert f"needs at least {numbers}; try model.remat=everything, or a larger slice" in message


def test_other_errors_of_the_compiler_are_not_about_memory():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fit.out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: a bug"), "")


def compiled_over_the_mesh(body, *shapes, node=0):
    """`body` on every one of 2 x 4 devices, its arguments split over all."""
    mesh = sharding.make_mesh(2, 4)
    where = P(("data", "fsdp"))
    function = jax.shard_map(body, mesh=mesh, in_specs=where, out_specs=where)
    arguments = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=jax.sharding.NamedSharding(mesh, where))
        for s in shapes
    ]
    return hlo.traffic(jax.jit(function).lower(*arguments).compile().as_text(), 8, node)


def test_collectives_in_and_out_of_loops():
    def body(x):  # (16, 128)
        def add(x, _):
            return x + jax.lax.psum(jnp.sin(x), "fsdp"), None

        x, _ = jax.lax.scan(add, x, None, length=5)
        everything = jax.lax.all_gather(x, "data")  # (2, 16, 128)
        part = jax.lax.psum_scatter(jnp.cos(x), "fsdp", tiled=True)  # (4, 128)
        neighbour = jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 2), (2, 3), (3, 0)])
        return neighbour * everything.prod(axis=0) + jnp.tile(part, (4, 1))

    whole = 16 * 128 * 4
    assert compiled_over_the_mesh(body, (8 * 16, 128)).collectives == {
        hlo.Collective("all-reduce", 4): (5, 5 * whole),
        hlo.Collective("all-gather", 2): (1, 2 * whole),
        hlo.Collective("reduce-scatter", 4): (1, whole / 4),
        hlo.Collective("collective-permute", 8): (1, whole),
    }


def test_memory_traffic_of_a_fusion():
    def traffic(function, *shapes):
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return hlo.traffic(jax.jit(function).lower(*arguments).compile().as_text(), 1).bytes

    n = 4096
    assert traffic(lambda x: jnp.sin(x) * 2 + 1, (n,)) == 2 * 4 * n

    def stacked(x, rows):
        return jax.lax.scan(lambda x, row: (jnp.sin(x + row), x), x, rows)

    # Every iteration reads a row and the carry and writes both; not the whole stack.
    (short, long) = (traffic(stacked, (n,), (length, n)) for length in (10, 20))
    assert 10 * 4 * 4 * n <= long - short <= 10 * 9 * 4 * n


@pytest.mark.parametrize("name, products", [("h100", 3), (None, 1)])
def test_operations_are_of_the_forms_of_the_chips(name, products):
    """Simulated devices stand for GPUs, whose programs take other forms than the devices'."""

    def by_platform(x):
        return jax.lax.platform_dependent(x, cuda=lambda x: x @ x @ x @ x, default=lambda x: x @ x)

    machine = topology.Topology("", jax.devices()[:1], topology.GPUS.get(name), 1, 1)
    traced = jax.jit(by_platform).trace(jax.ShapeDtypeStruct((8, 8), jnp.float32))
    cost = fit._cost(traced, traced.lower().compile(), 1, machine)
    assert cost.flops == products * 2 * 8**3


def test_time_on_the_links():
    machine = topology.Topology("v5e:4x4", [], topology.CHIPS["v5e"], 16, 2)
    of_all = links.seconds(hlo.Collective("all-reduce", 16), 1e9, 16, machine)
    assert of_all == pytest.approx(2 * 15 / 16 * 1e9 / 200e9)
    of_a_row = links.seconds(hlo.Collective("all-gather", 4), 1e9, 16, machine)
    assert of_a_row == pytest.approx(3 / 4 * 1e9 / 100e9)


@pytest.mark.parametrize(
    "kind, devices, nodes, sent, speed",
    [
        ("all-gather", 8, 1, 7 / 8, 450e9),  # NVLink
        ("all-reduce", 32, 4, 2 * 31 / 32, 400e9),  # 8 adapters a node
        ("all-reduce", 4, 4, 2 * 3 / 4, 50e9),  # each group has one of them
        ("reduce-scatter", 8, 4, 7, 100e9),
        ("all-to-all", 32, 4, 31 / 32, 50e9),
        ("collective-permute", 32, 4, 1, 50e9),
    ],
)
def test_time_between_nodes(kind, devices, nodes, sent, speed):
    machine = topology.Topology("h100:32", [], topology.GPUS["h100"], 32, 1)
    seconds = links.seconds(hlo.Collective(kind, devices, nodes), 1e9, 32, machine)
    assert seconds == pytest.approx(sent * 1e9 / speed)


ROWS = [[0, 1, 2, 3], [4, 5, 6, 7]]
COLUMNS = [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    "written, joined",
    [
        ("channel_id=1, to_apply=%add", [list(range(8))]),
        ("replica_groups={}, to_apply=%add", [list(range(8))]),
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", ROWS),
        ("replica_groups=[2,4]<=[8], dimensions={0}", ROWS),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}", COLUMNS),
        ("replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}", ROWS),
        ("replica_groups=mesh['x'=2,'y'=4] {'x'}, dimensions={0}", COLUMNS),
        ("replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}, d={0}", COLUMNS),
        ("replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}, d={0}", ROWS),
        ("replica_groups=mesh['x'=8] {'x':(2)4}, dimensions={0}", ROWS),
        ("replica_groups=mesh['x'=8] {'x':(1)2}, dimensions={0}", COLUMNS),
        ("replica_groups=mesh['x'=2,'y'=2,'z'=2] {'x','z'}, d={0}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("source_target_pairs={{0,4},{4,0}}, channel_id=1", [[0, 4], [4, 0]]),
    ],
)
def test_groups_of_a_collective(written, joined):
    assert replica_groups.groups(written, 8) == joined


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="not known in HLO"):
        replica_groups.groups("replica_groups=torus(2), dimensions={0}", 8)


def test_nodes_that_a_group_reaches_over():
    assert replica_groups.nodes(ROWS, 4) == 1
    assert replica_groups.nodes(COLUMNS, 4) == 2
    assert replica_groups.nodes([list(range(8))], 2) == 4


def test_collectives_within_and_between_nodes():
    def body(x):  # (16, 128)
        return jax.lax.psum(jnp.sin(x), "fsdp") + jax.lax.psum(jnp.cos(x), "data")

    whole = 16 * 128 * 4
    assert compiled_over_the_mesh(body, (8 * 16, 128), node=4).collectives == {
        hlo.Collective("all-reduce", 4, nodes=1): (1, whole),
        hlo.Collective("all-reduce", 2, nodes=2): (1, whole),
    }


def test_gpus():
    done = run("tiny", "h100:16", "--config.mesh.data=2", "--config.mesh.fsdp=8")
    assert done.returncode == 0, done.stderr
    (phase,) = rows(done.stdout)
    assert phase["activations and temporaries"] == phase["memory traffic"].split()[0] == "-"
    assert "of 60 GiB: at least" in phase["peak"]
    assert phase["all-gather"].endswith("over 8 devices, 16 devices in 2 nodes")
    assert "2 devices in 2 nodes" in phase["all-reduce"]
    numbers = {
        name: float(re.search(r"([\d.]+) ms", phase[name])[1])
        for name in ("operations", "collectives in all", "roofline")
    }
    flop = float(phase["operations"].split()[0]) * 1e9
    assert numbers["operations"] == pytest.approx(1e3 * flop / 989e12, abs=0.06)
    assert numbers["roofline"] == max(numbers["operations"], numbers["collectives in all"])
    # float32, of which nothing was timed on a GPU: as long as the roofline of every step.
    (told,) = re.findall(r"^ +h100:16 +<= (\S+) +>= (\S+) .*  bound$", done.stdout, re.M)
    speed, hours = (float(figure.replace(",", "")) for figure in told)
    half = float(phase["at 50% of it"].split()[0])
    assert speed == pytest.approx(2 * half, rel=0.01)
    assert hours == pytest.approx(200 * 16 / speed / 3600, rel=0.01)
