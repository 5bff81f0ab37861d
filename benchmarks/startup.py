"""Seconds before the first result of each command, each in a process of its own.

    python -m benchmarks.startup [--config tiny] [--rounds 1]

`cold` compiles all programs, `warm` reads the programs from the compilation cache that the cold
process filled; both start with the same files in memory. The cache is a folder of this benchmark.
The wall clock counts the neighbours of a shared machine too; seconds of CPU, over all threads of
the process, hardly do. Weights are random: they do not change the time.
"""

import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
_NEWS = "import time; began = time.perf_counter(), time.process_time()\n"
_TOLD = "\nprint(time.perf_counter() - began[0], time.process_time() - began[1])\n"
_WEIGHTS = """
import importlib, sys, jax
from unitok_jax.tokenizer import step
from unitok_jax.weights import load
config = importlib.import_module(f"configs.{sys.argv[2]}").get_config()
params = jax.jit(lambda key: step.init_params(config.model.to_dict(), key))(jax.random.key(0))
load.write(sys.argv[1], config, params)
"""
_ENCODE = """
import sys, numpy as np, unitok_jax
from unitok_jax.runtime import compilation_cache
compilation_cache.enable()
tokenizer = unitok_jax.load(sys.argv[1])
images = np.zeros((1, *tokenizer.image_size, 3), np.uint8)
"""
_STEP = """
import functools, importlib, sys, jax, jax.numpy as jnp
from unitok_jax.runtime import compilation_cache
from unitok_jax.tokenizer.step import TokenizerSteps
compilation_cache.enable()
config = importlib.import_module(f"configs.{sys.argv[2]}").get_config()
steps = TokenizerSteps(config)
networks = steps.abstract_networks()
side = config.data.image_size
batch = {
    "image": jax.ShapeDtypeStruct((8, *side, 3), jnp.uint8),
    "text": jax.ShapeDtypeStruct((8, config.model.text.context_length), jnp.int32),
}
arguments = dict(adversarial=False, gather=lambda params: params)
step = jax.jit(functools.partial(steps.train_step, **arguments))
lowered = step.lower(jax.eval_shape(steps.init), networks, batch)
"""


def measure(config: str = "tiny", rounds: int = 1) -> dict[str, float]:
    """Measures the start of every command.

    Args:
      config: a name in configs/.
      rounds: number of repetitions; the medians are returned.

    Returns:
      name -> seconds on the wall clock, and `name, CPU` -> seconds of CPU over all threads.
    """
    numbers = {}
    for _ in range(rounds):
        for name, wall, used in _once(config):
            print(f"{name}: {wall:.2f} s, {used:.2f} s of CPU", file=sys.stderr, flush=True)
            numbers.setdefault(name, []).append(wall)
            numbers.setdefault(f"{name}, CPU", []).append(used)
    return {name: statistics.median(seconds) for name, seconds in numbers.items()}


def _once(config):
    """Measures each start once; yields name, seconds on the wall clock and seconds of CPU."""
    with tempfile.TemporaryDirectory() as folder:
        weights = str(pathlib.Path(folder) / "weights.safetensors")
        environment = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
        environment["XDG_CACHE_HOME"] = str(pathlib.Path(folder) / "cache")

        def python(name, code):
            return name, *map(float, run(code, environment).split()[-2:])

        def run(code, env):
            command = [sys.executable, "-c", code, weights, config]
            return subprocess.run(
                command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True
            ).stdout

        run(_WEIGHTS, environment | {"JAX_ENABLE_COMPILATION_CACHE": "false"})
        yield python("import unitok_jax", f"{_NEWS}import unitok_jax{_TOLD}")
        yield python(
            "import unitok_jax.tokenizer.api", f"{_NEWS}import unitok_jax.tokenizer.api{_TOLD}"
        )
        encoded = f"{_ENCODE}{_NEWS}tokenizer.encode(images){_TOLD}"
        yield python(
            "load",
            f"import sys, unitok_jax.tokenizer.api\n{_NEWS}unitok_jax.load(sys.argv[1]){_TOLD}",
        )
        for state in ("cold", "warm"):
            yield python(f"first encode, {state}", encoded)
        for state in ("cold", "warm"):
            yield python(
                f"compile of the train step, {state}", f"{_STEP}{_NEWS}lowered.compile(){_TOLD}"
            )
        environment["XDG_CACHE_HOME"] = str(pathlib.Path(folder) / "cache_of_main")
        for state in ("cold", "warm"):
            times = _first_step(config, folder, state, environment)
            yield f"main until its first step is done, {state}", *times


def _first_step(config, folder, state, environment):
    """Measures seconds of `main`, from its start until metrics.jsonl has a record."""
    workdir = pathlib.Path(folder) / state
    command = [sys.executable, "-m", "unitok_jax.main", f"--config=configs/{config}.py"]
    command += [f"--workdir={workdir}", "--config.log.every=1"]
    log = workdir.with_suffix(".log")
    before, began = _children(), time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file)
    records = workdir / "metrics.jsonl"
    while process.poll() is None and not (records.exists() and records.stat().st_size):
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    if not records.exists():
        raise RuntimeError(f"{' '.join(command)} ended without a step:\n{log.read_text()}")
    return seconds, _children() - before


def _children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(numbers: dict[str, float]) -> str:
    """Formats the result of `measure` as Markdown."""
    lines = ["| start of | s | s of CPU |", "|---|---|---|"]
    for name, seconds in numbers.items():
        if not name.endswith(", CPU"):
            lines.append(f"| {name} | {seconds:.2f} | {numbers[f'{name}, CPU']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", help="a name in configs/")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    numbers = measure(arguments.config, arguments.rounds)
    print(
        f"{arguments.config}, {os.cpu_count()} cores, load {load:.0f} to {os.getloadavg()[0]:.0f}\n"
    )
    print(table(numbers))


if __name__ == "__main__":
    main()
