"""The demo page in a process of its own, and requests as a program sends them."""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import NamedTuple

from helpers.jobs import FAST

ROOT = pathlib.Path(__file__).parents[2]
JSON = {"Content-Type": "application/json"}


class Page(NamedTuple):
    """A page that is served."""

    address: str
    port: int
    folder: pathlib.Path  # where its own folder of uploads is made
    stderr: pathlib.Path

    def request(self, method, path, body=None, headers=JSON):
        """(status, text) of an HTTP request; the path is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def call(self, action, values):
        """(error message or None, values or None) of an action that is asked without the page."""
        url = f"/gradio_api/call/{action}"
        status, text = self.request("POST", url, json.dumps({"data": values}))
        assert status == 200, text
        status, text = self.request("GET", f"{url}/{json.loads(text)['event_id']}")
        assert status == 200, text
        event, _, data = text.strip().rpartition("event: ")[2].partition("\n")  # after heartbeats
        data = json.loads(data.removeprefix("data: "))
        return (data["error"], None) if event == "error" else (None, data)

    def upload(self, path):
        """The value of a picture component that shows an uploaded file."""
        edge = "------"
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"'
        body = f"{head}\r\n\r\n".encode() + path.read_bytes() + f"\r\n--{edge}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={edge}"}
        status, text = self.request("POST", "/gradio_api/upload", body, kind)
        assert status == 200, text
        return {"path": json.loads(text)[0], "meta": {"_type": "gradio.FileData"}}


@contextlib.contextmanager
def serve(checkpoints, folder, **models):
    """A `Page` of these checkpoints and models; uploads and stderr go into the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stderr = folder / "stderr"
    process = subprocess.Popen(
        [sys.executable, "-m", "unitok_jax", "demo", f"--port={port}"]
        + [f"--checkpoint={','.join(map(str, checkpoints))}"]
        + [f"--{name}={path}" for name, path in models.items()],
        cwd=ROOT,
        env={**os.environ, "GRADIO_TEMP_DIR": str(folder / "uploads"), "XLA_FLAGS": FAST},
        stdout=subprocess.PIPE,
        stderr=stderr.open("w"),
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1"), stderr.read_text()
        yield Page(line.split()[1], port, folder / "uploads", stderr)
    finally:
        process.terminate()
        process.wait(30)
