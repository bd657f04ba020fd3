"""A local HTTP server that offers a built world under the paths of the real hosts."""
from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Files of the world's folder; /OWNER/NAME/resolve/REVISION/FILE is /OWNER/NAME/FILE, whatever the revision."""

    def translate_path(self, path: str) -> str:
        """The file of a path, which may be the hub's."""
        return super().translate_path(re.sub(r"^/([^/]+/[^/]+)/resolve/[^/]+/", r"/\1/", path))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def make_server(directory: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of `directory` on 127.0.0.1, bound but not yet running; port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=str(directory)))


def address(server: ThreadingHTTPServer) -> str:
    """Where a server answers, without a final slash."""
    return f"http://127.0.0.1:{server.server_address[1]}"


@contextlib.contextmanager
def serve(directory: str | Path) -> Iterator[str]:
    """Run a server of `directory` in a thread; yields its address without a final slash."""
    with make_server(directory) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield address(server)
        finally:
            server.shutdown()
            thread.join()
