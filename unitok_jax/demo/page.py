"""Page of `unitok demo`, in Gradio: its layout, and the handlers of its events."""

import types
from pathlib import Path

from unitok_jax.codes import STRIDE
from unitok_jax.demo import actions, chat_tab, draw_tab, editing, examples, fields, refusals
from unitok_jax.pictures.codes import outline

SIZES = (64, 96, 128, 192, 256, 384, 512)
CACHE = (3600, 86400)  # seconds: interval between checks of uploads, and their lifetime
WAITING = 32  # queued clicks; further clicks are refused

INTRO = """# Try the tokenizer
A picture becomes a small grid of **tokens**, one for 16 × 16 pixels. Each token is a few whole
numbers, its **codes**: one from each codebook. From the codes alone the picture is built again."""
RECONSTRUCT = """What survives the way through the codes. The error is the difference of the two
pictures, twice as bright. PSNR says how close they are: higher is closer."""
MAPS = """### The codes
One map for each codebook, one square for each token. Equal colours are equal codes."""
LABELS = """The model puts pictures and texts in one space. The label whose text lies nearest to the
picture is the most probable one. Only the labels you give take part."""
EDIT = """Change the codes of a region, then build the picture again. The sliders count tokens. What
changes outside the region does so because the decoder looks at all tokens."""
BLEND = """Mix the codes of two pictures and build what they make together."""
EDITS = [
    ("Erase: the codes of flat grey", "grey"),
    ("Erase: each codebook's most frequent code", "frequent"),
    ("Shuffle the tokens", "shuffle"),
    ("Swap in the second picture's codes", "swap"),
]
BLENDS = [
    ("Some codebooks from each", "books"),
    ("Some tokens from each", "share"),
    ("Left and right", "split"),
]


def build(models: actions.Models, checkpoints: list[str], sampler=None, chat=None):
    """Builds the page as a `gradio.Blocks`.

    Args:
      models: serves the tokenizers.
      checkpoints: their paths; the first is chosen at the start.
      sampler: a `generate.api.Sampler` that passed `drawing.check` with the first of them, for the
        tab that draws; None: the page has no such tab.
      chat: a `chatting.Chat` of the first of them, for the tab that answers; None: the same.

    Files come from Gradio's upload folder of now, `GRADIO_TEMP_DIR`, and from nowhere else.
    """
    import gradio as gr
    from gradio.utils import get_upload_folder

    side = str(max(models[checkpoints[0]].image_size))
    sizes = sorted({*SIZES, int(side)})
    folder = Path(get_upload_folder())
    pictures = [[str(path)] for path in examples.write(folder / "examples")]
    with gr.Blocks(title="Try the tokenizer", analytics_enabled=False, delete_cache=CACHE) as page:
        gr.Markdown(INTRO)
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                ui = types.SimpleNamespace(
                    first=fields.upload("Picture", "first"),
                    second=fields.upload("Second picture, to swap and blend", "second"),
                    size=gr.Dropdown(
                        [*map(str, sizes), actions.NATIVE],
                        value=side,
                        label="Size in pixels",
                        info="native: as it is, cut to multiples of 16",
                    ),
                    checkpoint=gr.Dropdown(
                        checkpoints,
                        value=checkpoints[0],
                        label="Checkpoint",
                        visible=len(checkpoints) > 1,
                    ),
                )
                gr.Examples(pictures, ui.first, label="Pictures to try", cache_examples=False)
                ui.first.keep_in_cache.update(path for (path,) in pictures)  # kept beyond a day
            with gr.Column(scale=3), gr.Tabs():
                _reconstruct_tab(ui, models)
                _labels_tab(ui, models)
                _edit_tab(ui, models)
                _blend_tab(ui, models)
                if sampler is not None:
                    draw_tab.add(ui.first, models, checkpoints[0], sampler)
                if chat is not None:
                    chat_tab.add(ui.first, chat)
    refusals.guard(page, folder)
    return page.queue(max_size=WAITING, api_open=False, default_concurrency_limit=fields.AT_ONCE)


def _reconstruct_tab(ui, models):
    import gradio as gr

    with gr.Tab("Reconstruct"):
        gr.Markdown(RECONSTRUCT)
        button = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct")
        with gr.Row():
            original = fields.picture("Original", "original")
            rebuilt = fields.picture("Reconstruction", "rebuilt")
            error = fields.picture("Error × 2", "error")
        facts = gr.Markdown(elem_id="facts")
        gr.Markdown(MAPS)
        maps = gr.Gallery(
            show_label=False, columns=4, format="png", elem_id="maps", buttons=[], height="auto"
        )

    def work(checkpoint, first, size):
        return actions.reconstruction(models, checkpoint, fields.need(first, "picture"), size)

    button.click(
        refusals.shown(work),
        [ui.checkpoint, ui.first, ui.size],
        [original, rebuilt, error, facts, maps],
        api_name="reconstruct",
        **fields.WORK,
    )


def _labels_tab(ui, models):
    import gradio as gr

    with gr.Tab("Labels"):
        gr.Markdown(LABELS)
        labels = gr.Textbox("cat, dog, person, house", label="Labels", info="commas between them")
        button = gr.Button("Compare", variant="primary", elem_id="compare")
        answer = gr.Label(label="Probabilities", elem_id="answer")

    def work(checkpoint, first, size, labels):
        image = actions.read_image(fields.need(first, "picture"), size)
        return actions.classify(models[checkpoint], image, labels)

    inputs = [ui.checkpoint, ui.first, ui.size, labels]
    button.click(refusals.shown(work), inputs, answer, api_name="classify", **fields.WORK)


