"""The type declarations of progress.js, checked with the TypeScript compiler."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from backjob.status.page import asset

pytestmark = pytest.mark.slow

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


def test_correct_uses_compile_and_wrong_uses_are_errors(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "progress.d.ts").write_bytes(asset("progress.d.ts"))
    (tmp_path / "right.ts").write_text(RIGHT, encoding="utf-8")
    (tmp_path / "wrong.ts").write_text(WRONG, encoding="utf-8")
    options = {"strict": True, "noEmit": True, "target": "es2022", "module": "esnext", "moduleResolution": "bundler"}
    options |= {"lib": ["es2022", "dom"], "types": [], "skipDefaultLibCheck": True}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": ["right.ts", "wrong.ts"]}))
    command = ["node", str(modules / "typescript" / "bin" / "tsc"), "--project", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert re.findall(r"^([\w.]+)\((\d+),", done.stdout, re.MULTILINE) == [
        ("wrong.ts", "3"),
        ("wrong.ts", "4"),
        ("wrong.ts", "5"),
    ]


def test_every_text_is_declared() -> None:
    types, script = (asset(name).decode("utf-8") for name in ("progress.d.ts", "progress.js"))
    declared = re.findall(r"^  (\w+): string;$", types.partition("interface BackjobTexts")[2], re.MULTILINE)
    assert declared == re.findall(r'^    (\w+): "[^"]+",$', script, re.MULTILINE)
