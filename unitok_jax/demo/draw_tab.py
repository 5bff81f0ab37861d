"""Tab of the page that draws pictures and completes them."""

from unitok_jax.codes import STRIDE
from unitok_jax.demo import actions, drawing, fields, refusals
from unitok_jax.pictures.codes import outline

# One at a time, as the longest work of the page; clicks of other tabs do not wait for it.
WORK = {"concurrency_id": "draw", "concurrency_limit": 1}
MAX_SCALE, MAX_TEMPERATURE = 20, 2

DRAW = """**Draw** {count} pictures of {pixels} pixels. The same seed gives the same pictures;
another one varies them. New settings take longer the first time.

**Complete** the picture, fitted to this size: the tokens of the region are drawn again, row by row,
each given those before it."""


def add(upload, models: actions.Models, checkpoint: str, sampler) -> None:
    """Adds the tab to the page that is being built.

    Args:
      upload: the field of the uploaded picture.
      models, checkpoint: the tokenizer of the sampler's codes.
      sampler: a `Sampler` that passed `drawing.check`.
    """
    import gradio as gr

    pixels = " × ".join(map(str, drawing.image_size(sampler)))
    regions = drawing.regions(sampler.grid)
    with gr.Tab("Draw"):
        gr.Markdown(DRAW.format(count=drawing.PICTURES, pixels=pixels))
        asked = _prompt_and_settings(sampler)
        with gr.Row():
            with gr.Column():
                place = gr.Dropdown(list(regions), label="Region to complete")
                region = _region(sampler.grid, regions[place.value])
            preview = fields.picture("Region", "draw_preview")
        with gr.Row():
            button = gr.Button("Draw", variant="primary", elem_id="draw")
            completing = gr.Button("Complete", variant="primary", elem_id="complete")
        drawn = gallery("drawn")
        facts = gr.Markdown(elem_id="drawn_facts")

    def outlined(first, *values):
        if not first:
            return None
        image = actions.read_image(first, drawing.image_size(sampler))
        return outline(image, fields.region(values), STRIDE)

    def draw(prompt, *values):
        return drawing.draw(models, checkpoint, sampler, prompt, drawing.Settings(*values))

    def complete(first, top, left, height, width, prompt, *values):
        path, region = fields.need(first, "picture"), fields.region([top, left, height, width])
        chosen = drawing.Settings(*values)
        return drawing.complete(models, checkpoint, sampler, path, region, prompt, chosen)

    place.change(lambda name: list(regions[name]), place, region, api_visibility="private")
    gr.on(
        [field.change for field in (upload, *region)],
        refusals.shown(outlined),
        [upload, *region],
        preview,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        **fields.WORK,
    )
    button.click(refusals.shown(draw), asked, [drawn, facts], api_name="draw", **WORK)
    completing.click(
        refusals.shown(complete),
        [upload, *region, *asked],
        [drawn, facts],
        api_name="complete",
        **WORK,
    )


def _prompt_and_settings(sampler) -> list:
    """Adds the prompt and the fields of `drawing.Settings`."""
    import gradio as gr

    null = drawing.has_null_class(sampler)
    if sampler.classes:
        prompt = gr.Number(
            0,
            label="Class",
            info=f"0 to {sampler.classes - 1}" + "; empty: of no class" * null,
            precision=0,
            minimum=0,
            maximum=sampler.classes - 1,
            elem_id="draw_prompt",
        )
    else:
        prompt = gr.Textbox("a red circle", label="Text", elem_id="draw_prompt")
    return [prompt, *settings(sampler, null)]


def gallery(name: str):
    """Adds a field of pictures that were drawn."""
    import gradio as gr

    return gr.Gallery(
        label="Drawn",
        columns=drawing.PICTURES,
        format="png",
        elem_id=name,
        elem_classes="drawn",
        buttons=["download"],
        height="auto",
        object_fit="contain",
    )


def settings(model, guided: bool) -> list:
    """Adds the fields of `drawing.Settings`; `guided`: the model draws without a prompt too."""
    import gradio as gr

    with gr.Row():
        scale = gr.Slider(
            0,
            MAX_SCALE,
            2 if guided else 1,
            step=0.1,
            label="Scale of guidance",
            info="1: none",
            visible=guided,
        )
        temperature = gr.Slider(
            0,
            MAX_TEMPERATURE,
            1,
            step=0.1,
            label="Temperature",
            info="0: the most probable codes",
        )
    with gr.Row():
        top_k = gr.Dropdown(
            drawing.top_k_choices(model), label="Top-k", info="codes that may be drawn"
        )
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=fields.MAX_SEED)
    return [scale, temperature, top_k, seed]


def _region(grid, region) -> list:
    """Adds sliders of a region of the grid, in tokens."""
    import gradio as gr

    rows, columns = (max(side, 2) for side in grid)  # a slider needs two ends
    with gr.Row():
        top = gr.Slider(0, rows - 1, region.top, step=1, label="Top")
        left = gr.Slider(0, columns - 1, region.left, step=1, label="Left")
    with gr.Row():
        height = gr.Slider(1, rows, region.height, step=1, label="Height")
        width = gr.Slider(1, columns, region.width, step=1, label="Width")
    return [top, left, height, width]
