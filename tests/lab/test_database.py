"""A database of runs is begun whole or not at all."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from src.base.files import ROOT
from src.lab.runs import connected
from tests import warm

KILLED_AT_TABLE = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
place, uri, made = int(sys.argv[1]), sys.argv[2], 0
@event.listens_for(Engine, "after_cursor_execute")
def hook(connection, cursor, statement, *rest):
    global made
    if statement.lstrip().upper().startswith(("CREATE", "ALTER")):
        made += 1
        if made == place:
            os.kill(os.getpid(), signal.SIGKILL)
from src.lab.runs import connected
connected(uri, "an-experiment")
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", [5, 40, 150])
def test_a_start_that_is_killed_while_it_makes_the_database_costs_the_next_nothing(tmp_path: Path, place: int) -> None:
    database = tmp_path / "runs [1] of 'a'.db"
    uri = f"sqlite:///{database}"
    killed = warm.ran("-c", KILLED_AT_TABLE, str(place), uri, cwd=ROOT, both=True)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    assert not database.exists()
    assert list(tmp_path.glob("*.part"))  # it was in the middle
    client, experiment = connected(uri, "an-experiment")
    assert client.get_experiment(experiment).name == "an-experiment"
    assert not list(tmp_path.glob("*.part*"))