def _edit_tab(ui, models):
    import gradio as gr

    with gr.Tab("Edit"):
        gr.Markdown(EDIT)
        with gr.Row():
            top = gr.Slider(0, 3, 1, step=1, label="Top", elem_id="top")
            left = gr.Slider(0, 3, 1, step=1, label="Left", elem_id="left")
            height = gr.Slider(1, 4, 2, step=1, label="Height", elem_id="height")
            width = gr.Slider(1, 4, 2, step=1, label="Width", elem_id="width")
        with gr.Row():
            action = gr.Dropdown(EDITS, value="grey", label="Change", elem_id="action", scale=3)
            seed = gr.Number(
                0, label="Seed of the shuffle", precision=0, minimum=0, maximum=fields.MAX_SEED
            )
        books = _books(ui, models)
        button = gr.Button("Edit", variant="primary", elem_id="edit")
        with gr.Row():
            preview = fields.picture("Region", "preview")
            before = fields.picture("Before", "before")
            after = fields.picture("After", "after")
        facts = gr.Markdown(elem_id="changed")
    region = [top, left, height, width]

    def place(first, size):
        """Returns a region in the middle, and sliders as long as the grid."""
        if not first:
            return None, *(gr.skip() for _ in region)
        image = actions.read_image(first, size)
        grid = [length // STRIDE for length in image.shape[:2]]
        middle = editing.Region(grid[0] // 4, grid[1] // 4, -(-grid[0] // 2), -(-grid[1] // 2))
        tops = [
            gr.Slider(maximum=max(n - 1, 1), value=v) for n, v in zip(grid, middle[:2], strict=True)
        ]
        lengths = [gr.Slider(maximum=n, value=v) for n, v in zip(grid, middle[2:], strict=True)]
        return outline(image, middle, STRIDE), *tops, *lengths

    def outlined(first, size, *region):
        if not first:
            return None
        return outline(actions.read_image(first, size), fields.region(region), STRIDE)

    def work(checkpoint, first, second, size, top, left, height, width, action, books, seed):
        if action == "swap":
            fields.need(second, "second picture")
        return actions.edit(
            models,
            checkpoint,
            fields.need(first, "picture"),
            second,
            size,
            fields.region([top, left, height, width]),
            action,
            [book - 1 for book in books],
            seed,
        )

    hidden = {"show_progress": "hidden", "api_visibility": "private", **fields.WORK}
    source = [ui.first, ui.size]
    gr.on(
        [ui.first.change, ui.size.change],
        refusals.shown(place),
        source,
        [preview, *region],
        **hidden,
    )
    gr.on(
        [slider.change for slider in region],
        refusals.shown(outlined),
        [*source, *region],
        preview,
        trigger_mode="always_last",
        **hidden,
    )
    button.click(
        refusals.shown(work),
        [ui.checkpoint, ui.first, ui.second, ui.size, *region, action, books, seed],
        [before, after, facts],
        api_name="edit",
        **fields.WORK,
    )


def _blend_tab(ui, models):
    import gradio as gr

    count = models[ui.checkpoint.value].codebook_shape[0]
    with gr.Tab("Blend"):
        gr.Markdown(BLEND)
        with gr.Row():
            way = gr.Radio(BLENDS, value="books", label="What each picture gives", scale=2)
            seed = gr.Number(
                0,
                label="Seed of the choice",
                precision=0,
                minimum=0,
                maximum=fields.MAX_SEED,
                visible=False,
            )
        books = gr.Slider(0, count, count // 2, step=1, label="Codebooks of the first picture")
        share = gr.Slider(0, 1, 0.5, label="Share of the second picture", visible=False)
        split = gr.Slider(0, 1, 0.5, label="Width of the first picture", visible=False)
        button = gr.Button("Blend", variant="primary", elem_id="blend")
        with gr.Row():
            pictures = [
                fields.picture("First, rebuilt", "blend_first"),
                fields.picture("Blend", "blended"),
                fields.picture("Second, rebuilt", "blend_second"),
            ]

    def choose(way):
        return [gr.update(visible=way in ways) for ways in ("books", "share", "split", "share")]

    def fit(checkpoint):
        count = models[checkpoint].codebook_shape[0]
        return gr.Slider(maximum=count, value=count // 2)

    def work(checkpoint, first, second, size, way, books, *values):
        pair = fields.need(first, "picture"), fields.need(second, "second picture")
        return actions.blend(models, checkpoint, *pair, size, way, int(books), *values)

    way.change(choose, way, [books, share, split, seed], api_visibility="private")
    ui.checkpoint.change(refusals.shown(fit), ui.checkpoint, books, api_visibility="private")
    button.click(
        refusals.shown(work),
        [ui.checkpoint, ui.first, ui.second, ui.size, way, books, share, split, seed],
        pictures,
        api_name="blend",
        **fields.WORK,
    )


def _books(ui, models):
    """Adds the selector of codebooks to change; their number depends on the checkpoint."""
    import gradio as gr

    def numbers(checkpoint):
        return list(range(1, models[checkpoint].codebook_shape[0] + 1))

    first = numbers(ui.checkpoint.value)
    books = gr.CheckboxGroup(first, value=first, label="Codebooks", elem_id="books")

    def fit(checkpoint):
        return gr.CheckboxGroup(numbers(checkpoint), value=numbers(checkpoint))

    ui.checkpoint.change(refusals.shown(fit), ui.checkpoint, books, api_visibility="private")
    return books
