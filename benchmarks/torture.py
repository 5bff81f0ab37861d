"""Kills a training run repeatedly, and compares its results with those of an undisturbed run.

    python -m benchmarks.torture [--kills 50] [--seed 0] [--workdir DIR] [--json FILE]
        [--scenarios kills truncated disk preemption processes]

SIGKILL is sent at random moments of every phase: while the process starts, in its compilation and
first step, in a step, inside a save, right after a save, in an evaluation; or to a data worker
alone. The same command is started again until the run is finished, with as many runs as the kills
need. A run passes if every record in metrics.jsonl, every bit of weights and optimisers, and every
batch read by one of its processes are equal to those of the undisturbed run. Exit code 1 if any
check failed. The other scenarios are in `benchmarks/mishaps.py`.
"""

import argparse
import collections
import dataclasses
import json
import logging
import os
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import time

from absl import flags

from benchmarks.victim import Victim, alive, compare

# Both players, LPIPS and an average, at the smallest size; the adversary acts from step 8 on.
SETTINGS = [
    "--config=configs/tiny_full.py",
    "--config.steps=24",
    "--config.model.size=nano",
    "--config.model.quant_heads=2",
    "--config.data.image_size=(48,48)",
    "--config.data.batch_size=4",
    "--config.data.num_threads=1",
    "--config.gan.start_fraction=0.3",
    "--config.gan.ramp_fraction=0.2",
    "--config.gan.blur_fraction=0.4",
    "--config.eval.every=6",
    "--config.eval.batch_size=4",
    "--config.eval.max_images=8",
    "--config.eval.grid_images=2",
    "--config.checkpoint.every=4",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
]
WORKERS = "--config.data.num_workers=2"
WORKER = "data worker"
# phase -> seconds after its start within which the kill is sent
PHASES = {
    "start": 12.0,
    "compilation": 20.0,
    "first step": 4.0,
    "step": 0.6,
    "save": 0.4,
    "after a save": 0.05,
    "evaluation": 0.8,
    WORKER: 0.2,
}
GIVES_UP = 60.0  # seconds within which a process must end after its worker or partner was killed


@dataclasses.dataclass
class Life:
    """Life of one process: its first step, and its end."""

    run: int
    aim: str
    hit: str = "finished"
    begin: int = 0
    end: int = 0
    seconds: float = float("nan")  # until the end of its first step
    reads: dict[int, int] = dataclasses.field(default_factory=dict)  # step -> its batch's checksum


def live(target: Victim, aim: str, chance: random.Random, run: int = 0, delay=None) -> Life:
    """Starts the command, and kills it in the phase `aim`; any other value lets it finish.

    Args:
      target: the run.
      aim: a phase of PHASES.
      chance: random generator of the moment.
      run: number of the run, for the report.
      delay: seconds, instead of those of PHASES.

    Raises:
      AssertionError: the process ended by itself with an error, or the process or its data workers
        did not end when they should have.
    """
    life, steps = Life(run, aim), chance.randint(1, 4)
    target.start(*[WORKERS] * (aim == WORKER or run % 2))
    if _reached(target, aim, steps, chance.uniform(0, delay or PHASES.get(aim, 0.0))):
        workers = target.workers()
        if aim == WORKER:
            os.kill(chance.choice(workers), signal.SIGKILL)
            code, text = target.wait(GIVES_UP), target.text()
            assert code == 1 and "a worker was killed" in text, (code, text[-2000:])
            life.hit = WORKER
        else:
            target.kill()
            life.hit = _hit(target, aim)
        end = time.monotonic() + GIVES_UP
        while any(map(alive, workers)):
            assert time.monotonic() < end, f"data workers {workers} outlived their process"
            time.sleep(0.02)
    else:
        code = target.wait()
        assert code == 0, f"exit code {code}: {target.text()[-2000:]}"
    life.begin, life.end = target.resumed() or 0, target.logged()
    life.seconds, life.reads = target.first_step_seconds(), target.reads()
    return life


def _reached(target, aim, steps, delay) -> bool:
    """Waits for a moment in a phase; False if the process ended before."""

    def stepped():
        begin = target.resumed()
        return begin is not None and target.logged() >= begin + steps

    happens = {
        "start": lambda: True,
        "compilation": lambda: target.resumed() is not None,
        "first step": lambda: target.resumed() is not None,
        "step": stepped,
        "save": lambda: bool(target.logged()) and target.saving(),
        "after a save": lambda: bool(target.logged()) and target.saving(),
        "evaluation": target.evaluating,
        WORKER: stepped,
    }
    if aim not in happens or not target.until(happens[aim]):
        return False
    if aim == "after a save" and not target.until(lambda: not target.saving()):
        return False
    moment = time.monotonic() + delay
    return target.until(lambda: time.monotonic() >= moment)


