"""Serves a page to try a tokenizer: rebuild pictures, name them, change their codes by hand.

`unitok demo --checkpoint=PATH[,PATH...]` serves it at http://127.0.0.1:7860. With `--generator`, of
the first tokenizer's codes, it also draws pictures and completes them; with `--multimodal`, it
answers questions about pictures. The page asks nothing of the network.
"""

import argparse
import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator

from unitok_jax.commands import arguments
from unitok_jax.demo import actions, drawing, page, server
from unitok_jax.system.extras import how_to_install


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("demo", __doc__)
    arguments.add_checkpoint(parser)
    parser.add_argument(
        "--generator",
        type=arguments.place,
        help="of the first tokenizer's codes, to draw: workdir, folder, file or hf://owner/name",
    )
    parser.add_argument(
        "--multimodal",
        type=arguments.place,
        help="model of the first tokenizer's codes, to ask: workdir, folder or hf://owner/name",
    )
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for all who can reach it")
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    if not 0 < args.port < 2**16:
        raise ValueError(f"--port={args.port} is not a port from 1 to 65535")
    if importlib.util.find_spec("gradio") is None:
        raise ImportError(f"the page needs gradio: {how_to_install('demo')}")
    paths = [path.strip() for path in args.checkpoint.split(",") if path.strip()]
    if not paths or len(set(paths)) != len(paths):
        raise ValueError(f"--checkpoint={args.checkpoint}: give different paths, as A,B")
    server.check_address(args.host, args.port)

    def load(path):
        return arguments.load_tokenizer(argparse.Namespace(**{**vars(args), "checkpoint": path}))

    models = actions.Models(load)
    tokenizer = models[paths[0]]  # a wrong path fails here, not at the first click
    sampler = _load_generator(args, tokenizer) if args.generator is not None else None
    chat = _load_multimodal(args, tokenizer) if args.multimodal is not None else None
    # A private folder of this process, so that no files of others in Gradio's folder are served.
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent:
        os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unitok-demo-", dir=parent) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        server.serve(page.build(models, paths, sampler, chat), folder, args.host, args.port)


def _load_generator(args, tokenizer):
    """Loads the `Sampler` of the page.

    Raises:
      ValueError: it draws codes of another tokenizer, or is none.
    """
    import jax

    from unitok_jax.generate.api import load_generator

    devices = jax.local_devices()[:1]
    sampler = load_generator(
        args.generator, drawing.PICTURES, devices=devices, precision=args.precision
    )
    with _named("--generator", args.generator):
        drawing.check(sampler, tokenizer)
    return sampler


def _load_multimodal(args, tokenizer):
    """Loads the `Chat` of the page.

    Raises:
      ValueError: its model knows codes of another tokenizer, or is none.
    """
    import jax

    from unitok_jax.demo import chatting
    from unitok_jax.multimodal.api import load_multimodal

    devices = jax.local_devices()[:1]
    model = load_multimodal(
        args.multimodal, None, drawing.PICTURES, devices=devices, precision=args.precision
    )
    with _named("--multimodal", args.multimodal):
        model.check(tokenizer)
    model.tokenizer = tokenizer
    return chatting.Chat(model)


@contextlib.contextmanager
def _named(flag: str, path: str) -> Iterator[None]:
    """Puts a flag and its path before what is refused."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{flag}={path}: {error}") from error
