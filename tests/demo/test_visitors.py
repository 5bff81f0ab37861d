"""Who reaches the demo page gets nothing of the server but the page."""

import asyncio
import json
import os
import re

import jax
import numpy as np
import pytest
from PIL import Image

from helpers import generators, pages
from unitok_jax.demo import examples, visitors
from unitok_jax.tokenizer.api import load as load_tokenizer
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load

pytestmark = [pytest.mark.slow, pytest.mark.long]

META = {"_type": "gradio.FileData"}
FOREIGN = "only a picture that was uploaded to this page can be used"
WRONG = "a value is missing or of the wrong kind"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a tiny model, served by a process."""
    pytest.importorskip("gradio")
    from configs import tiny

    folder = tmp_path_factory.mktemp("visitors")
    config = tiny.get_config()
    config.model.size = "nano"
    checkpoint = folder / "nano"
    load.write(checkpoint, config, init_params(config.model.to_dict(), jax.random.key(0)))
    generator = generators.save_for(folder / "drawer", load_tokenizer(checkpoint), grid=(4, 4))
    with pages.serve([checkpoint], folder, generator=generator) as served:
        yield served
    assert not list(served.folder.iterdir())  # the process took its folder with it
    assert "Traceback" not in served.stderr.read_text(), served.stderr.read_text()


@pytest.fixture(scope="module")
def checkpoint(page):
    return str(page.stderr.with_name("nano"))


@pytest.fixture(scope="module")
def picture(page):
    """An uploaded picture, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = page.stderr.with_name("mine.png")
    Image.fromarray(pixels).save(path)
    return page.upload(path)


@pytest.fixture(scope="module")
def own(page):
    """The process's folder of uploads."""
    (folder,) = page.folder.iterdir()
    return folder


def test_an_upload_is_read(page, checkpoint, picture):
    error, shown = page.call("reconstruct", [checkpoint, picture, "64"])
    assert error is None and "PSNR" in shown[3]
    status, _ = page.request("GET", shown[0]["url"].partition(str(page.port))[2])
    assert status == 200


def test_examples_are_served(page, checkpoint, own):
    names = {path.name for path in (own / "examples").iterdir()}
    assert {"shapes0.png", "shapes3.png"} <= names
    for name in names:
        example = {"path": str(own / "examples" / name), "meta": META}
        assert page.call("reconstruct", [checkpoint, example, "64"])[0] is None


def test_only_uploads_are_read(page, checkpoint, picture, own, tmp_path):
    """Paths, addresses and links; the answer is one for files that exist and files that do not."""
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    Image.new("RGB", (64, 64)).save(page.folder / "other-visitor.png")
    link = own / "link.png"
    link.symlink_to(tmp_path / "secret.png")
    paths = [
        tmp_path / "secret.png",
        tmp_path / "none.png",
        page.folder / "other-visitor.png",
        link,
        own,
        own / "none.png",
        f"{picture['path']}/../../../../{tmp_path}/secret.png",
        os.path.relpath(tmp_path / "secret.png"),
        "~/secret.png",
        "/dev/zero",
        "/etc/passwd",
        "/proc/self/environ",
        "file:///etc/passwd",
        f"http://127.0.0.1:{page.port}/robots.txt",
        "https://example.com/a.png",
        "data:image/png;base64,iVBORw0KGgo=",
        "a\0b",
        "x" * 5000,
        "",
    ]
    paths = [path if isinstance(path, str) else str(path) for path in paths]
    values = [{"path": path} for path in paths]
    values += [{"path": path, "meta": META} for path in paths]
    values += [{"path": "/etc/passwd", "meta": META, "is_stream": True}, {"path": 5}]
    try:
        for value in values:
            error, _ = page.call("reconstruct", [checkpoint, value, "64"])
            assert error and error.startswith(FOREIGN), (value, error)
    finally:
        link.unlink()
        (page.folder / "other-visitor.png").unlink()


