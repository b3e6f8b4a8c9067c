"""Where files come from: pinned sources, their archives, the hub, a model's weights."""

from __future__ import annotations
