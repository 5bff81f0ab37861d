"""Jobs of several real processes on this machine, for tests."""

import importlib.metadata
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

# The smallest job that evaluates, saves and has a frozen network.
SETTINGS = [
    "--config=configs/tiny.py",
    "--config.steps=8",
    "--config.model.size=nano",
    "--config.model.quant_heads=2",
    "--config.model.text.layers=1",
    "--config.data.image_size=(48,48)",
    "--config.data.batch_size=8",
    "--config.data.num_threads=1",
    "--config.loss.perceptual=1.0",
    "--config.frozen.lpips=seeded",
    "--config.optim.learning_rate=1e-4",
    "--config.eval.every=4",
    "--config.eval.batch_size=8",
    "--config.eval.max_images=12",
    "--config.eval.grid_images=2",
    "--config.checkpoint.every=4",
    "--config.log.every=1",
]


# Programs are compiled fast and not well: most of a short run is its compilation.
FAST = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Its older emitter of fused loops, a third of the time for an optimiser's; the next has one.
    FAST += " --xla_cpu_use_fusion_emitters=false"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many simulated devices, which need twice as many threads."""
    return {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {FAST}",
        "NPROC": str(2 * devices + 2),
    }


class Job:
    """A program in one or several processes, whose output goes to files; by default, `main`."""

    def __init__(
        self,
        logs: pathlib.Path,
        workdir,
        processes: int,
        devices: int,
        *more,
        settings=SETTINGS,
        each=(),
        program="unitok_jax.main",
        **options,
    ):
        """Starts the processes.

        workdir: of `main`; None of another program. settings, more: arguments of all; each: further
        ones of every process, in their order; options: of `Popen`.
        """
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{process}.log" for process in range(processes)]
        if workdir is not None:
            settings = [f"--workdir={workdir}", *settings]
        where = [()]
        if processes > 1:
            to = f"--coordinator=127.0.0.1:{free_port()}", f"--processes={processes}"
            where = [(*to, f"--process={process}") for process in range(processes)]
        self.processes = []
        for process in range(processes):
            arguments = [*where[process], *more, *(each[process] if each else ())]
            with self.logs[process].open("w") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", program, *settings, *arguments],
                        env=environment(devices),
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        **options,
                    )
                )

    def wait(self, timeout: float = 400) -> list[int | None]:
        """Exit codes; None for whoever has not ended by then and is killed."""
        deadline, codes = time.monotonic() + timeout, []
        for process in self.processes:
            try:
                codes.append(process.wait(max(0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                codes.append(None)
        self.kill()
        return codes

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_until(self, happens, what: str, timeout: float = 400) -> None:
        """Until `happens()`; no process may end before."""
        deadline = time.monotonic() + timeout
        while not happens():
            ended = [p.poll() for p in self.processes]
            if any(code is not None for code in ended) or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"no {what}; exit codes {ended}\n{self.output()}")
            time.sleep(0.02)

    def wait_for_step(self, workdir: pathlib.Path, step: int, timeout: float = 400) -> None:
        """Until a record of `step` is there."""
        self.wait_until(
            lambda: any(r["step"] >= step for r in records(workdir)), f"step {step}", timeout
        )

    def wait_for_line(self, words: str, timeout: float = 400) -> None:
        """Until process 0 has printed `words`."""
        deadline = time.monotonic() + timeout
        while words not in self.output(0):
            if self.processes[0].poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"no {words!r}\n{self.output()}")
            time.sleep(0.05)

    def output(self, process: int | None = None) -> str:
        """What one process, or all, printed."""
        logs = self.logs if process is None else [self.logs[process]]
        return "\n".join(log.read_text() for log in logs)


def records(workdir: pathlib.Path) -> list[dict]:
    """The complete lines of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
