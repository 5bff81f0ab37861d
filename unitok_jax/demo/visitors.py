"""Limits on a visitor's requests to the page's server: addresses, files, and bytes.

Gradio serves more than this page needs: it fetches any internet address for any client,
cuts videos and writes settings. What is not listed here is not there.
"""

import asyncio
import os
import re
from collections.abc import Collection
from pathlib import Path

from unitok_jax.system.paths import is_regular

MAX_FILE = 64 * 2**20  # bytes of one uploaded file
MAX_UPLOAD = MAX_FILE + 2**16  # of one upload with its form
MAX_CALL = 2**18  # of any other request
MAX_KEPT = 2**30  # of all uploads and answers on the disk

READS = re.compile(
    r"/|/(assets|static|svelte)/.*|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?"
    r"|/gradio_api/(info|startup-events|app_id|upload_progress|heartbeat/\w+|queue/(data|status))/?"
    r"|/gradio_api/call/\w+/\w+|/gradio_api/file=.*"
)
UPLOAD = "/gradio_api/upload"
WRITES = re.compile(r"/gradio_api/(upload|queue/join|run/predict|cancel|reset|call/\w+)/?")
FILE = "/gradio_api/file="


def is_own(path: object, folder: str | os.PathLike) -> bool:
    """Returns True if `path` is a string that names a file in the folder, following links."""
    if not isinstance(path, str) or "\0" in path:
        return False
    try:
        target = Path(path).resolve()
    except (OSError, RuntimeError):  # a name that is too long, links in a circle
        return False
    return target.is_relative_to(Path(folder).resolve()) and is_regular(target)


def named_files(value: object) -> list[object]:
    """Collects the 'path' of every dict in a JSON value, which Gradio opens or downloads."""
    found, left = [], [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            found += [value["path"]] if "path" in value else []
            left += value.values()
        elif isinstance(value, list):
            left += value
    return found


class Gate:
    """An ASGI application that forwards the requests the page needs, and refuses the rest.

    Refused are other addresses and methods, files outside the folder, requests that are too long or
    do not say how long they are. Before anything is written, the oldest files of the folder make
    room: with what is being uploaded they hold at most `MAX_KEPT` bytes.
    """

    def __init__(self, app, folder: str | os.PathLike):
        """Wraps `app`; files now in the folder are never deleted."""
        self._app, self._folder = app, Path(folder)
        self._stay = set(_files(self._folder))
        self._coming = 0  # bytes of uploads in progress

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        length, refusal = 0, (404, "Not found")
        if scope["type"] == "http":
            length, refusal = self._look(scope)
        elif scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if refusal:
            return await _answer(send, *refusal)
        self._coming += length
        try:
            if scope["method"] == "POST":
                await asyncio.to_thread(
                    make_room, self._folder, MAX_KEPT - self._coming, self._stay
                )
            await self._app(scope, receive, send)
        finally:
            self._coming -= length

    def _look(self, scope) -> tuple[int, tuple[int, str] | None]:
        """Returns the bytes to be uploaded, and status and text of a refusal."""
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD") and READS.fullmatch(path):
            if path.startswith(FILE) and not is_own(path.removeprefix(FILE), self._folder):
                return 0, (403, "File not allowed")
            return 0, None
        if method != "POST" or not WRITES.fullmatch(path):
            return 0, (404, "Not found")
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:
            return 0, (411, "Content-Length is needed")
        upload = path.rstrip("/") == UPLOAD
        if len(length) > 12 or int(length) > (MAX_UPLOAD if upload else MAX_CALL):
            return 0, (413, f"over the {MAX_FILE if upload else MAX_CALL} bytes that are accepted")
        if upload and self._coming + int(length) > MAX_KEPT // 2:
            return 0, (503, "too many uploads at once: try again")
        return int(length) * upload, None


def make_room(folder: Path, size: int, stay: Collection[Path] = ()) -> None:
    """Deletes the oldest files of a folder until the rest, without `stay`, holds at most `size`
    bytes."""
    found = []
    for path in _files(folder):
        if path not in stay:
            try:
                stat = path.lstat()
            except FileNotFoundError:  # another request was faster
                continue
            found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, bytes_, path in sorted(found):
        if total <= size:
            break
        path.unlink(missing_ok=True)
        total -= bytes_


def _files(folder: Path) -> list[Path]:
    return [Path(base, name) for base, _, names in os.walk(folder) for name in names]


async def _answer(send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    # Connection: close, as the body that was not read would be taken for the next request.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
