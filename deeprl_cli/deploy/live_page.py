"""One page on this machine that shows a policy at play: a server on 127.0.0.1 that nobody else can reach.

`/` is the page, `/events` the stream of moments, each with its picture (server-sent events). A page of another site
can't read them: requests that name another host are refused.
"""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deeprl_cli.deploy.live import Moment
from deeprl_cli.errors import UserError

HOST = "127.0.0.1"
TEMPLATE = "live_page.html"
QUALITY = 85  # of a JPEG
PATIENCE = 5.0  # seconds without news after which a viewer is told that all is well
LONGEST_ACTION = 64  # numbers of an action that are shown
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'"


class LivePage:
    """What is shown now, and who watches."""

    def __init__(self, title: str, about: str) -> None:
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
        )
        self.html = environment.get_template(TEMPLATE).render(title=title, about=about).encode()
        self._news = threading.Condition()
        self._message, self._number, self._over = b"", 0, False
        self.viewers = 0
        self.hosts: tuple[str, ...] = ()

    def show(self, moment: Moment) -> None:
        """To everybody who watches."""
        message = as_message(moment)
        with self._news:
            self._message, self._number = message, self._number + 1
            self._news.notify_all()

    def wait_for_viewer(self, seconds: float) -> bool:
        """Whether somebody watches, at the latest after so long."""
        with self._news:
            return self._news.wait_for(lambda: self.viewers > 0, seconds)

    def close(self) -> None:
        with self._news:
            self._over = True
            self._news.notify_all()

    def messages(self) -> Iterator[bytes]:
        """For one viewer: what is shown now, and then whatever is new; what came too fast is left out."""
        with self._news:
            self.viewers += 1
            self._news.notify_all()
        known, over = 0, False
        try:
            while not over:
                number, over = self._later_than(known)
                yield b"data: " + self._message + b"\n\n" if number > known else b": still here\n\n"
                known = number
            yield b"event: over\ndata: {}\n\n"
        finally:
            with self._news:
                self.viewers -= 1

    def _later_than(self, known: int) -> tuple[int, bool]:
        """Wait for news; the number of the newest, and whether it was the last."""
        with self._news:
            self._news.wait_for(lambda: self._over or self._number > known, PATIENCE)
            return self._number, self._over


def as_message(moment: Moment) -> bytes:
    """The moment as JSON on one line; what isn't finite is null."""
    action = None if moment.action is None else np.asarray(moment.action).ravel()[:LONGEST_ACTION].tolist()
    told: dict[str, Any] = {
        "episode": moment.episode,
        "step": moment.step,
        "action": action if action is None else [_finite(number) for number in action],
        "value": _finite(moment.value),
        "reward": _finite(moment.reward),
        "return": _finite(moment.total),
        "ended": moment.ended,
        "weights": moment.weights,
        "picture": None if moment.frame is None else _jpeg(moment.frame),
    }
    return json.dumps(told, allow_nan=False).encode()


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else number


def _jpeg(frame: np.ndarray) -> str:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(frame).save(data, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


@contextmanager
def served(page: LivePage, port: int) -> Iterator[str]:
    """Serve the page; its address. Port 0: one that is free. Raises UserError where the port can't be had."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host") not in page.hosts:
                self.send_error(403, "not this host")
            elif self.path == "/":
                self._head("text/html; charset=utf-8", len(page.html))
                self.wfile.write(page.html)
            elif self.path == "/events":
                self._head("text/event-stream")
                for message in page.messages():
                    self.wfile.write(message)
            else:
                self.send_error(404)

        def _head(self, kind: str, length: int | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", _POLICY)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: the terminal is for episodes."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Nothing: a viewer has left."""

    try:
        server = Server((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise UserError(
            f"--port {port}: can't be used ({reason}): give another, or none for one that is free"
        ) from error
    port = server.server_address[1]
    page.hosts = (f"{HOST}:{port}", f"localhost:{port}")
    thread = threading.Thread(target=server.serve_forever, name="deeprl page", daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        page.close()
        server.shutdown()
        server.server_close()
