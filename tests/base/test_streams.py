"""A command whose output is closed, full, cut off or in another encoding ends without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.base.cli import NO_READER
from src.base.files import ROOT

TRACE = f"'{sys.executable}' -m src.trace 0.5 --most 100000"  # more than a pipe holds
ODD = "src.base.cli import stage\nwith stage('it'): print('≥ ü 日本' * 3)"


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], cwd=ROOT, capture_output=True, encoding="utf-8",
        errors="replace", timeout=120, env={**os.environ, **env}, check=False,
    )  # fmt: skip


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    done = shell(f"{TRACE} | head -n 1")
    assert done.returncode == NO_READER
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_full_output_is_said() -> None:
    done = shell(f"{TRACE} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: trace: No space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_command_whose_streams_are_closed_does_its_work(closed: str) -> None:
    assert shell(f"{TRACE} {closed}").returncode == 0


def test_no_file_takes_the_number_of_a_closed_stream() -> None:
    """Else a warning that a library writes to standard error would land in the store."""
    program = "import src, sys; print(open('README.md').fileno(), file=open('/dev/tty' if 0 else sys.argv[1], 'w'))"
    done = shell(f"""'{sys.executable}' -c "{program}" /dev/fd/9 9>&1 >&- 2>&- <&-""")
    assert int(done.stdout) > 2


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}])
def test_a_character_that_the_terminal_lacks_is_shown_as_its_escape(env: dict[str, str]) -> None:
    done = shell(f"""'{sys.executable}' -c "from {ODD}" """, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", ["prepare", "fetch bigbench"])
def test_a_stage_in_another_folder_writes_nothing_and_names_the_project(command: str, tmp_path: Path) -> None:
    done = shell(f"cd '{tmp_path}' && '{sys.executable}' -m src.{command}", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"holds no conf: cd {ROOT}")
    assert list(tmp_path.iterdir()) == []
