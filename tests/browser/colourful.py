"""What tqdm, Rich, click and pip write on a terminal: run it in one, or in a job."""

from __future__ import annotations

import http.server
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tqdm import tqdm

PAUSE = 0.02  # s


def with_tqdm() -> None:
    for _ in tqdm(range(20), desc="orders"):
        for _ in tqdm(range(3), desc="lines", leave=False):
            time.sleep(PAUSE / 4)


def with_rich() -> None:
    console = Console()
    console.print("[bold red]Error[/] [link=https://example.org]link[/link] [black on green] ok [/] [#ff8800]orange[/]")
    with Progress(console=console) as progress:
        first, second = progress.add_task("Downloading", total=20), progress.add_task("Processing", total=20)
        for number in range(20):
            progress.advance(first)
            progress.advance(second, 0.6)
            time.sleep(PAUSE)
            if number == 10:
                progress.console.print("half way")
    table = Table(title="Rows")
    table.add_column("Table", style="cyan")
    table.add_column("Count", justify="right", style="magenta")
    table.add_row("users", "1,024")
    table.add_row("orders", "12")
    console.print(table)


def with_click() -> None:
    click.secho("Done", fg="green", bold=True)
    click.secho("Careful", fg="bright_yellow", underline=True)
    click.secho("Inverse", fg="cyan", reverse=True)
    with click.progressbar(range(20), label="Rows") as rows:
        for _ in rows:
            time.sleep(PAUSE)


class _Slow(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Log nothing."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while part := source.read(300_000):
            outputfile.write(part)
            time.sleep(PAUSE * 5)


def with_pip() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / "sample-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("sample/data.bin", bytes(3_000_000))
            file.writestr("sample-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
            file.writestr(
                "sample-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            file.writestr("sample-1.0.dist-info/RECORD", "")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slow, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ("--isolated", "--no-cache-dir", "--disable-pip-version-check", "download", "--no-deps")
        url = f"http://127.0.0.1:{server.server_port}/{wheel.name}"
        subprocess.run([sys.executable, "-m", "pip", *options, "--dest", f"{folder}/to", url], check=True)
        server.shutdown()
        server.server_close()


def main() -> None:
    for show in (with_tqdm, with_rich, with_click, with_pip):
        print(f"$ {show.__name__.removeprefix('with_')}", flush=True)
        show()
        sys.stdout.flush()


if __name__ == "__main__":
    main()
