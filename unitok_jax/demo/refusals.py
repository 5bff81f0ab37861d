"""Errors in a visitor's input, as one line on the page and none on the console."""

import functools
import html
import math

from unitok_jax.demo import visitors
from unitok_jax.system.paths import printable

MAX_MESSAGE = 400  # characters
WRONG_KIND = "a value is missing or of the wrong kind"


def guard(page, folder):
    """Checks the values of every event, from the page or not, before Gradio does: Gradio downloads
    whatever looks like the address of a file, and takes any path for an uploaded image."""
    import gradio as gr

    preprocess = page.preprocess_data

    async def preprocess_data(block_fn, inputs, *args, **kwargs):
        if not all(visitors.is_own(path, folder) for path in visitors.named_files(inputs)):
            raise _message("only a picture that was uploaded to this page can be used: upload it")
        try:
            values = await preprocess(block_fn, inputs, *args, **kwargs)
        except gr.Error as error:
            raise _message(error.message) from error
        except ValueError as error:  # Gradio's own and Pydantic's, for a value of another type
            raise _message(WRONG_KIND) from error
        for block, value in zip(block_fn.inputs, values, strict=True):
            # Gradio accepts None and lists as choices, and other values as numbers.
            choice = isinstance(block, gr.Dropdown | gr.Radio)
            if choice and not isinstance(value, str):
                raise _message(WRONG_KIND)
            if isinstance(value, float) and math.isnan(value):
                raise _message(WRONG_KIND)
        return values

    page.preprocess_data = preprocess_data


def shown(function):
    """Wraps a function so that an error in its input becomes a message on the page."""

    @functools.wraps(function)
    def call(*values):
        try:
            return function(*values)
        except FileNotFoundError as error:  # its text would be a path of the server
            raise _message("the picture is no longer here: upload it again") from error
        except (ValueError, OSError) as error:
            raise _message(str(error)) from error

    return call


def _message(text):
    """Returns an error that is one line on the page, and not logged on the console."""
    import gradio as gr

    if len(text) > MAX_MESSAGE:
        text = text[:MAX_MESSAGE] + "..."
    text = html.escape(printable(text), quote=False)  # the page takes it for HTML
    return gr.Error(text, title="Not possible", print_exception=False)
