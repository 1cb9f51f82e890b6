"""Every block of README and docs that is not Python is well-formed: JavaScript, shell, JSON, YAML, SQL-free configuration."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
from typing import Final

import pytest

from tests.docs.pages import PAGES, Block, blocks

BLOCKS: Final = [block for page in PAGES for block in blocks(page)]
NODE: Final = shutil.which("node")
UNCHECKED: Final = {"python", "py", "text", "html", "css", "ts", "jsx", "nginx", "dockerfile"}
"""Python has tests of its own; the recipes run in others."""


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def test_each_language_is_checked_or_known() -> None:
    assert {block.language for block in BLOCKS} - UNCHECKED == {"js", "sh", "json", "yaml", "ini"}


@pytest.mark.skipif(NODE is None, reason="node is not installed; tests/browser/install.sh installs it")
@pytest.mark.parametrize("block", of("js"), ids=str)
def test_a_block_of_javascript_parses(block: Block) -> None:
    code = block.code.replace("{% backjob_status_url job_id %}", "/backjob/id")
    command = [str(NODE), "--check", "--input-type=module", "-"]  # a module may await
    done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_a_block_of_commands_parses(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_a_block_of_json_parses(block: Block) -> None:
    json.loads(block.code)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_a_block_of_yaml_parses(block: Block) -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is in the extra test")
    assert yaml.safe_load(block.code)


@pytest.mark.parametrize("block", of("ini"), ids=str)
def test_a_block_of_ini_parses(block: Block) -> None:
    text = block.code if block.code.lstrip("#\n ").startswith("[") or "\n[" in block.code else f"[block]\n{block.code}"
    parsed = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parsed.read_string(text)
    assert parsed.sections()
