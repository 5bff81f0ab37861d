"""Server of the demo's page, without requests to the network."""

import signal
import socket
import threading

from unitok_jax.demo import visitors

THREADS = 8
# The last rule shows one message for a mistake, instead of "Error" over each output.
CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
.picture img {width: 100%; height: 100%; object-fit: contain}
#maps .grid-wrap, .drawn .grid-wrap {max-height: none !important; overflow: visible !important}
.picture {padding-top: 30px !important}
[data-testid="status-tracker"]:has(> .error) {display: none !important}
#maps img {image-rendering: pixelated}
"""


def check_address(host: str, port: int) -> None:
    """Tests that the page could listen there, before minutes of loading.

    Raises:
      OSError: the port cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise OSError(_closed(host, port, error)) from error


def serve(blocks, folder: str, host: str, port: int) -> None:
    """Serves the page until Ctrl-C.

    Args:
      blocks: of `page.build`.
      folder: where Gradio keeps the pictures of visitors.
      host, port: where to listen.

    Raises:
      OSError: the port cannot be opened.
    """
    import gradio as gr
    from gradio.route_utils import FnIndexInferError
    from starlette.middleware import Middleware

    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=visitors.MAX_FILE,
            max_threads=THREADS,
            app_kwargs={
                "middleware": [Middleware(visitors.Gate, folder=folder)],
                # Gradio looks up an event by the requested name or number.
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
        raise OSError(_closed(host, port, error)) from error
    print(f"open {blocks.local_url} (end with Ctrl-C)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the folder is deleted
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one leaves at once
        print("closing the page", flush=True)
        blocks.close(verbose=False)


def _closed(host, port, error):
    return f"--host={host} --port={port} cannot be opened: {error}"


def _no_event(request, error):
    from starlette.responses import PlainTextResponse

    return PlainTextResponse("no such event", 404)
