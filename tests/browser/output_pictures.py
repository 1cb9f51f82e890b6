"""Takes pictures of the same output in a terminal (xterm on Xvfb) and on the page of a job.

``python -m tests.browser.output_pictures FOLDER`` writes ``output-terminal.png``, ``output.png`` and ``output-dark.png``. It
needs xterm, Xvfb, xwd and a Chromium for Playwright.
"""

from __future__ import annotations

import os
import secrets
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from wsgiref.simple_server import make_server

from playwright.sync_api import sync_playwright

from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware
from tests.browser.browsers import CHROMIUM
from tests.browser.conftest import _Silent, _Threaded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PROGRAM: Final = [sys.executable, "-m", "tests.browser.colourful"]
DEADLINE: Final = 60.0  # s
DISPLAY: Final = ":97"
SCHEMES: Final[dict[str, Literal["light", "dark"]]] = {"": "light", "-dark": "dark"}


def terminal(path: Path) -> None:
    """Take a picture of the program in an xterm."""
    server = subprocess.Popen(["Xvfb", DISPLAY, "-screen", "0", "646x446x24"], stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        done, dump = Path(folder) / "done", Path(folder) / "dump"
        environment = {**os.environ, "DISPLAY": DISPLAY}
        command = f"{' '.join(PROGRAM)}; touch {done}; sleep 60"
        font = ("-fa", "DejaVu Sans Mono", "-fs", "10")
        shown = [
            "xterm",
            "-u8",
            "-tn",
            "xterm-256color",
            "-geometry",
            "80x26+0+0",
            *font,
            "-bg",
            "white",
            "-fg",
            "black",
            "-e",
            "sh",
            "-c",
            command,
        ]
        window = None
        try:
            _until(lambda: Path(f"/tmp/.X11-unix/X{DISPLAY[1:]}").exists())
            window = subprocess.Popen(shown, env=environment)
            _until(done.exists)
            subprocess.run(["xwd", "-silent", "-root", "-out", str(dump)], env=environment, check=True)
            path.write_bytes(_png(dump.read_bytes()))
        finally:
            for process in (window, server):
                if process is not None:
                    process.terminate()
                    process.wait()


def _until(holds: object) -> None:
    until = time.monotonic() + DEADLINE
    while not holds():  # type: ignore[operator]
        if time.monotonic() > until:
            raise TimeoutError("the terminal did not show the program's end")
        time.sleep(0.1)


def _png(dump: bytes) -> bytes:
    """Convert what xwd has written (X11/XWDFile.h): rows of blue, green, red and a filler."""
    words = struct.unpack(">25I", dump[:100])
    size, width, height, row, colours = words[0], words[4], words[5], words[12], words[19]
    begin = size + 12 * colours
    lines = bytearray()
    for y in range(height):
        pixels = dump[begin + y * row : begin + y * row + 4 * width]
        line = bytearray(3 * width)
        line[0::3], line[1::3], line[2::3] = pixels[2::4], pixels[1::4], pixels[0::4]
        lines += b"\0" + line

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(lines))) + chunk(b"IEND", b"")
    )


def job(folder: Path) -> None:
    """Take pictures of a job that runs the program, in a light and a dark page."""

    def app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "0")])
        if jobs.is_background:
            jobs.run_command(PROGRAM, terminal=True)
        return [b""]

    with (
        tempfile.TemporaryDirectory() as temporary,
        BackJob(
            SQLiteStore(Path(temporary) / "jobs.db"), SocketTransport, MessageSigner(secrets.token_urlsafe(32))
        ) as jobs,
    ):
        middleware = BackJobMiddleware(app, jobs)
        server = make_server("127.0.0.1", 0, middleware, server_class=_Threaded, handler_class=_Silent)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            first = browser.new_page()
            first.goto(f"{url}/backjob/progress.js")  # the application learns its address
            job_id = jobs.start("/work", as_current_user=False, title="tqdm, Rich, click and pip")
            jobs.join(job_id, DEADLINE)
            for suffix, scheme in SCHEMES.items():
                page = browser.new_page(
                    viewport={"width": 760, "height": 700}, color_scheme=scheme, reduced_motion="reduce"
                )
                page.goto(url + jobs.status_url(job_id))
                page.locator("[part='output']").get_by_text("Successfully").wait_for()
                page.locator("[part='output']").evaluate("element => { element.style.maxHeight = 'none' }")
                page.screenshot(path=folder / f"output{suffix}.png", full_page=True)
            browser.close()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    terminal(target / "output-terminal.png")
    job(target)
