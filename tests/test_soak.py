"""`make soak` kills, goes on where it was, and notices harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.base.files import ROOT
from tests import soak


def test_an_unknown_stage_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        soak.main(["--stages", "prepare,brew"])
    assert "no stage is named brew" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / f"data/raw/{soak.SOURCE}").is_dir(), reason="the pronouncing dictionary was not fetched"
)
def test_kills_end_in_the_unbroken_bytes_a_second_call_goes_on_and_harm_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--stages", "prepare,run", "--folder", str(tmp_path)]
    assert soak.main([*asked, "--kills", "3"]) == 0
    kept = json.loads((tmp_path / "soak.json").read_text())
    first = kept["kills"]
    assert len(first) == 3
    assert soak.main([*asked, "--kills", "5"]) == 0
    kept = json.loads((tmp_path / "soak.json").read_text())
    assert kept["kills"][:3] == first
    assert len(kept["kills"]) == 5
    assert any(kill["at_work"] for kill in kept["kills"])
    assert "5 kills sent" in capsys.readouterr().out
    for stage in kept["unbroken"].values():
        stage |= dict.fromkeys(stage, "another sha256")
    (tmp_path / "soak.json").write_text(json.dumps(kept))
    assert soak.main([*asked, "--kills", "6"]) == 1
    assert "differs from the unbroken run" in capsys.readouterr().out
