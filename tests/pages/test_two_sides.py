"""Figure 2 of own runs shows the controls that were run, and names no other."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from src.pages.palette import Figure
from src.pages.two_sides import overlap

FIGURE = Figure(name="f", kind="overlap", title="", caption="", frame="")


def rows(**more: object) -> pd.DataFrame:
    sides = {
        f"{side}_{name}": value
        for side in ("left", "right")
        for name, value in {
            "model": "m", "shots": 0, "accuracy": 0.6, "ci_low": 0.5, "ci_high": 0.7, "chance": 0.5, "above": True,
        }.items()
    }  # fmt: skip
    return pd.DataFrame([{"task": "a", "agree": True, **sides, **more}, {"task": "b", "agree": True, **sides, **more}])


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({}, 0),
        ({"left_floor": None, "right_floor": None}, 0),
        ({"left_floor": 0.4, "right_floor": None}, 1),
        ({"left_floor": 0.4, "right_floor": 0.4, "left_every_order": 0.5, "right_every_order": 0.5}, 2),
    ],
)
def test_the_legend_names_the_controls_that_have_a_value(more: dict[str, object], named: int) -> None:
    plot, alt = overlap(FIGURE, rows(**more))
    labels = [each.get_text() for each in plot.legends[0].get_texts()]
    plt.close(plot)
    assert len(labels) == 4 + named
    assert ("under another example's input" in labels) == (named > 0)
    assert "2 tasks" in alt
