"""What a model is asked: examples, their options, the prompts made of them, and control conditions."""

from __future__ import annotations
