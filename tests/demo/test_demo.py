"""The demo page: a real server, asked by Gradio's client and clicked through in a browser."""

import pathlib
import re
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from helpers import browsing, generators, in_process, pages
from helpers.jobs import free_port
from unitok_jax.commands import demo
from unitok_jax.data.formats.labels import CLASS_TEMPLATES
from unitok_jax.data.images.transforms import resize_center_crop, to_uint8
from unitok_jax.demo import actions
from unitok_jax.generate.api import load_generator
from unitok_jax.tokenizer.api import load
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load as loading

pytestmark = [pytest.mark.slow, pytest.mark.long]

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def checkpoint(folder):
    """A tiny model that knows CLIP's vocabulary, with fresh weights."""
    from configs import tiny

    config = tiny.get_config()
    path = folder / "clip.safetensors"
    loading.write(path, config, init_params(config.model.to_dict(), jax.random.key(0)))
    return path


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return load(checkpoint)


@pytest.fixture(scope="module")
def pictures(folder):
    """Two pictures as files, 70 x 100 pixels."""
    paths = []
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
        paths.append(folder / f"picture{seed}.png")
        Image.fromarray(pixels).resize((100, 70)).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def generator(tokenizer, folder):
    """Workdir of a generator on that model's codes, of pictures of 64 x 96 pixels."""
    return generators.save_for(folder / "generator", tokenizer, grid=(4, 6))


@pytest.fixture(scope="module")
def server(checkpoint, weights, generator, folder):
    """The address of the page, served by a process."""
    with pages.serve([checkpoint, weights], folder, generator=generator) as page:
        yield page.address


@pytest.fixture(scope="module")
def ask(server):
    """A function that calls one of the page's actions."""
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(server, verbose=False)

    def call(action, *values):
        values = [
            gradio_client.handle_file(v) if isinstance(v, pathlib.Path) else v for v in values
        ]
        return client.predict(*values, api_name=f"/{action}")

    return call


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def cut(path, size=64):
    return resize_center_crop(pixels(path), size)


def rebuilt(tokenizer, codes, grid=None):
    return to_uint8(tokenizer.decode(codes[None], grid))[0]


def psnr(first, second):
    return 10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2))


def test_reconstruct(ask, checkpoint, tokenizer, pictures):
    original, picture, error, facts, maps = ask(
        "reconstruct", str(checkpoint), pictures[0], "native"
    )
    image = cut(pictures[0], (64, 96))
    expected = rebuilt(tokenizer, tokenizer.encode(image[None])[0], (4, 6))
    np.testing.assert_array_equal(pixels(original), image)
    np.testing.assert_array_equal(pixels(picture), expected)
    np.testing.assert_array_equal(
        pixels(error), np.minimum(2 * np.abs(image.astype(int) - expected), 255)
    )
    assert f"PSNR {psnr(image, expected):.2f} dB" in facts
    assert "64 × 96 pixels · 4 × 6 tokens · 96 codes (4 codebooks of 64) · 576 bits" in facts
    assert len(maps) == 4 and pixels(maps[0]["image"]).shape == (64, 96, 3)


def test_labels(ask, checkpoint, tokenizer, pictures):
    answer = ask("classify", str(checkpoint), pictures[0], "64", "a cat, dog,tree ")
    given = {row["label"]: row["confidence"] for row in answer["confidences"]}
    assert set(given) == {"a cat", "dog", "tree"} and abs(sum(given.values()) - 1) < 1e-5
    expected = actions.classify(tokenizer, cut(pictures[0]), "a cat,dog,tree")
    assert given == pytest.approx(expected, rel=1e-5)
    image = tokenizer.encode_image(cut(pictures[0])[None])[0]
    texts = [
        tokenizer.encode_text([t.format(name) for t in CLASS_TEMPLATES]).mean(axis=0)
        for name in ("a cat", "dog")
    ]
    cosines = [image @ text / np.linalg.norm(text) for text in texts]
    factor = np.exp(tokenizer.params["logit_scale"])
    assert given["a cat"] / given["dog"] == pytest.approx(
        np.exp(factor * (cosines[0] - cosines[1])), rel=1e-3
    )


@pytest.mark.parametrize("action", ["grey", "frequent", "swap"])
def test_edits(ask, checkpoint, tokenizer, pictures, action):
    values = [str(checkpoint), *pictures, "64", 1, 2, 2, 1, action, [1, 3], 0]
    before, after, facts = ask("edit", *values)
    codes = tokenizer.encode(np.stack([cut(path) for path in pictures]))
    if action == "grey":
        other = tokenizer.encode(np.full((1, 64, 64, 3), 128, np.uint8))[0]
    elif action == "swap":
        other = codes[1]
    else:
        other = np.stack([np.full(16, np.bincount(row).argmax()) for row in codes[0]])
    changed = np.array(codes[0])
    for book, token in ((0, 6), (0, 10), (2, 6), (2, 10)):
        changed[book, token] = other[book, token]
    count = np.count_nonzero(changed != codes[0])
    assert facts.startswith(f"{count} of 64 codes changed")
    for path, expected in ((before, codes[0]), (after, changed)):
        differs = (pixels(path) != rebuilt(tokenizer, expected, (4, 4))).any(axis=-1)
        rows, columns = np.nonzero(differs)  # the frame around the region alone
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 47, 32, 47)
        assert not differs[20:44, 36:44].any()


