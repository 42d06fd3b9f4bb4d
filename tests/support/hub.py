"""A server on this machine that speaks the protocol of the Hugging Face hub, as far as files need it.

Repositories are dictionaries of files by revision. Reading: metadata, whole files and ranges, errors as the
hub names them, private and gated repositories. Writing: creating a repository, small files in a commit, large
ones through Git LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

LFS_FROM = 100_000
"""Size in bytes from which a file is stored by Git LFS."""


@dataclass
class Repository:
    """One repository; revisions share their files, but those that were committed."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    tags: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def at(self, revision: str) -> dict[str, bytes] | None:
        if revision in ("main", self.commit):
            return self.files
        return self.tags.get(revision)


@dataclass
class Hub:
    """What the server has and was asked."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "secret"
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    lfs: dict[str, bytes] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes after which the next answer breaks off, once."""
    failing: int = 0
    """Status with which everything is answered."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def do_PUT(self) -> None:
        self.hub.requests.append(("PUT", self.path))
        content = self._content()
        self.hub.lfs[self.path.rpartition("/")[2]] = content
        self._answer(200, b"", {"ETag": hashlib.sha256(content).hexdigest()})

    def do_POST(self) -> None:
        hub = self.hub
        hub.requests.append(("POST", self.path))
        content = self._content()
        if not self._may():
            self._answer(401, b"", {"X-Error-Message": "Invalid token"})
        elif self.path == "/api/repos/create":
            given = json.loads(content)
            name = f"{given.get('organization') or 'me'}/{given['name']}"
            private = given.get("visibility") == "private" or bool(given.get("private"))
            if name in hub.repositories:
                taken = {"error": "You already created this repo", "url": f"{hub.address}/{name}"}
                self._json(taken, 409)
                return
            hub.repositories[name] = Repository(private=private)
            self._json({"url": f"{hub.address}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["size"] >= LFS_FROM else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(content)["files"]
            ]
            self._json({"files": files, "commitOid": "0" * 40})
        elif self.path.endswith("/objects/batch"):
            self._batch(json.loads(content))
        elif "/commit/" in self.path:
            self._commit(content)
        else:
            self._json({}, 404)

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for one in wanted["objects"]:
            upload = {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}
            objects.append({**one, "authenticated": True, "actions": {"upload": upload}})
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, content: bytes) -> None:
        name = "/".join(self.path.split("/")[3:5])
        repository = self.hub.repositories[name]
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.lfs[value["oid"]]
            elif entry["key"] == "deletedFile":
                repository.files.pop(value["path"], None)
        oid = repository.commit
        self._json(
            {
                "success": True,
                "commitOid": oid,
                "commitUrl": f"{self.hub.address}/{name}/commit/{oid}",
                "hookOutput": "",
            }
        )

    def _get(self, *, body: bool) -> None:
        hub, path = self.hub, unquote(self.path.partition("?")[0])
        hub.requests.append((self.command, path))
        if (login := self.headers.get("Authorization")) is not None:
            hub.tokens.append(login.removeprefix("Bearer "))
        if hub.failing:
            self._answer(hub.failing, b"", body=body)
            return
        if path == "/api/whoami-v2":
            self._json({"type": "user", "name": "me", "orgs": []})
            return
        if path.startswith("/api/models/"):
            self._info("/".join(path.split("/")[3:5]))
            return
        parts = path.strip("/").split("/")
        if len(parts) < 5 or parts[2] != "resolve":
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
            return
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and not self._may()):
            self._answer(401, b"", {"X-Error-Code": "RepoNotFound"}, body=body)
        elif repository.gated and not self._may():
            self._answer(403, b"", {"X-Error-Code": "GatedRepo"}, body=body)
        elif (files := repository.at(revision)) is None:
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=body)
        elif file not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit}
            self._answer(404, b"", headers, body=body)
        else:
            self._file(files[file], repository.commit, body=body)

    def _file(self, content: bytes, commit: str, *, body: bool) -> None:
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        begin = 0
        if (wanted := self.headers.get("Range")) is not None:
            begin = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._answer(206 if begin else 200, content[begin:], headers, body=body)

    def _info(self, name: str) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": file} for file in repository.files]
        self._json({"id": name, "sha": repository.commit, "siblings": siblings})

    def _may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        body: bool = True,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        if self.hub.cut_after is not None and len(content) > self.hub.cut_after:
            content, self.hub.cut_after = content[: self.hub.cut_after], None
            self.close_connection = True
        self.wfile.write(content)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """The hub, on a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
