"""How a claim of the paper is judged: its analyses, their results, and the word they lead to."""

from __future__ import annotations