def test_blends(ask, checkpoint, tokenizer, pictures):
    first, second = tokenizer.encode(np.stack([cut(path) for path in pictures]))
    left = np.arange(16) % 4 < 1
    for way, expected in (
        ("books", np.concatenate([first[:3], second[3:]])),
        ("split", np.where(left, first, second)),
    ):
        shown = ask("blend", str(checkpoint), *pictures, "64", way, 3, 0.5, 0.25, 0)
        for path, codes in zip(shown, (first, expected, second), strict=True):
            np.testing.assert_array_equal(pixels(path), rebuilt(tokenizer, codes, (4, 4)))
    shown = ask("blend", str(checkpoint), *pictures, "native", "share", 0, 1, 0, 0)
    np.testing.assert_array_equal(pixels(shown[1]), pixels(shown[2]))


def test_draws(ask, tokenizer, generator, pictures):
    """What the API draws, and the same again; a completion keeps the tokens outside its region."""
    sampler = load_generator(generator, 4, devices=jax.devices()[:1])
    settings = {"key": 5, "scale": 1.5, "temperature": 1.2, "top_k": 16}
    values = [1.5, 1.2, "16", 5]
    expected = sampler.sample([2] * 4, **settings)
    for _ in range(2):
        shown, facts = ask("draw", 2, *values)
        for row, codes in zip(shown, expected, strict=True):
            np.testing.assert_array_equal(pixels(row["image"]), rebuilt(tokenizer, codes, (4, 6)))
        assert facts == "24 tokens of 4 codes drawn for each picture, seed 5."
    given = tokenizer.encode(cut(pictures[0], (64, 96))[None])
    known = np.ones((4, 6), bool)
    known[1:3, 2:6] = False
    expected = sampler.complete(given, known, [2], count=4, **settings)
    shown, facts = ask("complete", pictures[0], 1, 2, 2, 4, 2, *values)
    for row, codes in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(pixels(row["image"]), rebuilt(tokenizer, codes, (4, 6)))
        assert (codes == given[0]).all(axis=0).reshape(4, 6)[known].all()
    assert facts == "8 of 24 tokens drawn, the others kept, seed 5."


@pytest.fixture(scope="module")
def bad(folder):
    """Files that are no pictures."""
    Image.new("1", (10_000, 6_000)).save(folder / "huge.png")
    Image.new("RGB", (1500, 1500)).save(folder / "large.png")
    Image.new("RGB", (15, 200)).save(folder / "thin.png")
    whole = folder / "whole.jpg"
    Image.new("RGB", (99, 99)).save(whole)
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[:400])
    (folder / "text.png").write_bytes(b"no picture")
    (folder / "zero.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "name, size, words",
    [
        ("zero.png", "64", "zero.png: the file is empty"),
        ("text.png", "64", "text.png: not an image"),
        ("cut.jpg", "64", "cut.jpg: cannot be decoded"),
        ("huge.png", "64", "huge.png: 10000x6000 is over 50000000 pixels"),
        ("large.png", "native", "large.png: 1488 x 1488 is over the 1048576 pixels"),
        ("thin.png", "native", "thin.png is smaller than a token"),
    ],
)
def test_bad_files(ask, checkpoint, bad, pictures, name, size, words):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=re.escape(words)):
        ask("reconstruct", str(checkpoint), bad / name, size)
    assert "PSNR" in ask("reconstruct", str(checkpoint), pictures[0], "64")[3]


def test_other_bad_inputs(ask, checkpoint, weights, pictures):
    from gradio_client.exceptions import AppError

    many = ",".join(map(str, range(101)))

    def edit(*values, books=(1,)):
        return ("edit", str(checkpoint), pictures[0], None, "64", *values, list(books), 0)

    for call, words in (
        (("reconstruct", str(checkpoint), None, "64"), "choose a picture first"),
        (("classify", str(weights), pictures[0], "64", "cat,dog"), "text tower has 512 token ids"),
        (("classify", str(checkpoint), pictures[0], "64", "cat,cat"), "must be different"),
        (("classify", str(checkpoint), pictures[0], "64", " ,"), "0 labels: give 2 to 100"),
        (("classify", str(checkpoint), pictures[0], "64", many), "101 labels: give 2 to 100"),
        (edit(3, 0, 2, 1, "grey"), "row 5"),
        (edit(0, 0, 1, 1, "grey", books=()), "no codebook is chosen"),
        (edit(0, 0, 1, 1, "swap"), "choose a second picture first"),
    ):
        with pytest.raises(AppError, match=words):
            ask(*call)
    # halves of tokens and codebooks are cut off
    first = pictures[0]
    whole, halves = (ask(*edit(1 + x, 1, 2, 1 + x, "grey")) for x in (0, 0.5))
    np.testing.assert_array_equal(pixels(whole[1]), pixels(halves[1]))
    values = (str(checkpoint), first, first, "64", "books")
    assert len(ask("blend", *values, 1.5, 0.5, 0.5, 0)) == 3


