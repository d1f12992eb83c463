"""A Hugging Face hub of local folders on 127.0.0.1: enough of its protocol for huggingface_hub to download from."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_of(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve "org/name" -> folder. Yields the endpoint, and the list of "METHOD path" asked so far."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            organisation, name, *rest = self.path.split("?")[0].strip("/").split("/")
            folder = repositories.get(f"{organisation}/{name}")
            if folder is None:
                self._fail("RepoNotFound")
                return
            file = folder / "/".join(rest[2:])  # resolve/<revision>/<file>
            if rest[1] not in ("main", COMMIT):
                self._fail("RevisionNotFound")
            elif not file.is_file():
                self._fail("EntryNotFound")
            else:
                data = file.read_bytes()
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if with_body:
                    self.wfile.write(data)

        def _fail(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
