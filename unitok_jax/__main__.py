"""Entry point of all commands: `unitok COMMAND`, the same as `python -m unitok_jax COMMAND`."""

import difflib
import importlib
import os
import sys

from unitok_jax import __version__
from unitok_jax.system import console

# Command -> its result. The module of a command has the same name in `unitok_jax.commands`.
COMMANDS = {
    "train": "a trained model; the same again resumes",
    "evaluate": "a card of every figure, with pictures",
    "reconstruct": "your images through their codes, and the PSNR of each",
    "tokenize": "the codes of a data set, on any number of hosts, resumable",
    "detokenize": "images of codes on disk",
    "generate": "drawn images, their codes and an archive for evaluators, resumable",
    "chat": "answers to questions about images, of a multimodal model",
    "classify": "probabilities of labels",
    "retrieve": "the images of a folder that fit a text",
    "demo": "a page to rebuild, name, edit, blend and draw pictures",
    "convert": "weights in another layout, PyTorch's or the hub's",
    "inspect": "what a file of weights holds, and what a run would take from it",
    "export": "encode and decode as programs that run without this package",
    "data preview": "what a run would train on, seen and measured",
    "data pack": "a few large files of any source",
    "data text": "the text features of a data set, on any number of hosts, resumable",
    "data teacher": "a teacher's features of a data set, on any number of hosts, resumable",
    "fit": "whether a step fits machines that are not here, and what a run costs there",
    "goodput": "what part of a run's time was training",
}
_WIDTH = max(map(len, COMMANDS))
USAGE = "\n".join(
    [
        "unitok COMMAND --help shows the arguments of a command.",
        "",
        *(f"  {name:<{_WIDTH}}  {makes}" for name, makes in COMMANDS.items()),
    ]
)


def main() -> None:
    """Runs the command named by the arguments; exit code 2 without a command."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["--help"], ["-h"]):
        print(USAGE)
    elif arguments == ["--version"]:
        print(f"unitok {__version__}")
    elif not arguments:
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    else:
        name = _name(arguments)
        # As `python -m` sets it: worker processes detect by this path that a command started them.
        sys.argv = [os.path.abspath(__file__), *arguments[len(name.split()) :]]
        importlib.import_module(f"unitok_jax.commands.{name.replace(' ', '_')}").main()


def _name(arguments: list[str]) -> str:
    """Returns the command at the start of the arguments; ends the process if unknown."""
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name
    given = arguments[0]
    near = [name for name in COMMANDS if name.split()[0] == given]
    if near:
        console.refuse(f"{given} wants one more word: {', '.join(near)}")
    near = difflib.get_close_matches(given, COMMANDS)
    near = near or difflib.get_close_matches(" ".join(arguments[:2]), COMMANDS)
    hint = f"did you mean {' or '.join(near)}?" if near else "unitok --help lists all"
    console.refuse(f"there is no command {given!r}; {hint}")


if __name__ == "__main__":
    main()
