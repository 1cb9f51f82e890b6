"""The types of progress.js, as TypeScript's own compiler reads them."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from backjob.page import asset

RIGHT = """
import type { BackjobTexts } from "./progress";

const element = document.querySelector("backjob-progress");
const percent: number | undefined = element?.state?.progress;
const made = document.createElement("backjob-progress");
made.setAttribute("src", "/backjob/1.a");
made.addEventListener("backjob-done", (event) => {
  event.preventDefault();
  const result: unknown = event.detail.result;
  const word: "STARTED" | "IN_PROGRESS" | "COMPLETED" | "FAILED" | "CANCELLED" = event.detail.status_name;
  console.log(result, word, percent);
});
document.addEventListener("backjob-failed", ({ detail }) => detail.status_text.trim());
const german: Partial<BackjobTexts> = { failed: "Fehlgeschlagen" };
customElements.whenDefined("backjob-progress").then((Progress) => { Progress.texts = german; });
"""
WRONG = """
import "./progress";
document.addEventListener("backjob-done", ({ detail }) => detail.percent);
document.querySelector("backjob-progress")!.state = null;
customElements.whenDefined("backjob-progress").then((Progress) => { Progress.texts = { done: "Fertig" }; });
"""


def compiled(modules: Path, folder: Path, source: str) -> list[str]:
    """What the compiler says of a program beside the types."""
    (folder / "progress.d.ts").write_bytes(asset("progress.d.ts"))
    (folder / "page.ts").write_text(source, encoding="utf-8")
    options = {"strict": True, "noEmit": True, "target": "es2022", "module": "esnext", "moduleResolution": "bundler"}
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["page.ts"]}))
    command = ["node", str(modules / "typescript" / "bin" / "tsc"), "--project", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.splitlines()


def test_a_page_in_typescript_compiles(modules: Path, tmp_path: Path) -> None:
    assert compiled(modules, tmp_path, RIGHT) == []


def test_what_the_element_has_not_is_an_error(modules: Path, tmp_path: Path) -> None:
    found = [re.findall(r"error TS\d+: .*'(\w+)'", line) for line in compiled(modules, tmp_path, WRONG)]
    assert len([one for one in found if one]) == 3


@pytest.mark.parametrize(
    ("declared", "script"),
    [(r"^  (\w+): string;$", r"^    (\w+): \"[^\"]+\",$")],
)
def test_every_text_is_declared(declared: str, script: str) -> None:
    types, code = (
        files("backjob").joinpath("static", name).read_text("utf-8") for name in ("progress.d.ts", "progress.js")
    )
    assert re.findall(declared, types, re.MULTILINE) == re.findall(script, code, re.MULTILINE)
