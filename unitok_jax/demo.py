"""A page to try a tokenizer: rebuild pictures, name them, change their codes by hand.

`python -m unitok_jax.demo --checkpoint=PATH[,PATH...]` serves it at http://127.0.0.1:7860. The
page asks nothing of the network.
"""

import argparse
import importlib.util
import os
import signal
import tempfile
import threading

from unitok_jax import actions, commands, page, visitors
from unitok_jax.extras import how_to_install

THREADS = 8
# The last rule: a mistake is one message, not the word "Error" over each output.
CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
.picture img {width: 100%; height: 100%; object-fit: contain}
#maps .grid-wrap {max-height: none !important; overflow: visible !important}
.picture {padding-top: 30px !important}
[data-testid="status-tracker"]:has(> .error) {display: none !important}
#maps img {image-rendering: pixelated}
"""


def main() -> None:
    """The command; what is wrong with its input ends as one line and exit code 2."""
    parser = commands.make_parser("demo", __doc__)
    commands.add_checkpoint(parser)
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for all who can reach it")
    commands.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ImportError(f"the page needs gradio: {how_to_install('demo')}")
    paths = [path.strip() for path in args.checkpoint.split(",") if path.strip()]
    if not paths or len(set(paths)) != len(paths):
        raise ValueError(f"--checkpoint={args.checkpoint}: give different paths, as A,B")

    def load(path):
        return commands.load_tokenizer(argparse.Namespace(**{**vars(args), "checkpoint": path}))

    models = actions.Models(load)
    models[paths[0]]  # a wrong path ends the command, not the first visitor's click
    # A folder of this process: what others left in Gradio's folder is not to be had here.
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent:
        os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unitok-demo-", dir=parent) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        _serve(page.build(models, paths), folder, args)


def _serve(blocks, folder: str, args: argparse.Namespace) -> None:
    """Answers until Ctrl-C."""
    import gradio as gr
    from gradio.route_utils import FnIndexInferError
    from starlette.middleware import Middleware

    try:
        blocks.launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=visitors.MAX_FILE,
            max_threads=THREADS,
            app_kwargs={
                "middleware": [Middleware(visitors.Gate, folder=folder)],
                # Gradio looks an event up by the name or number that was asked for.
                "exception_handlers": {FnIndexInferError: _no_event, KeyError: _no_event},
            },
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=CSS,
            footer_links=[],
        )
    except OSError as error:
        raise OSError(f"--host={args.host} --port={args.port} cannot be opened: {error}") from error
    print(f"open {blocks.local_url} (end with Ctrl-C)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the folder is deleted
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one leaves at once
        print("closing the page", flush=True)
        blocks.close(verbose=False)


def _no_event(request, error):
    from starlette.responses import PlainTextResponse

    return PlainTextResponse("no such event", 404)


if __name__ == "__main__":
    main()
