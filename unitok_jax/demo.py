"""A page to try a tokenizer: rebuild pictures, name them, change their codes by hand.

`python -m unitok_jax.demo --checkpoint=PATH[,PATH...]` serves it at http://127.0.0.1:7860. The
page asks nothing of the network.
"""

import argparse
import importlib.util

from unitok_jax import actions, commands, page
from unitok_jax.extras import how_to_install

MAX_FILE = "64mb"
CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
.picture img {width: 100%; height: 100%; object-fit: contain}
#maps .grid-wrap {max-height: none !important; overflow: visible !important}
.picture {padding-top: 30px !important}
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
    blocks = page.build(models, paths)
    import gradio as gr

    try:
        blocks.launch(
            server_name=args.host,
            server_port=args.port,
            share=False,
            ssr_mode=False,
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            max_file_size=MAX_FILE,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=CSS,
            footer_links=[],
        )
    except OSError as error:
        raise OSError(f"--host={args.host} --port={args.port} cannot be opened: {error}") from error
    print(f"open {blocks.local_url} (end with Ctrl-C)", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    main()
