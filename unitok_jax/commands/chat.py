"""Answers questions about images, and goes on in the same conversation.

`unitok chat --checkpoint=MODEL --tokenizer=TOKENIZER --image=a.png "What is left of the circle?"`
prints the answer of a multimodal model. Without a question it reads one a line: `/image PATH` shows
one more image with the next question, `/new` begins anew, and the end of the input ends it.
docs/guides/chat.md tells more.
"""

import argparse
import io
import sys
from collections.abc import Iterable, Iterator

from unitok_jax.commands import arguments
from unitok_jax.models.precision import PRECISIONS
from unitok_jax.system.paths import printable
from unitok_jax.weights.torch_options import WEIGHTS

IMAGE, NEW = "/image", "/new"


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("chat", __doc__)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=arguments.place,
        help="of a multimodal model: workdir (gs:// too), folder or hf://owner/name",
    )
    arguments.add_tokenizer(parser, "of its codes, for images; default: its run's")
    arguments.add_heads(parser)
    parser.add_argument(
        "--image", action="append", default=[], type=arguments.path, help="again for several"
    )
    parser.add_argument("question", nargs="?", help="one; default: lines of the input")
    parser.add_argument("--system", help="instruction that comes first; default: the template's")
    parser.add_argument("--limit", type=int, default=128, help="ids of an answer, at most")
    parser.add_argument("--key", type=int, default=0, help="seed of all draws")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest id")
    parser.add_argument("--top_k", type=int, help="likeliest ids that are kept; default: all")
    parser.add_argument("--top_p", type=float, default=1.0, help="probability that is kept, (0, 1]")
    parser.add_argument(
        "--precision", choices=tuple(PRECISIONS), default="float32", help="of the language model"
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="of a run: the average, or those trained"
    )
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    model = load_model(args, _find_tokenizer(args))
    names = ("system", "limit", "key", "temperature", "top_k", "top_p")
    conversation = Conversation(model, {name: getattr(args, name) for name in names})
    for path in args.image:
        conversation.show(path)
    if args.question is not None:
        print(conversation.ask(args.question))
        return
    for text in talk(conversation, _lines()):
        print(text, flush=True)


def _find_tokenizer(args: argparse.Namespace) -> arguments.FoundTokenizer | None:
    """Returns the tokenizer of images, if one is given or images may be shown."""
    if not args.tokenizer and not args.image and args.question is not None:
        return None
    found = arguments.find_tokenizer(args)
    if args.image and found is None:
        raise ValueError("--image needs --tokenizer, that of the multimodal model's codes")
    return found


def load_model(args: argparse.Namespace, found: arguments.FoundTokenizer | None):
    """Loads the `MultimodalModel` that the arguments name, which answers one question at a time."""
    import jax

    from unitok_jax.multimodal.api import load_multimodal

    return load_multimodal(
        args.checkpoint,
        found.load(arguments.heads(args)) if found else None,
        1,
        precision=args.precision,
        devices=jax.local_devices()[:1],
        weights=args.weights,
    )


class Conversation:
    """Conversation with a model, whose images are encoded once."""

    def __init__(self, model, settings: dict):
        """Begins one.

        Args:
          model: a `MultimodalModel`.
          settings: arguments of `MultimodalModel.answers`.
        """
        self._model, self._settings = model, settings
        self.begin()

    def begin(self) -> None:
        """Forgets what was said and shown."""
        self._messages, self._codes, self._shown = [], [], 0

    def show(self, path) -> None:
        """Shows an image with the next question.

        Raises:
          ValueError, OSError: a file that cannot be read, or is no image; or there is no tokenizer.
        """
        if self._model.tokenizer is None:
            raise ValueError(f"{printable(path)} needs --tokenizer, that of the model's codes")
        self._codes.append(self._model.encode([path])[0])

    def ask(self, question: str) -> str:
        """Returns the answer to the next question; nothing is kept of one that is refused.

        Raises:
          ValueError: a blank question, other places than new images, or a conversation that is too
            long.
        """
        from unitok_jax.multimodal.asking import placed, spoken, turns_of

        new = len(self._codes) - self._shown
        (turn,) = placed(turns_of(question, "the question"), new, "the question")
        asked = [*self._messages, {"role": "user", "content": turn.question}]
        answer = self._model.answer(self._codes, asked, **self._settings)
        self._messages = [*asked, {"role": "assistant", "content": spoken(answer)}]
        self._shown = len(self._codes)
        return answer


def talk(conversation: Conversation, lines: Iterable[str]) -> Iterator[str]:
    """Yields the answers to lines, and what is wrong with a line: the conversation goes on."""
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        try:
            if word == IMAGE:
                conversation.show(arguments.path(rest.strip()))
            elif word == NEW:
                conversation.begin()
            elif word:
                yield conversation.ask(line.strip())
        except (ValueError, OSError, argparse.ArgumentTypeError) as error:
            yield f"({error})"


def _lines() -> Iterator[str]:
    """Yields the lines of the input up to its end.

    Bytes that are no text are kept, as in the names of files, and U+FFFD stands for them in a
    question.
    """
    if sys.stdin is None:  # the process was started without an input
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    mark = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            yield input(mark)
        except EOFError:
            return
