"""Own cells in the formats of other programs."""

from __future__ import annotations
