"""A package index behind a password and a proxy: the server answers as the proxy of a host that does not exist."""

from __future__ import annotations

import base64
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: The host, which only the proxy resolves, and its credentials.
HOST = "packages.invalid"
USER, PASSWORD = "ann", "s3cret-of-the-index"
_AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass
class PackageIndex:
    """The index with its packages: the wheels by their paths. `asked` are the addresses that clients have asked for."""

    port: int
    wheels: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, version: str) -> None:
        """Add a package with an empty module."""
        self.wheels[f"/{name.replace('_', '-')}/{name}-{version}-py3-none-any.whl"] = _wheel(name, version)

    def variables(self, machine: str = "127.0.0.1") -> dict[str, str]:
        """The variables of a terminal that uses the index; `machine` is where the proxy is reached."""
        proxy = f"http://{machine}:{self.port}"
        return {
            "PIP_EXTRA_INDEX_URL": f"http://{USER}:{PASSWORD}@{HOST}/",
            "PIP_TRUSTED_HOST": HOST,
            "HTTP_PROXY": proxy,
            "http_proxy": proxy,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def answer(self, path: str) -> tuple[int, str, bytes]:
        if path in self.wheels:
            return 200, "application/octet-stream", self.wheels[path]
        links = [f'<a href="{wheel}">{wheel.rpartition("/")[2]}</a>' for wheel in self.wheels if wheel.startswith(path)]
        return (200 if links else 404), "text/html", "\n".join(links).encode()


@contextmanager
def package_index(address: str = "127.0.0.1") -> Iterator[PackageIndex]:
    """An index without packages, which listens at `address`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked.append(self.path)
            host, is_proxied, path = self.path.removeprefix("http://").partition("/")
            if not is_proxied or host != HOST:
                status, kind, body = 502, "text/plain", b""
            elif self.headers.get("Authorization") != _AUTHORIZATION:
                status, kind, body = 401, "text/plain", b""
            else:
                status, kind, body = index.answer(f"/{path}")
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="packages"')
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer((address, 0), Handler) as server:
        index = PackageIndex(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield index
        finally:
            server.shutdown()


def _wheel(name: str, version: str) -> bytes:
    folder = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{folder}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{folder}/RECORD"])
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return written.getvalue()
