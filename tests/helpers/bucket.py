"""A stand-in for Google Cloud Storage: objects in a dict, behind HTTP and behind fsspec.

TensorStore speaks to the HTTP side, everything else (etils, and with it Orbax) to fsspec's. As in
the real one there are no folders, only names with slashes, and nothing can be appended.
"""

import base64
import datetime
import hashlib
import http.server
import io
import json
import threading
import urllib.parse

import fsspec

OBJECTS: dict[str, bytes] = {}  # 'bucket/name' -> content
_GENERATIONS: dict[str, int] = {}
_lock = threading.Lock()


def _entry(name):
    """What a listing tells about an object."""
    written = datetime.datetime.fromtimestamp(_GENERATIONS.get(name, 0), datetime.UTC)
    return {"name": name, "size": len(OBJECTS[name]), "type": "file", "mtime": written}


def _put(name, content):
    OBJECTS[name] = content
    _GENERATIONS[name] = max(_GENERATIONS.values(), default=0) + 1


class FileSystem(fsspec.AbstractFileSystem):
    """The fsspec side."""

    protocol = ("gcs", "gs")
    cachable = False

    def ls(self, path, detail=True, **_):
        """Objects, and what looks like folders, below a path."""
        path = self._strip_protocol(path)
        found = {}
        for name in OBJECTS:
            if name == path:
                found[name] = _entry(name)
            elif name.startswith(path + "/"):
                head, *rest = name.removeprefix(path + "/").split("/", 1)
                folder = {"name": f"{path}/{head}", "size": 0, "type": "directory"}
                found[f"{path}/{head}"] = folder if rest else _entry(name)
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def info(self, path, **_):
        """One object or folder."""
        path = self._strip_protocol(path)
        if path in OBJECTS:
            return _entry(path)
        if any(name.startswith(path + "/") for name in OBJECTS):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def _open(self, path, mode="rb", **_):
        if mode == "rb":
            if path not in OBJECTS:
                raise FileNotFoundError(path)
            return io.BytesIO(OBJECTS[path])
        if mode != "wb":
            raise ValueError(f"an object cannot be opened with {mode}")
        return _Upload(path)

    def mkdir(self, path, create_parents=True, **_):
        """There are no folders."""

    def makedirs(self, path, exist_ok=False):
        """There are no folders."""

    def rm(self, path, recursive=False, maxdepth=None):
        """Deletes an object, or all below a path."""
        path = self._strip_protocol(path)
        below = [name for name in OBJECTS if recursive and name.startswith(path + "/")]
        if path not in OBJECTS and not below:
            raise FileNotFoundError(path)
        for name in {path, *below} & OBJECTS.keys():
            del OBJECTS[name]

    def rmdir(self, path):
        """There are no folders."""

    def cp_file(self, path1, path2, **_):
        """Copies one object."""
        _put(self._strip_protocol(path2), OBJECTS[self._strip_protocol(path1)])


class _Upload(io.BytesIO):
    def __init__(self, name):
        super().__init__()
        self._name = name

    def close(self):
        if not self.closed:
            _put(self._name, self.getvalue())
        super().close()


def _resource(name):
    folder, _, rest = name.partition("/")
    stamp = "2020-01-01T00:00:00.000Z"
    return {
        "kind": "storage#object",
        "bucket": folder,
        "name": rest,
        "size": str(len(OBJECTS[name])),
        "generation": str(_GENERATIONS[name]),
        "metageneration": "1",
        "md5Hash": base64.b64encode(hashlib.md5(OBJECTS[name]).digest()).decode(),
        "timeCreated": stamp,
        "updated": stamp,
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Says nothing."""

    def _answer(self, code, content=b"", name=None, span=None):
        self.send_response(code)
        if span is not None:
            self.send_header("Content-Range", "bytes {}-{}/{}".format(*span))
        if name is not None:
            self.send_header("x-goog-generation", str(_GENERATIONS[name]))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _parse(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        _, _, path = url.path.partition("/b/")
        bucket, _, name = path.partition("/o")
        return f"{bucket}/{urllib.parse.unquote(query.get('name', name.strip('/')))}", query

    def do_GET(self):  # noqa: N802
        name, query = self._parse()
        if name.endswith("/"):
            names = [n for n in sorted(OBJECTS) if n.startswith(name + query.get("prefix", ""))]
            items = [_resource(n) for n in names]
            self._answer(200, json.dumps({"items": items}).encode())
        elif name not in OBJECTS:
            self._answer(404)
        else:
            content, code, span = OBJECTS[name], 200, None
            if "Range" in self.headers:
                first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                first = int(first)
                last = min(int(last), len(content) - 1) if last else len(content) - 1
                span = first, last, len(content)
                content, code = content[first : last + 1], 206
            self._answer(code, content, name, span)

    def do_POST(self):  # noqa: N802
        name, query = self._parse()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        with _lock:
            wanted = query.get("ifGenerationMatch")
            now = _GENERATIONS[name] if name in OBJECTS else 0
            if wanted is not None and int(wanted) != now:
                self._answer(412)
                return
            _put(name, content)
        self._answer(200, json.dumps(_resource(name)).encode())

    def do_DELETE(self):  # noqa: N802
        name, _ = self._parse()
        self._answer(204 if OBJECTS.pop(name, None) is not None else 404)


def serve() -> http.server.ThreadingHTTPServer:
    """Starts the HTTP side; `server_port` tells where."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
