"""Shards on a web server: what it sends of them, when it misbehaves, and with a certificate."""

from __future__ import annotations

import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.selfsup.data.layouts.test_shards import JPEG, make, write
from tests.unit.selfsup.data.test_sources import batches_of, under
from vicreg_platform.contract.data_report import DataReport
from vicreg_platform.specs import WebDatasetData
from vicreg_workers.selfsup.data.images import Images, unreadable
from vicreg_workers.selfsup.data.layouts import remote_files
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import InvalidInput, Unreachable


class WebServer(http.server.ThreadingHTTPServer):
    """Serves the files of a folder, and parts of them, unless it is told to misbehave."""

    daemon_threads = True

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Ranges, directory=str(folder)))
        self.failing = 0
        """How many requests will be answered by 503."""
        self.down = False
        """Whether it ends connections without an answer."""
        self.parts = True
        """Whether it sends parts of files."""
        self.sent = 0
        """Bytes of whole files."""
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
            self._scheme = "https"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_port}"


class _Ranges(http.server.SimpleHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        if not self._fails():
            super().do_HEAD()

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if self._fails():
            return
        if asked is None or not self.server.parts or not path.is_file():
            super().do_GET()
            return
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        content = path.read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{path.stat().st_size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with suppress(ConnectionError):
            while content := source.read(2**20):
                outputfile.write(content)
                self.server.sent += len(content)

    def _fails(self) -> bool:
        if self.server.down:
            self.close_connection = True
            return True
        if self.server.failing <= 0:
            return False
        self.server.failing -= 1
        self.send_error(503)
        return True

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A server of three shards of four images, in the folder ``set``."""
    make(tmp_path)
    monkeypatch.setenv("VICREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "BLOCK", 2048)
    monkeypatch.setattr(remote_files, "FIRST_WAIT", 0.05)
    server = WebServer(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def open_remote(url: str) -> Images:
    """The images of shards that have been listed by another machine: nothing is in the cache."""
    images = open_images(WebDatasetData(source="webdataset", shards=url), under(Path("/nowhere")))
    shutil.rmtree(os.environ["VICREG_CACHE"])
    return images


@pytest.mark.parametrize("pattern", ["", "/", "/train-{000..002}.tar"])
def test_images_on_a_web_server_are_those_on_the_disk(
    server: WebServer, pattern: str, tmp_path: Path
) -> None:
    remote = open_remote(f"{server.url}/set{pattern}")
    local = open_images(WebDatasetData(source="webdataset", shards="set"), under(tmp_path))
    assert list(remote.labels) == list(local.labels)
    assert remote.name(7) == f"{server.url}/set/train-001.tar: 0007"
    for number in range(12):
        assert remote.read(number).tobytes() == local.read(number).tobytes()
    batches = batches_of(remote, 4, loaders=2)
    seen = [index for batch in batches.epoch(0) for index in batch.indices]
    assert sorted(seen) == list(range(12))


def test_a_web_server_that_is_busy_is_waited_for(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while shards are listed, where fsspec says that there is no such file."""
    for pattern in ("set", "set/train-{000..002}.tar"):
        server.failing = 5
        assert len(open_remote(f"{server.url}/{pattern}")) == 12
        assert server.failing == 0
    images = open_remote(f"{server.url}/set")
    server.failing = 5
    assert images.content(8) == JPEG[8]  # type: ignore[attr-defined]
    assert "the store does not answer, asked again in" in caplog.text
    monkeypatch.setattr(remote_files, "PATIENCE", 0.3)
    server.failing = 1_000_000
    with pytest.raises(Unreachable, match=r"data\.shards: the store does not answer"):
        open_remote(f"{server.url}/set/train-000.tar")


def test_a_web_server_that_is_down_is_no_fault_of_the_images(
    server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "PATIENCE", 0.3)
    images = open_remote(f"{server.url}/set")
    server.down = True
    with pytest.raises(Unreachable, match=r"data\.shards: the store does not answer"):
        images.content(0)  # type: ignore[attr-defined]


def test_what_is_not_on_a_web_server_is_refused(server: WebServer) -> None:
    for missing in ("set/train-{000..004}.tar", "nothing", "set/train-009.tar"):
        with pytest.raises(InvalidInput, match=r"^data\.shards: it cannot be read"):
            open_remote(f"{server.url}/{missing}")
    with pytest.raises(InvalidInput, match=r"there are no \.tar files in http://127"):
        open_remote(server.url)


def test_a_shard_replaced_on_a_web_server_loses_its_images_alone(
    server: WebServer, tmp_path: Path
) -> None:
    """It has no ETag: that it is another one is seen by its date, though it is as long."""
    images = open_remote(f"{server.url}/set")
    shard = tmp_path / "set" / "train-001.tar"
    os.utime(shard, (0, 0))
    write(tmp_path / "set" / "train-002.tar", {"other.jpg": JPEG[0]})
    batches = list(batches_of(images, 4).epoch(0))
    assert {index for batch in batches for index in batch.skipped} == set(range(4, 12))
    assert "train-001.tar has been replaced since the training" in unreadable(images, [5])[0]


def test_a_server_that_sends_whole_files_is_refused(server: WebServer, tmp_path: Path) -> None:
    """As Python's ``http.server`` is: each block would cost the whole shard."""
    server.parts = False
    with (tmp_path / "set" / "a.tar").open("wb") as first:
        first.truncate(2**28)
    with pytest.raises(InvalidInput, match=r"sends whole files when it is asked for a part"):
        open_remote(f"{server.url}/set")
    # Not even once, to find out: what fits between the two is sent unasked.
    assert 0 < server.sent < 2**26


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shards")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file


def test_a_certificate_is_trusted_if_the_environment_names_it(
    certificate: Path, tmp_path: Path
) -> None:
    """By ``vicreg data check``: Python reads the environment when it starts."""
    make(tmp_path)
    server = WebServer(tmp_path, certificate)

    def checked(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vicreg_workers.data.check", f"{server.url}/set"],
            env=os.environ | {"VICREG_CACHE": str(tmp_path / "cache")} | more,
            capture_output=True,
            text=True,
            check=False,
        )

    trusted = checked(SSL_CERT_FILE=str(certificate))
    assert trusted.returncode == 0, trusted.stderr
    assert DataReport.model_validate_json(trusted.stdout).images == 12
    refused = checked()
    assert refused.returncode != 0
    assert "certificate verify failed" in refused.stderr
    assert refused.stderr.strip().count("\n") == 0
    server.shutdown()
