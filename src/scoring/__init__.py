"""What a completion is worth: exact match, BERTScore, likelihood, and what guessing gets."""

from __future__ import annotations
