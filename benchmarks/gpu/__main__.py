"""Figures of a GPU within a time, most important first, one JSON line as soon as one is known.

    python -m benchmarks.gpu [--config l16] [--minutes 15] [--output gpu.jsonl] [--only train data]
        [--batches 32 64] [--remat none blocks] [--quick] [--again]

What the output has is not measured again: the same command goes on. Programs are kept as those of
all commands; JAX_COMPILATION_CACHE_DIR names a folder that stays between two calls. A figure that
fails is a line with `error`, measured once more by `--again`; the rest go on, also after an end of
the process that measured it. UNITOK_RELEASE names a checkout of the PyTorch release, if that is to
be measured too. Needs no PyTorch otherwise.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

from benchmarks.gpu.lines import Lines
from unitok_jax.commands import arguments

WORKER = [sys.executable, "-m", "benchmarks.gpu", "--measure"]


def measure(settings, lines: Lines, names: list[str], table, until: float) -> int:
    """Measures the figures of some names in processes of their own, until a time.

    Args:
      settings: of the run.
      lines: file of the figures.
      names: figures, in their order.
      table: name -> figure.
      until: when to stop, by `time.monotonic`.

    Returns:
      How many were not measured for lack of time.
    """
    # Neighbours share a process, and so the start of the device; those that are alone do not.
    groups = []
    for name in names:
        if not groups or table[name].alone or table[groups[-1][-1]].alone:
            groups.append([])
        groups[-1].append(name)
    for group in groups:
        while group:
            if time.monotonic() >= until:
                break
            group = _one_process(settings, lines, group, table, until)
    return len(lines.missing(names))


def _one_process(settings, lines, names, table, until):
    """Measures until all are known, the process ends or the time is up; returns what is left."""
    given = {"settings": settings._asdict(), "names": names, "peaks": lines.rows.get("peaks")}
    environment = dict(os.environ)
    if table[names[0]].section == "release":
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # PyTorch needs the memory
    worker = subprocess.Popen(
        [*WORKER, json.dumps(given)],
        stdin=subprocess.PIPE,  # whose end tells the worker that this process has ended
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    alarm = threading.Timer(max(until - time.monotonic(), 0), worker.kill)
    alarm.daemon = True
    alarm.start()
    current, left = None, list(names)
    try:
        for line in worker.stdout:
            told = json.loads(line)
            if "machine" in told:
                lines.begin(told["machine"], _kept(settings) | {"dtype": told["dtype"]})
            elif "begin" in told:
                current = told["begin"]
            else:
                lines.add(told["figure"], told["row"])
                left.remove(told["figure"])
                current = None
        code = worker.wait()
    finally:
        alarm.cancel()
        worker.kill()
        worker.wait()
        worker.stdin.close()
        worker.stdout.close()
    if not left or time.monotonic() >= until:
        return left
    if current is None:
        raise RuntimeError(f"the process that measures ended with {code} before its first figure")
    lines.add(current, {"error": f"the process ended with {code}"})
    return [name for name in left if name != current]


def _kept(settings):
    return {"config": settings.config, "quick": settings.quick}


def work(args: argparse.Namespace) -> None:
    """Runs the command; errors of its input raise as in all commands."""
    from benchmarks import timing
    from benchmarks.gpu.figures import SECTIONS, Settings, figures
    from unitok_jax.models import recomputation

    if args.measure:
        from benchmarks.gpu import worker

        given = json.loads(args.measure)
        worker.work(Settings(**given["settings"]), given["names"], given["peaks"])
        return
    unknown = [name for name in args.only or () if name not in SECTIONS]
    if unknown:
        raise ValueError(f"--only={unknown[0]} is none of {', '.join(SECTIONS)}")
    if args.minutes <= 0 or min(args.batches) < 1 or min(args.inference_batches) < 1:
        raise ValueError("--minutes, --batches and --inference-batches must be above 0")
    for remat in args.remat:
        recomputation.find(remat, recomputation.TOKENIZER)
    if not args.output.absolute().parent.is_dir():
        raise ValueError(f"--output={args.output}: there is no folder {args.output.parent}")
    timing.configuration(args.config)
    settings = Settings(
        args.config,
        args.dtype,
        tuple(args.batches),
        tuple(args.remat),
        tuple(args.inference_batches),
        args.quick,
    )
    if args.only and "release" in args.only:
        from benchmarks.gpu import release

        release.folder()
    until, lines = time.monotonic() + 60 * args.minutes, Lines(args.output)
    table = figures(settings, dict)
    # Compiling anew what is known takes minutes, and few ask what it costs.
    chosen = args.only or [name for name in SECTIONS if name != "cold"]
    wanted = [name for name, figure in table.items() if figure.section in chosen]
    names = lines.missing(wanted, args.again)
    left = measure(settings, lines, names, table, until)
    failed = [name for name in wanted if "error" in lines.rows.get(name, {})]
    told = f"{args.output}: {len(wanted) - left - len(failed)} figures"
    told += f", {left} left for the same command" if left else ""
    told += f", failed: {'; '.join(failed)}" if failed else ""
    print(told, file=sys.stderr)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="l16", help="a name in configs/")
    parser.add_argument("--minutes", type=float, default=15.0, help="when to stop")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("gpu.jsonl"))
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="default: all but cold")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64], help="of training")
    parser.add_argument("--remat", nargs="+", default=["none", "blocks"], help="model.remat")
    parser.add_argument("--inference-batches", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, small generators")
    parser.add_argument("--again", action="store_true", help="measure once more what failed")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments.run(parser, work)


if __name__ == "__main__":
    main()
