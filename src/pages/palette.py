"""What every figure shares: what conf/figure says of it, its colours, its error bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito (2008): told apart under every common colour blindness; shapes tell them apart in grey print.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#595959"


@dataclass(frozen=True)
class Figure:
    """conf/figure/<name>.yaml."""

    name: str
    kind: str  # one of KINDS
    title: str
    caption: str
    frame: str
    where: str | None = None  # pandas query
    beside: str | None = None  # the published figure it stands beside
    join: Mapping[str, Any] | None = None  # columns of another frame, as a table's
    optional: bool = False  # True: no figure where the frame does not exist or no row meets `where`


def error_bars(middle: pd.Series, low: pd.Series, high: pd.Series) -> list[list[float]]:
    """(2, points): how far the ends of an interval lie below and above its middle, as error bars want it."""
    return [list((middle - low).clip(lower=0).fillna(0)), list((high - middle).clip(lower=0).fillna(0))]
