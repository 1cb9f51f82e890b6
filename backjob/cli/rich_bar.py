"""The bar as rich draws it (``backjob[rich]``). Whoever imports this imports rich, which takes a while."""

from __future__ import annotations

from typing import Final, TextIO

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.text import Text

from backjob.cli.bar import EVERY, WORDS, Drawing, Standing, gauge_width
from backjob.model import Status

__all__ = ["rich"]

_RUNNING: Final = "cyan"
_STYLES: Final = {Status.COMPLETED: "green", Status.FAILED: "red", Status.CANCELLED: "yellow"}
_MARKS: Final = {Status.COMPLETED: "✔+", Status.FAILED: "✘x", Status.CANCELLED: "■-"}


def rich(stream: TextIO) -> Drawing:
    """How the bar looks with rich, which knows the terminal's colours; in ASCII where its encoding is not UTF-8."""
    # What a job says is never markup: it only comes to rich as a Text.
    console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
    ascii_only = console.options.ascii_only
    spinner = Spinner("line" if ascii_only else "dots")

    def draw(standing: Standing, room: int) -> str:
        style = _STYLES.get(standing.status, "")
        seconds = standing.turn * EVERY
        mark = _MARKS[standing.status][ascii_only] if standing.status.is_final else spinner.render(seconds)
        line = Text.assemble((str(mark), style or _RUNNING), (f" {WORDS[standing.status]:<9}", style))
        if width := gauge_width(standing, room):
            pulse = standing.indeterminate
            bar = ProgressBar(100, standing.progress, width, pulse=pulse, animation_time=seconds)
            gauge = Text.assemble(*((segment.text, segment.style or "") for segment in console.render(bar)))
            gauge.pad_right(width - gauge.cell_len)
            line.append("  ").append(gauge)
        line.append(f"  {standing.progress:3d} %  ").append(f"{standing.time:>4}", "dim").append(f"  {standing.text}")
        line.rstrip()
        line.truncate(room, overflow="ellipsis")
        with console.capture() as captured:
            console.print(line, end="", soft_wrap=True)
        return captured.get()

    return draw
