"""What people read: tables, figures, sentences and the page."""

from __future__ import annotations
