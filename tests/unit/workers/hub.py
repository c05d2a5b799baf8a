"""A Hugging Face Hub in memory: as much of its HTTP as an upload needs."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

TOKEN = "hf_test"


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """Knows one token; ``refuses`` is the status with which it answers every change."""

    url: str = ""
    refuses: int | None = None
    repositories: dict[str, Repository] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if self.refuses is not None:
            return self.refuses, {"error": "refused"}
        if (method, path) == ("POST", "/api/repos/create"):
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            # As versions of huggingface_hub say it.
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            known = name in self.repositories
            self.repositories.setdefault(name, Repository(private))
            return (409 if known else 200), {"url": f"{self.url}/{name}"}
        if (method, path) == ("POST", "/api/validate-yaml"):
            return 200, {"errors": [], "warnings": []}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit)/main)?", path)
        if found is None or found[1] not in self.repositories:
            return 404, {"error": f"{method} {path}"}
        repository = self.repositories[found[1]]
        if found[2] is None:
            return 200, {"id": found[1], "private": repository.private}
        if found[2] == "preupload":
            paths = [each["path"] for each in json.loads(body)["files"]]
            # All of them come with the commit: there is no large file storage here.
            files = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]
            return 200, {"files": files}
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                repository.commits.append(line["value"]["summary"])
            elif line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                repository.files[line["value"]["path"]] = content
        address = f"{self.url}/{found[1]}/commit/1"
        return 200, {"success": True, "commitUrl": address, "commitOid": "1" * 40}


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        hub: Hub = cast(Any, self.server).hub
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            status, answer = 401, {"error": "Invalid username or password."}
        else:
            status, answer = hub.answer(self.command, self.path.partition("?")[0], body)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def hub_in_memory() -> Iterator[Hub]:
    """A hub that answers at ``url``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    cast(Any, server).hub = hub
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
