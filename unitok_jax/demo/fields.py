"""Fields that tabs of the page share, and the limits of their events."""

import abc

from unitok_jax.demo import editing

AT_ONCE = 2  # clicks processed at one time
MAX_SEED = 2**32 - 1
WORK = {"concurrency_id": "pictures", "concurrency_limit": AT_ONCE}


def upload(label: str, name: str):
    """Returns a field of an uploaded image, whose value is the path of the file."""
    import gradio as gr

    # The file as it is: Gradio would open it with Pillow first, whose errors do not name it. A
    # class, as Gradio makes another object of it when an example is chosen; made without Gradio's
    # metaclass, which would write a file beside this one. The browser knows it as an image.
    methods = {"is_template": True, "preprocess": lambda self, payload: payload and payload.path}
    made = abc.ABCMeta.__new__(type(gr.Image), "Upload", (gr.Image,), methods)
    return made(label=label, height=230, elem_id=name, buttons=[], sources=["upload", "clipboard"])


def picture(label: str, name: str):
    """Returns a field that shows an image."""
    import gradio as gr

    return gr.Image(
        label=label,
        format="png",
        interactive=False,
        height=280,
        elem_id=name,
        elem_classes="picture",
        buttons=["download", "fullscreen"],
    )


def region(values) -> editing.Region:
    """Returns the region of four sliders' values: top, left, height, width."""
    # A slider also has a text field, into which half a token can be typed.
    return editing.Region(*(int(value) for value in values))


def need(path: str | None, what: str) -> str:
    """Returns the path of an upload; raises ValueError if there is none."""
    if not path:
        raise ValueError(f"choose a {what} first")
    return path
