"""List of docs/guides/what_it_costs.md: what whole runs cost on named machines.

    python -m benchmarks.price_list            # prints it
    python -m benchmarks.price_list --write    # into the page

Steps are traced, neither compiled nor run: a minute or two on two quiet cores.
"""

import argparse
import pathlib
import runpy
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from unitok_jax.main import PRODUCTS
from unitok_jax.planning import costs, price_list
from unitok_jax.planning.machines import GPUS
from unitok_jax.planning.timed_steps import TIMED
from unitok_jax.system import markdown

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "what_it_costs.md"
HEADING = "\n## The list\n"
HEAD = ["run", "machine", "samples/s", "hours", "chip-hours", "figure (timed steps)", "command"]
_GPUS, _TPUS = ("cpu:1", "rtx4090:1", "h100:1", "h100:8"), ("v5e:4x4", "v5e:16x16")


class Run(NamedTuple):
    """Run of the table: a configuration, and the machines whose rows are shown."""

    name: str
    config: str  # as of --config
    keys: dict[str, object]  # set beside it
    machines: tuple[str, ...]

    @property
    def command(self) -> str:
        """Command that prints these rows among others."""
        keys = "".join(f" --config.{key}={value}" for key, value in self.keys.items())
        return f"unitok fit --config={self.config}{keys}"

    def configuration(self):
        """Returns the configuration with its keys."""
        file, _, variant = self.config.partition(":")
        config = runpy.run_path(str(ROOT / file))["get_config"](*filter(None, [variant]))
        config.update_from_flattened_dict(self.keys)
        return config


_EPOCH = {"steps": 1_250_000}  # of 1024 images: 1.28 billion
_TIMED = {
    "steps": 40_000_000,
    "data.batch_size": 32,
    "model.remat": "none",
    "optim.accumulation": 1,
}
RUNS = (
    Run("UniTok-B", "configs/b16_gpu.py:80", _EPOCH, _GPUS),
    Run(
        *("UniTok-B", "configs/b16.py"),
        *({"model.remat": "everything", "optim.accumulation": 4}, _TPUS),
    ),
    Run("UniTok-L", "configs/l16_h100.py", _EPOCH, _GPUS),
    Run("UniTok-L", "configs/l16.py", {}, _TPUS),
    Run("UniTok-L, 32 images a step", "configs/l16.py", _TIMED, ("h200:1",)),
    Run("generator XXL", "configs/generate_xxl.py", {}, ("h100:1", "h100:8", "v5e:16x16")),
    Run("multimodal 7B", "configs/multimodal_7b.py:pretrain", {}, ("h100:8", "v5e:16x16")),
)


def rows(run: Run) -> list[list[str]]:
    """Returns the table's rows of a run."""
    config = run.configuration()
    counted = costs.count(PRODUCTS[config.product]().plan, config)
    return [
        [run.name, machine.name, *price_list.figures(config, machine, estimate), _figure(estimate)]
        + [str(RUNS.index(run) + 1)]
        for machine, estimate in costs.estimates(config, counted)
        if machine.name in run.machines
    ]


def _figure(estimate):
    numbers = ", ".join(str(TIMED.index(step) + 1) for step in estimate.sources)
    return f"{estimate.kind} ({numbers})" if numbers else estimate.kind


def commands() -> str:
    """Returns the commands of all runs, numbered, as a block of Markdown."""
    lines = [
        " \\\n    ".join(textwrap.wrap(run.command, 100, break_on_hyphens=False)) + f"  # {number}"
        for number, run in enumerate(RUNS, 1)
    ]
    return "\n".join(["```", *lines, "```"])


def timed() -> str:
    """Returns the timed steps, numbered, as a table of Markdown."""
    body = []
    for number, step in enumerate(TIMED, 1):
        speed = step.operations / step.seconds
        share = f"{speed / GPUS[step.kind].flops:.0%}" if step.kind in GPUS else "-"
        keys = ", ".join(f"{key}={value}" for key, value in step.told.items())
        body.append(
            [number, step.card, f"{step.product}, {step.phase}: {keys}"]
            + [f"{step.seconds * 1e3:.4g}", f"{speed / 1e12:.3g}", share, step.date, step.jax]
            + [step.command]
        )
    head = ["", "card", "step", "ms", "TFLOP/s", "of the data sheet's peak", "date", "jax"]
    return markdown.table([*head, "command"], body)


def section(body: Sequence[Sequence[str]]) -> str:
    """Returns the page's list: commands, rows and timed steps."""
    return "\n\n".join([commands(), markdown.table(HEAD, body), "Timed steps:", timed()])


def write(text: str) -> None:
    """Puts a text under the page's heading."""
    before, rest = PAGE.read_text().split(HEADING)
    after = rest.partition("\n## ")[2]
    PAGE.write_text(f"{before}{HEADING}\n{text}\n\n## {after}")


def main() -> None:
    """Prints the list, or writes it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into the page")
    arguments = parser.parse_args()
    text = section([row for run in RUNS for row in rows(run)])
    write(text) if arguments.write else print(text)


if __name__ == "__main__":
    main()