@pytest.fixture
def browser(server):
    """A `Browser` of the page."""
    with browsing.browse(server) as browser:
        yield browser


def test_in_a_browser(browser, server, tokenizer, pictures, bad):
    find, until, click, text = browser.find, browser.until, browser.click, browser.text

    def messages():
        return [toast.text for toast in find(".toast-body") if toast.is_displayed()]

    click("reconstruct")
    until(lambda: browser.shows("choose a picture first"))
    assert len(messages()) == 1 and "choose a picture first" in messages()[0]
    assert not [
        pill for pill in find("[data-testid='status-tracker'] .error") if pill.is_displayed()
    ]
    until(lambda: find("button.gallery-item img"))[0].click()
    until(lambda: find("#first img"))
    click("reconstruct")
    until(lambda: "PSNR" in text("facts"))
    browser.upload("first", pictures[0])
    click("reconstruct")
    image = cut(pictures[0])
    expected = psnr(image, to_uint8(tokenizer.reconstruct(image[None]))[0])
    until(lambda: f"PSNR {expected:.2f} dB" in text("facts"))
    assert find("#rebuilt img") and find("#error img") and len(find("#maps img")) >= 4
    browser.tab("Labels")
    click("compare")
    until(lambda: "person" in text("answer"))
    browser.tab("Edit")
    until(lambda: find("#preview img"))
    click("edit")
    until(lambda: "of 64 codes changed" in text("changed") and find("#after img"))
    browser.tab("Blend")
    click("blend")
    until(lambda: browser.shows("choose a second picture first"))
    browser.upload("second", pictures[1])
    click("blend")
    until(lambda: find("#blended img"))
    browser.upload("second", bad / "text.png")
    click("blend")
    until(lambda: browser.shows("text.png: not an image"))
    browser.upload("second", pictures[0])
    old = find("#blended img")[0].get_attribute("src")
    click("blend")
    until(lambda: find("#blended img") and find("#blended img")[0].get_attribute("src") != old)
    browser.tab("Draw")
    until(lambda: find("#draw_preview img"))
    click("complete")
    until(lambda: "12 of 24 tokens drawn" in text("drawn_facts"))
    click("draw")
    until(lambda: "24 tokens of 4 codes drawn" in text("drawn_facts"))
    assert len(find("#drawn img")) >= 4
    assert browser.asked() == {server.rstrip("/")}  # nothing beyond this machine


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--checkpoint=nothing"], "nothing"),
        (["--checkpoint=,"], "--checkpoint=,"),
        (["--checkpoint=a,a"], "different paths"),
        (["--checkpoint=nothing", "--port=0"], "--port=0 is not a port from 1 to 65535"),
        (["--checkpoint=nothing", "--port=-1"], "--port=-1 is not a port"),
        (["--checkpoint=nothing", "--port=65536"], "--port=65536 is not a port"),
        (["--checkpoint=nothing", "--port=65535"], "nothing"),
    ],
)
def test_bad_arguments(capsys, monkeypatch, arguments, words):
    monkeypatch.setattr(sys, "argv", ["demo", f"--port={free_port()}", *arguments])
    with pytest.raises(SystemExit) as stop:
        demo.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and words in error
    assert error.count("\n") == 1


def test_a_generator_of_other_codes_is_refused(checkpoint, folder, capsys, monkeypatch):
    """At the start, as is another tokenizer in its place."""
    other = generators.save(folder / "other", generators.weights())
    for path, words in (
        (other, f"--generator={other}: the generator draws codes of the tokenizer with hash 0123"),
        (checkpoint, "tokenizer"),
        ("nothing", "nothing"),
    ):
        given = f"--checkpoint={checkpoint}", f"--generator={path}", f"--port={free_port()}"
        code, _, error = in_process.run(demo, capsys, monkeypatch, *given)
        assert code == 2 and words in error and len(error.strip().splitlines()) == 1


def test_a_port_in_use_is_named(capsys, monkeypatch):
    """Before anything is loaded: here, a tokenizer that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["demo", "--checkpoint=nothing", f"--port={port}"])
        with pytest.raises(SystemExit) as stop:
            demo.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and f"error: --host=127.0.0.1 --port={port} cannot be" in error


def test_a_host_of_another_machine_is_named(capsys, monkeypatch):
    given = "--checkpoint=nothing", "--host=192.0.2.1", f"--port={free_port()}"
    code, _, error = in_process.run(demo, capsys, monkeypatch, *given)
    assert code == 2 and "error: --host=192.0.2.1 --port=" in error and "cannot be" in error


def test_without_gradio(tmp_path):
    """Says what to install."""
    code = (
        "import sys, importlib.util; sys.modules['gradio'] = None\n"
        "sys.argv = ['demo', '--checkpoint=x']\n"
        "from unitok_jax.commands import demo; demo.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("pip install -e '.[demo]'")
    assert len(result.stderr.strip().splitlines()) == 1
