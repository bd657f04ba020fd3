"""Local servers with faults: a web server that follows a script of them, and a proxy that cuts connections."""
from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import os
import re
import socket
import socketserver
import struct
import threading
from collections import defaultdict
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

_FLIP = bytes(byte ^ 1 for byte in range(256))


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer; several of these combine. The defaults are an honest answer."""
    status: int | None = None         # instead of the file
    retry_after: str | None = None    # a header
    redirect: str | None = None       # an address
    content: bytes | None = None      # the file becomes this before it is served
    cut: int | None = None            # bytes of the body after which the connection ends; negative: within the head
    reset: bool = False               # ... with a TCP reset
    stall: int | None = None          # bytes of the body after which nothing comes until FaultyServer.release is set
    ignore_range: bool = False        # 200 and the whole file
    ignore_if_range: bool = False     # 206 though If-Range names another content
    shift: int = 0                    # a 206 starts so many bytes before or after the byte asked for
    lie: int = 0                      # added to Content-Length
    length: str | None = None         # instead of Content-Length
    wrong: bool = False               # other bytes, as many
    framing: str = "length"           # or "chunked", or "close": the body ends with the connection
    gzip: bool = False                # Content-Encoding, though nobody asked
    etag: bool = True


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0  # bytes of the body


class FaultyServer:
    """Serves `folder` on 127.0.0.1 in threads; a context manager. `url` has no slash at its end.

    faults: path -> Fault per request, in their order; after them all is well. requests: what came, in order.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.requests: list[Request] = []
        self.stalled = threading.Event()  # an answer has come to its Fault.stall
        self.release = threading.Event()
        self._lock = threading.Lock()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.close_connection = True
                with contextlib.suppress(ConnectionError):  # the client may have gone
                    owner._answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._httpd.server_address[1]}"
        threading.Thread(target=self._httpd.serve_forever, args=(0.005,), daemon=True).start()

    def __enter__(self) -> FaultyServer:
        return self

    def __exit__(self, *_) -> None:
        self.release.set()
        self._httpd.shutdown()
        self._httpd.server_close()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        request = Request(handler.command, handler.path, handler.headers.get("Range"),
                          handler.headers.get("Authorization"))
        path = self.folder / handler.path.lstrip("/")
        with self._lock:
            self.requests.append(request)
            fault = self.faults[handler.path].pop(0) if self.faults[handler.path] else Fault()
            if fault.content is not None:
                path.write_bytes(fault.content)
        status, headers, body = self._reply(handler, path, fault)
        if fault.wrong:
            body = body.translate(_FLIP)
        if fault.gzip:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        if fault.framing == "length":
            headers["Content-Length"] = fault.length or str(max(0, len(body) + fault.lie))
        elif fault.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
            parts = [body[start:start + 4096] for start in range(0, len(body), 4096)] + [b""]
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        if handler.command == "HEAD":
            body = b""
        head = "".join(f"{line}\r\n" for line in (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()), "")).encode()
        answer = (head + body)[:None if fault.cut is None else max(0, len(head) + fault.cut)]
        request.sent = max(0, len(answer) - len(head))
        if fault.stall is not None:
            pause = max(0, len(head) + fault.stall)
            handler.wfile.write(answer[:pause])
            self.stalled.set()
            self.release.wait()
            answer = answer[pause:]
        handler.wfile.write(answer)
        if fault.reset:  # a socket that may not linger is closed by a reset
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(handler.connection.detach())

    def _reply(self, handler: http.server.BaseHTTPRequestHandler, path: Path,
               fault: Fault) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, before what the fault does to them."""
        if fault.redirect:
            return 302, {"Location": fault.redirect}, b""
        if fault.status:
            return fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else {}, b"no\n"
        if not path.is_file():
            return 404, {}, b"no\n"
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": tag} if fault.etag else {}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        same = fault.ignore_if_range or handler.headers.get("If-Range", tag) == tag
        if fault.ignore_range or not asked or not same:
            return 200, headers, content
        start = max(0, int(asked[1]) + fault.shift)
        end = min(len(content), int(asked[2] or len(content)) + 1)
        if start >= end:
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        return 206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}, content[start:end]


class CuttingProxy:
    """Passes connections on to 127.0.0.1:`port`; a context manager.

    cuts: bytes from there after which a connection ends, one number per connection; later ones stay whole.
    heard: all that the clients said.
    """

    def __init__(self, port: int):
        self.cuts: list[int] = []
        self.heard = bytearray()
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with socket.create_connection(("127.0.0.1", port)) as upstream, contextlib.suppress(OSError):
                    threading.Thread(target=owner._listen, args=(self.request, upstream), daemon=True).start()
                    left = owner.cuts.pop(0) if owner.cuts else float("inf")
                    while left and (data := upstream.recv(1 << 16)):
                        data = data[:min(left, len(data))]
                        self.request.sendall(data)
                        left -= len(data)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()

    def _listen(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                self.heard += data
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_WR)

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
