"""What the scores say: arrays in `items.py` and `tests.py`, labelled rows above them."""

from __future__ import annotations