def _hit(target, aim) -> str:
    """Returns the phase in which the process was killed, from its files and log."""
    if target.saving():
        return "save"
    if target.resumed() is None:
        return "start"
    if not target.logged():
        return "compilation" if aim == "compilation" else "first step"
    if target.evaluating():
        return "evaluation"
    return "after a save" if aim == "after a save" else "step"


def kills(folder: pathlib.Path, settings: list[str], reference: Victim, count: int, seed: int):
    """Kills processes, `count` kills in total, and lets the last run finish.

    Yields:
      Lives, and for every run that finished ('run N', differences from the reference).
    """
    chance, killed, run = random.Random(seed), 0, 0
    cold = folder / "cold_cache"  # compilation cache, filled by killed processes
    while killed < count:
        run += 1
        target = Victim(folder / f"run{run}", settings)
        lives = []
        while not lives or lives[-1].hit != "finished":
            aim = "none"
            if killed < count:
                # All phases in turn, in a new random order each time.
                if killed % len(PHASES) == 0:
                    order = chance.sample(list(PHASES), len(PHASES))
                aim = order[killed % len(PHASES)]
            target.cache = cold if aim == "compilation" else None
            lives.append(live(target, aim, chance, run))
            killed += lives[-1].hit != "finished"
            yield lives[-1]
        problems = compare(reference.workdir, target.workdir, target.setting("steps"))
        yield f"run {run}", problems + samples(lives, reference)


def samples(lives: list[Life], reference: Victim) -> list[str]:
    """Compares the batches noted by the processes of a run with those of the undisturbed run.

    Args:
      lives: all processes of one run, in order.
      reference: the undisturbed run.

    Returns:
      Different or missing batches, per process; steps that no process read; samples that the
      undisturbed order itself loses or repeats in an epoch.
    """
    from benchmarks import numbered

    steps, stream, problems = reference.setting("steps"), reference.reads(), []
    for number, life in enumerate(lives, 1):
        done = set(range(life.begin + 1, life.end + 1))
        other = [step for step, batch in life.reads.items() if batch != stream.get(step)]
        for what, wrong in (("another", other), ("no", sorted(done - life.reads.keys()))):
            if wrong:
                problems.append(f"process {number} read {what} batch for steps {wrong}")
    unread = set(range(1, steps + 1)).difference(*(life.reads for life in lives))
    if unread:
        problems.append(f"steps without data: {sorted(unread)}")
    order = numbered.read(0, steps, reference.setting("data.batch_size"))
    seen = [sample for step in sorted(order) for sample in order[step]]
    for begin in range(0, len(seen), numbered.count()):
        epoch = seen[begin : begin + numbered.count()]
        if len(set(epoch)) != len(epoch):
            problems.append(f"samples are repeated in the epoch that begins at sample {begin}")
    return problems


def main() -> None:
    """Runs the scenarios; prints a line per process, the phases hit, and PASS or FAIL per check."""
    from benchmarks import mishaps

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=pathlib.Path, help="a new folder; a temporary one if not")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the report")
    every = ["kills", *mishaps.SCENARIOS]
    parser.add_argument("--scenarios", nargs="+", choices=every, default=every)
    arguments = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # Grain asks for it
    logging.getLogger("absl").setLevel(logging.ERROR)
    folder = arguments.workdir or pathlib.Path(tempfile.mkdtemp(prefix="torture"))
    reference = Victim(folder / "undisturbed", SETTINGS)
    live(reference, "none", random.Random(0))
    lives, verdicts = [], {}
    if "kills" in arguments.scenarios:
        print("kill  run  aimed at      hit           from step  to step  s to the first step")
        for event in kills(folder, SETTINGS, reference, arguments.kills, arguments.seed):
            if isinstance(event, Life):
                lives.append(event)
                number = "" if event.hit == "finished" else sum(x.hit != "finished" for x in lives)
                print(
                    f"{number:4}  {event.run:3}  {event.aim:12}  {event.hit:12}  {event.begin:9}"
                    f"  {event.end:7}  {event.seconds:10.1f}",
                    flush=True,
                )
            else:
                verdicts[event[0]] = event[1]
        for phase, count in collections.Counter(life.hit for life in lives).items():
            print(f"{phase}: {count}")
        restarts = [x.seconds for x in lives[1:] if x.seconds == x.seconds]
        if restarts:
            print(f"start to first step: median {statistics.median(restarts):.1f} s")
    for name in arguments.scenarios:
        if name != "kills":
            verdicts[name] = mishaps.SCENARIOS[name](folder / name, SETTINGS, reference)
    for name, problems in verdicts.items():
        word = "SKIP" if problems is None else "FAIL" if problems else "PASS"
        print(f"{word} {name}", *(problems or []), sep="\n  ")
    if arguments.json:
        report = {"lives": [dataclasses.asdict(x) for x in lives], "problems": verdicts}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(any(verdicts.values()))


if __name__ == "__main__":
    main()