@pytest.mark.parametrize("place", range(4))
def test_no_other_component_opens_a_file(page, checkpoint, picture, place):
    """Gradio looks for files in the values of all components."""
    values = [checkpoint, picture, "64", "a,b"]
    for hostile in (
        {"path": "https://example.com/a", "meta": META},
        [[{"deep": {"path": "/etc/passwd", "meta": META}}]],
    ):
        changed = [hostile if i == place else value for i, value in enumerate(values)]
        assert page.call("classify", changed)[0].startswith(FOREIGN)


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/a"),
        ("GET", "/gradio_api/deep_link?session_hash=a"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/stream/a/b/1/playlist-file"),
        ("GET", "/no-such-address"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run/reconstruct"),
        ("POST", "/gradio_api/api/reconstruct"),
        ("POST", "/login"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/"),
    ],
)
def test_nothing_but_the_page_is_there(page, method, path):
    assert page.request(method, path, "{}" if method == "POST" else None)[0] == 404


def test_files_of_the_server_are_not_served(page, own, tmp_path):
    (tmp_path / "there.png").write_bytes(b"x")
    (own / "link.png").symlink_to(tmp_path / "there.png")
    try:
        answers = {
            page.request("GET", f"/gradio_api/file={path}")
            for path in (
                tmp_path / "there.png",
                tmp_path / "not_there.png",
                own / "link.png",
                "tests/helpers/pages.py",
                "/etc/passwd",
                f"{own}/../../stderr",
                "https://example.com/",
                "http://127.0.0.1:1/",
            )
        }
        assert answers == {(403, "File not allowed")}
    finally:
        (own / "link.png").unlink()
    for path in ("/static/..%2f..%2froutes.py", "/assets/%2e%2e/%2e%2e/routes.py"):
        assert page.request("GET", path)[0] in (403, 404)


def test_the_queue_cannot_be_passed_by(page):
    """Events that wait for their turn are not run at once for who asks so."""
    events = json.loads(page.request("GET", "/config")[1])["dependencies"]
    assert len(events) > 8
    for event in events:
        call = json.dumps({"fn_index": event["id"], "data": [], "session_hash": "s"})
        status, text = page.request("POST", "/gradio_api/run/predict", call)
        assert status != 200, (event, text)
        if event["queue"] is not False:
            assert status == 404, text
    for number in (999, -1, 10**30):
        call = json.dumps({"fn_index": number, "data": [], "session_hash": "s"})
        assert page.request("POST", "/gradio_api/queue/join", call) == (404, "no such event")
    assert page.request("POST", "/gradio_api/call/nothing", '{"data":[]}') == (404, "no such event")


def test_requests_that_are_too_long(page):
    for path, length in (("upload", 65 * 2**20), ("queue/join", 2**20), ("call/edit", 2**20)):
        headers = {**pages.JSON, "Content-Length": str(length)}
        assert page.request("POST", f"/gradio_api/{path}", None, headers)[0] == 413
    chunks = {"Content-Type": "multipart/form-data; boundary=x", "Transfer-Encoding": "chunked"}
    assert page.request("POST", "/gradio_api/upload", iter([b"a"]), chunks)[0] == 411


NAN, HUGE = float("nan"), 10**40


@pytest.mark.parametrize(
    "action, place, value, words",
    [
        ("edit", 0, "/etc/passwd", "not in the list of choices"),
        ("edit", 0, None, WRONG),
        ("edit", 1, "text", WRONG),
        ("edit", 1, [1], WRONG),
        ("edit", 1, None, "choose a picture first"),
        ("edit", 3, "65", "not in the list of choices"),
        ("edit", 3, ["64"], WRONG),
        ("edit", 3, None, WRONG),
        ("edit", 4, -1, "less than minimum"),
        ("edit", 4, HUGE, "greater than maximum"),
        ("edit", 4, float("inf"), "greater than maximum"),
        ("edit", 5, NAN, WRONG),
        ("edit", 6, "x", WRONG),
        ("edit", 7, None, WRONG),
        ("edit", 8, "bad", "not in the list of choices"),
        ("edit", 9, None, WRONG),
        ("edit", 9, [[1]], "not in the list of choices"),
        ("edit", 10, None, "give a seed"),
        ("edit", 10, -1, "less than minimum"),
        ("edit", 10, 2**32, "greater than maximum"),
        ("edit", 10, NAN, WRONG),
        ("blend", 5, NAN, WRONG),
        ("blend", 6, NAN, WRONG),
        ("blend", 7, 1.5, "greater than maximum"),
        ("blend", 8, None, "give a seed"),
        ("classify", 3, None, "labels: give 1 to 10000 characters"),
        ("classify", 3, "a" * 10_001, "labels: give 1 to 10000 characters"),
        ("classify", 3, "<b>x</b>", "1 labels"),
        ("reconstruct", 3, "end", WRONG),
        ("draw", 0, 3, "greater than maximum"),
        ("draw", 0, NAN, WRONG),
        ("draw", 1, -0.1, "less than minimum"),
        ("draw", 1, HUGE, "greater than maximum"),
        ("draw", 2, NAN, WRONG),
        ("draw", 2, 2.1, "greater than maximum"),
        ("draw", 3, "2", "not in the list of choices"),
        ("draw", 3, None, WRONG),
        ("draw", 4, None, "give a seed"),
        ("draw", 4, 2**32, "greater than maximum"),
        ("complete", 0, None, "choose a picture first"),
        ("complete", 0, {"path": "/etc/passwd", "meta": META}, FOREIGN),
        ("complete", 1, 4, "greater than maximum"),
        ("complete", 1, 3, "the region ends at row 5"),
        ("complete", 3, 0, "less than minimum"),
        ("complete", 4, "x", WRONG),
    ],
)
def test_values_no_field_of_the_page_gives(page, checkpoint, picture, action, place, value, words):
    """Each is one line for who asks; the fixture looks for tracebacks on the console."""
    values = {
        "edit": [checkpoint, picture, None, "64", 1, 1, 1, 1, "shuffle", [1], 0],
        "blend": [checkpoint, picture, picture, "64", "share", 1, 0.5, 0.5, 0],
        "classify": [checkpoint, picture, "64", "a,b"],
        "reconstruct": [checkpoint, picture, "64"],
        "draw": [0, 2, 1, "all", 0],
        "complete": [picture, 2, 0, 2, 4, 0, 2, 1, "all", 0],
    }[action]
    values = values[:-1] if value == "end" else values[:place] + [value] + values[place + 1 :]
    error, _ = page.call(action, values)
    assert words in error and "\n" not in error and len(error) < 500


def test_bodies_that_are_no_json(page):
    for body in ("nonsense", '{"data":' + "[" * 99_999 + "]" * 99_999 + "}", "[]", '{"data":{}}'):
        assert page.request("POST", "/gradio_api/call/edit", body)[0] in (400, 422)
    assert page.request("POST", "/gradio_api/upload", "x")[0] == 400


def test_the_oldest_files_make_room(tmp_path):
    stay = tmp_path / "examples" / "stays.png"
    stay.parent.mkdir()
    stay.write_bytes(b"x" * 100)
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / name / "file"
        path.parent.mkdir()
        path.write_bytes(b"x" * 10)
        os.utime(path, (1000 - age, 1000 - age))
    visitors.make_room(tmp_path, 30, {stay})
    assert (tmp_path / "old" / "file").exists()
    visitors.make_room(tmp_path, 29, {stay})
    left = {path.parent.name for path in tmp_path.glob("*/*")}
    assert left == {"examples", "new", "middle"}
    visitors.make_room(tmp_path, 0, {stay})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [stay]


def ask(gate, length, path="/gradio_api/upload"):
    """The status of a POST that says it is `length` bytes long."""
    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(gate(scope, None, send))
    return sent[0]["status"]


def test_all_uploads_together_are_bounded(tmp_path, monkeypatch):
    """Uploads that are under way count, too, and give their room back."""
    monkeypatch.setattr(visitors, "MAX_KEPT", 1000)
    statuses = []

    async def app(scope, receive, send):
        statuses.append(ask_inside())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def ask_inside():
        _, refusal = gate._look(
            {
                "method": "POST",
                "path": "/gradio_api/upload",
                "headers": [(b"content-length", b"300")],
            }
        )
        return refusal and refusal[0]

    gate = visitors.Gate(app, tmp_path)
    old = tmp_path / "old"
    old.write_bytes(b"x" * 701)
    assert ask(gate, 100) == 200 and old.exists()
    assert ask(gate, 300) == 200 and not old.exists()
    assert statuses == [None, 503]
    assert ask_inside() is None
    assert ask(gate, 600) == 503


def test_named_files():
    value = [{"path": "a", "x": [{"path": 3}]}, "path", {"y": {"path": None}}, 1]
    assert sorted(visitors.named_files(value), key=str) == [3, None, "a"]


def test_examples_need_no_scikit_image(tmp_path, monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setattr(examples, "photo_folder", missing)
    paths = examples.write(tmp_path / "examples")
    assert [path.name for path in paths] == [f"shapes{i}.png" for i in range(4)]
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) >= 64
    assert all(re.fullmatch(r"shapes\d\.png", path.name) for path in paths)
