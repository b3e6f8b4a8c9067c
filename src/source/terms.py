"""The terms that bind whoever uses a source: who uses it says yes once, and the yes is kept in a file."""

from __future__ import annotations

import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from src.base.errors import UserError
from src.base.files import whole
from src.source.pins import Source, Terms, UnavailableError

ACCEPTED = Path("data/terms.json")  # url -> name, day and way of each yes that was given in this checkout
VARIABLE = "ACCEPT_TERMS"


def accept(source: Source, root: Path = Path()) -> None:
    """Returns where the source has no terms, or where they are accepted: earlier, by $ACCEPT_TERMS, or at the terminal.

    A yes is of one address: where a source's terms move to another one, it is asked for again. Raises UnavailableError
    that names the terms and the way to accept them.
    """
    terms = source.terms
    if terms is None:
        return
    given = _given(root / ACCEPTED)
    if terms.url in given:
        return
    way = _by_variable(terms) or _by_terminal(source, terms)
    if way is None:
        raise UnavailableError(
            f"{source.name} comes under the {terms.title} ({terms.url}), which bind whoever uses it. Read them. "
            f"To accept them: {VARIABLE}={terms.name} python -m src.fetch {source.name}"
        )
    given[terms.url] = {"name": terms.name, "accepted": datetime.now(UTC).isoformat(timespec="seconds"), "by": way}
    (root / ACCEPTED).parent.mkdir(parents=True, exist_ok=True)
    with whole(root / ACCEPTED) as part:
        part.write_text(json.dumps(given, indent=1) + "\n", encoding="utf-8")


def _given(path: Path) -> dict[str, dict[str, str]]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError):
        raise UserError(
            f"{path} is damaged. It holds the terms that were accepted here: remove it, and accept again"
        ) from None


def _by_variable(terms: Terms) -> str | None:
    """$ACCEPT_TERMS holds names, between commas or spaces."""
    return VARIABLE if terms.name in re.split(r"[,\s]+", os.environ.get(VARIABLE, "")) else None


def _by_terminal(source: Source, terms: Terms) -> str | None:
    """Asks where somebody can answer."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    print(
        f"{source.name} comes under the {terms.title} ({terms.url}), which bind whoever uses it.\n"
        f"Type {terms.name} to accept them, or anything else to leave: ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return "terminal" if sys.stdin.readline().strip() == terms.name else None
