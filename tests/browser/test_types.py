"""The type declarations of progress.js, checked with the TypeScript compiler."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from backjob.status.page import asset

_PATIENCE: Final = 300.0
"""Seconds: the compiler takes a minute of a busy machine to check the types of React and Vue."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(_PATIENCE + 60)]

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


REACT = """
import type { BackjobEvent } from "./progress";
const report = (event: BackjobEvent) => console.log(event.detail.progress);
export const Bar = ({ src }: { src: string }) => (
  <main>
    <backjob-progress src={src} output cancel stream label="Export" lang="de" onbackjob-done={report} className="wide" />
  </main>
);
"""
WRONG_REACT = """
import "./progress";
export const first = <backjob-progress src={5} />;
export const second = <backjob-progress colour="red" />;
"""
VUE = """
import type { GlobalComponents } from "vue";
import "./progress";
type Props = InstanceType<GlobalComponents["backjob-progress"]>["$props"];
export const props: Props = { src: "/backjob/1.a", cancel: true, onBackjobDone: (event) => console.log(event.detail.id) };
"""
WRONG_VUE = """
import type { GlobalComponents } from "vue";
import "./progress";
type Props = InstanceType<GlobalComponents["backjob-progress"]>["$props"];
export const props: Props = { src: 5 };
"""


def errors(modules: Path, folder: Path, sources: Mapping[str, str], *, packages: bool = False) -> list[tuple[str, str]]:
    """The file and line of each error that the TypeScript compiler finds. ``packages``: React and Vue are installed."""
    (folder / "progress.d.ts").write_bytes(asset("progress.d.ts"))
    for name, source in sources.items():
        (folder / name).write_text(source, encoding="utf-8")
    if packages:
        (folder / "node_modules").symlink_to(modules)
    options = {"strict": True, "noEmit": True, "target": "es2022", "module": "esnext", "moduleResolution": "bundler"}
    options |= {"lib": ["es2022", "dom"], "types": [], "skipDefaultLibCheck": True, "jsx": "react-jsx"}
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": list(sources)}))
    command = ["node", str(modules / "typescript" / "bin" / "tsc"), "--project", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    return re.findall(r"^([\w.]+)\((\d+),", done.stdout, re.MULTILINE)


def test_correct_uses_compile_and_wrong_uses_are_errors(modules: Path, tmp_path: Path) -> None:
    found = errors(modules, tmp_path, {"right.ts": RIGHT, "wrong.ts": WRONG})
    assert found == [("wrong.ts", "3"), ("wrong.ts", "4"), ("wrong.ts", "5")]


def test_react_and_vue_know_the_element(modules: Path, tmp_path: Path) -> None:
    sources = {"react.tsx": REACT, "wrong_react.tsx": WRONG_REACT, "vue.ts": VUE, "wrong_vue.ts": WRONG_VUE}
    found = errors(modules, tmp_path, {**sources, "right.ts": RIGHT}, packages=True)
    assert found == [("wrong_react.tsx", "3"), ("wrong_react.tsx", "4"), ("wrong_vue.ts", "5")]


def test_every_text_is_declared() -> None:
    types, script = (asset(name).decode("utf-8") for name in ("progress.d.ts", "progress.js"))
    declared = re.findall(r"^  (\w+): string;$", types.partition("interface BackjobTexts")[2], re.MULTILINE)
    assert declared == re.findall(r'^    (\w+): "[^"]+",$', script, re.MULTILINE)
