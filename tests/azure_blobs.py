"""A stand-in for Azure Blob Storage on loopback: what a place needs of its REST protocol. Signatures are not looked at.

https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

ACCOUNT = "standin"
MODIFIED = "Mon, 23 Nov 2026 00:00:00 GMT"


class _Service(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.containers: dict[str, dict[str, bytes]] = {}
        self.blocks: dict[tuple[str, str, str], bytes] = {}
        """Blocks of a blob that no list of blocks has named yet, by container, blob and block."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Service

    def _asked(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        _, _, container, blob = f"{unquote(parts.path)}/".split("/", 3)
        return container, blob.rstrip("/"), {key: values[0] for key, values in parse_qs(parts.query).items()}

    def _say(self, status: int, body: bytes = b"", /, **headers: str) -> None:
        self.send_response(status)
        always = {"Last_Modified": MODIFIED, "ETag": '"0x1"', "Content_Length": str(len(body))}
        for name, value in {**always, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0' encoding='utf-8'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._say(status, body.encode(), x_ms_error_code=code, Content_Type="application/xml")

    def do_PUT(self) -> None:
        container, blob, query = self._asked()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        blobs = self.server.containers
        if query.get("restype") == "container":
            blobs.setdefault(container, {})
        elif container not in blobs:
            return self._refuse(404, "ContainerNotFound")
        elif query.get("comp") == "block":
            self.server.blocks[container, blob, query["blockid"]] = body
        elif query.get("comp") == "blocklist":
            names = [block.text or "" for block in ElementTree.fromstring(body)]
            blobs[container][blob] = b"".join(self.server.blocks[container, blob, name] for name in names)
        else:
            blobs[container][blob] = body
        return self._say(201, x_ms_request_server_encrypted="true")

    def do_DELETE(self) -> None:
        container, blob, _ = self._asked()
        found = self.server.containers.get(container, {}).pop(blob, None)
        self._refuse(404, "BlobNotFound") if found is None else self._say(202)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        container, blob, query = self._asked()
        if container not in self.server.containers:
            return self._refuse(404, "ContainerNotFound")
        blobs = self.server.containers[container]
        if query.get("comp") == "list":
            return self._say(200, _listing(container, blobs, query), Content_Type="application/xml")
        if query.get("restype") == "container":
            return self._say(200)
        if blob not in blobs:
            return self._refuse(404, "BlobNotFound")
        data = blobs[blob]
        headers = {"x_ms_blob_type": "BlockBlob", "Content_Type": "application/octet-stream", "Accept_Ranges": "bytes"}
        if self.command == "HEAD":
            return self._say(200, b"", Content_Length=str(len(data)), **headers)
        asked = self.headers.get("x-ms-range") or self.headers.get("Range")
        if not asked:
            return self._say(200, data, **headers)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(data)) + 1, len(data))
        if start >= len(data):
            return self._refuse(416, "InvalidRange")
        return self._say(206, data[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(data)}", **headers)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def _listing(container: str, blobs: dict[str, bytes], query: dict[str, str]) -> bytes:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    names = sorted(name for name in blobs if name.startswith(prefix))
    below = [name for name in names if delimiter and delimiter in name[len(prefix) :]]
    folders = sorted({prefix + name[len(prefix) :].partition(delimiter)[0] + delimiter for name in below})
    entries = "".join(
        f"<Blob><Name>{escape(name)}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified><Etag>0x1</Etag>"
        f"<Content-Length>{len(blobs[name])}</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>"
        for name in names
        if name not in below
    ) + "".join(f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in folders)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{container}">'
        f"<Blobs>{entries}</Blobs><NextMarker /></EnumerationResults>"
    ).encode()


@contextmanager
def service() -> Iterator[str]:
    """A running stand-in; gives the connection string that Azure's tools read from AZURE_STORAGE_CONNECTION_STRING."""
    server = _Service()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey=c3RhbmRpbg==;"
            f"BlobEndpoint=http://127.0.0.1:{server.server_address[1]}/{ACCOUNT};"
        )
    finally:
        server.shutdown()
        server.server_close()
