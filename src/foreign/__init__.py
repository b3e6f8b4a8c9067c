"""Per-example results that other programs wrote."""

from __future__ import annotations
