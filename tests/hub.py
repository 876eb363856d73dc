"""A server with the part of the Hugging Face hub's API that downloads of a model need."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one repository from a folder.

    Attributes:
        downloads: names of the files that were sent, in this order.
        restricted: answer as for a gated repository.
    """

    def __init__(self, folder: Path, repository: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.repository = folder, repository
        self.downloads: list[str] = []
        self.restricted = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path, hub = self.path.partition("?")[0], self.server
        content, headers, status = b"", {"X-Repo-Commit": COMMIT}, 200
        files = sorted(hub.folder.iterdir())
        model, resolve = f"/api/models/{hub.repository}", f"/{hub.repository}/resolve/{COMMIT}/"
        if hub.restricted:
            status, headers["X-Error-Code"] = 403, "GatedRepo"
        elif path.startswith(f"{model}/revision/") and not path.endswith("/main"):
            status, headers["X-Error-Code"] = 404, "RevisionNotFound"
        elif path.startswith(f"{model}/tree/"):
            sizes = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in files]
            content = json.dumps(sizes).encode()
        elif path.startswith(model):
            names = [{"rfilename": file.name} for file in files]
            content = json.dumps({"id": hub.repository, "sha": COMMIT, "siblings": names}).encode()
        elif path.startswith(resolve) and (hub.folder / path.removeprefix(resolve)).is_file():
            content = (hub.folder / path.removeprefix(resolve)).read_bytes()
            headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
            if self.command == "GET":
                hub.downloads.append(path.removeprefix(resolve))
        else:
            status, headers["X-Error-Code"] = 404, "RepoNotFound"
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def serve(folder: Path, repository: str) -> Iterator[Hub]:
    """Serve a folder as a repository while the context lasts."""
    hub = Hub(folder, repository)
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
