"""A cell: one model answers one task under one condition. Its answers, its file, its ledger."""

from __future__ import annotations
