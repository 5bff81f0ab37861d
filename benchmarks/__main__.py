"""Benchmark suite: every speed of this package on this machine, beside the machine's peaks.

    python -m benchmarks [--config b16] [--only encode stages] [--quick]
        [--output benchmarks.json] [--compare benchmarks/stored/cpu.json]

Prints tables and writes the same as JSON; docs/explanation/performance.md says what the columns
mean. Weights and pictures are random: they do not change the time.
"""

import argparse
import pathlib
import tempfile

import jax

from benchmarks import (
    checkpoint,
    data,
    evaluate,
    first_call,
    inference,
    reports,
    roofline,
    stages,
    startup,
    timing,
    tokenize,
    train_step,
)
from unitok_jax.commands import arguments


class Suite:
    """Run of the suite: settings, and a method for each section.

    A section returns name -> figures, of which `seconds` are compared.
    """

    def __init__(self, args):
        self.name, self.batch, self.quick = args.config, args.batch, args.quick
        dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else None)
        self.config = timing.configuration(args.config, dtype)
        self.rounds = 2 if self.quick else 5
        self.machine = timing.machine()
        self.peaks = timing.peaks(0.5 if self.quick else 2.0)
        self.settings = {
            "config": self.name,
            "dtype": self.config.model.dtype,
            "batch": self.batch,
            "quick": self.quick,
        }
        self.report = {"machine": self.machine, "settings": self.settings, "peaks": self.peaks}

    def encode(self) -> dict:
        """Images to codes."""
        return inference.measure(self.config, self.batch, self.rounds, self.peaks, ["encode"])

    def decode(self) -> dict:
        """Codes to images."""
        return inference.measure(self.config, self.batch, self.rounds, self.peaks, ["decode"])

    def train(self) -> dict:
        """The step of both phases."""
        at_once = self.machine["cores"]
        found = train_step.measure(self.config, self.batch, self.rounds, at_once)
        return {
            name: roofline.figures(row, row["seconds"], self.peaks) for name, row in found.items()
        }

    def stages(self) -> dict:
        """Each part of the networks alone."""
        wholes, steps = {}, self.report.get("train", {})
        if steps:
            wholes["train"] = steps["first"]["seconds"]
        if len(steps) == 2:
            # On a busy machine the longer phase may take less time.
            more = steps["adversarial"]["seconds"] - steps["first"]["seconds"]
            wholes["adversary"] = more if more > 0 else None
        return stages.measure(self.config, self.batch, self.rounds, self.peaks, wholes)

    def data(self) -> dict:
        """Tars of photographs to batches of 256 px."""
        seconds, pictures = (3.0, 32) if self.quick else (12.0, 256)
        return data.measure(self.machine["cores"], 1 if self.quick else 3, seconds, pictures)

    def evaluate(self) -> dict:
        """The pass that measures a tokenizer."""
        images = 32 if self.quick else 64
        return evaluate.measure(self.config, images, self.batch, self.rounds)

    def tokenize(self) -> dict:
        """A folder of JPEGs to a data set of codes."""
        tokenizer = tokenize.make_tokenizer(self.config, self.batch)
        with tempfile.TemporaryDirectory() as folder:
            tokenize.make_images(pathlib.Path(folder), 32 if self.quick else 200)
            return tokenize.measure(tokenizer, pathlib.Path(folder), "center", self.rounds)

    def startup(self) -> dict:
        """A new process up to its first result."""
        if self.quick:
            return first_call.measure(self.name, self.batch, self.config.model.dtype)
        numbers = startup.measure(self.name)
        return {
            name: {"seconds": seconds, "CPU seconds": numbers[f"{name}, CPU"]}
            for name, seconds in numbers.items()
            if not name.endswith(", CPU")
        }

    def checkpoint(self) -> dict:
        """A save and a restore of the whole state of training."""
        return checkpoint.measure(self.config, 1)

    def run(self, sections) -> dict:
        """Runs sections, prints each as soon as the section is done, and returns the report."""
        reports.print_about(self.report)
        for section in sections:
            method = getattr(self, section)
            print(f"\n## {section}: {method.__doc__.lower().rstrip('.')}\n", flush=True)
            found = self.report[section] = method()
            if section in ("encode", "decode", "train"):
                reports.print_programs(found, self.peaks)
            elif section == "stages":
                reports.print_stages(found)
            else:
                reports.print_rest(found)
            jax.clear_caches()
        return self.report


# The steps run before the stages, whose sums are printed beside the steps.
SECTIONS = ["encode", "decode", "train", "stages", "data", "evaluate", "tokenize", "startup"]
SECTIONS.append("checkpoint")


def work(args: argparse.Namespace) -> None:
    """Runs the command; errors of its input raise as in all commands."""
    stored = None if args.compare is None else reports.read(args.compare)
    if args.batch < 1:
        raise ValueError(f"--batch={args.batch} must be at least 1")
    if not args.output.parent.is_dir():
        raise ValueError(f"--output={args.output}: there is no folder {args.output.parent}")
    report = Suite(args).run([name for name in SECTIONS if name in args.only])
    reports.write(args.output, report)
    print(f"\nwritten: {args.output}")
    if stored is not None:
        reports.print_comparison(report, stored)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="tiny_full", help="a name in configs/")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="default: float32 on a CPU, else the configuration's",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: rougher figures")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmarks.json"))
    parser.add_argument("--compare", type=pathlib.Path, help="a report to stand beside this one")
    arguments.run(parser, work)


if __name__ == "__main__":
    main()
