"""Every command says what it does, with two examples, and runs nothing."""

import re
import subprocess
import sys

import pytest

from src.base.files import ROOT

COMMANDS = sorted(p.stem for p in (ROOT / "src").glob("*.py") if '__name__ == "__main__"' in p.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_with_two_examples_and_runs_nothing(name, tmp_path):
    asked = [sys.executable, "-m", f"src.{name}", "--help"]
    # from a folder without data or params.yaml: a command that ran its work would fail or leave something
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "COLUMNS": "120"}
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(rf"^ +python -m src\.{name}\b", done.stdout, re.MULTILINE)) >= 2
    assert len(done.stdout.split("Examples:")[0].split()) >= 8
    assert "\x1b" not in done.stdout
    assert "{" not in re.sub(r"\{[\w,]+\}", "", done.stdout)  # no template left open
    assert not list(tmp_path.iterdir())
