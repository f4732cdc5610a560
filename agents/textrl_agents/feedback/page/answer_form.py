"""From the fields of a sent form to what an annotator said. The fields' names are those of `question.html.j2`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import visible
from textrl_env.preferences.question import Lease
from textrl_env.preferences.records import RATINGS

SKIP = "skip"
# What HTML cannot carry to a form and back: NUL, and line ends other than a newline.
_CHANGED_BY_HTML = re.compile("\r\n|\r|\x00")


def is_given_back(lease: Lease, fields: Mapping[str, str]) -> bool:
    """Whether the annotator passes the question on. A comparison is answered by that, with a record that says so."""
    return fields.get("choice") == SKIP and lease.question.kind != "comparison"


def judgement(lease: Lease, fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `Lease.record` for this form. Raises ConfigError, which the annotator reads."""
    found = _READERS[lease.question.kind](lease, fields)
    comment = browser_text(fields.get("comment", "")).strip()
    return {**found, "comment": comment or None}


def browser_text(text: str) -> str:
    """`text` as it comes back from a form in which nobody changed it."""
    return _CHANGED_BY_HTML.sub(lambda found: "\ufffd" if found[0] == "\x00" else "\n", text)


def _comparison(lease: Lease, fields: Mapping[str, str]) -> dict[str, Any]:
    left, right = lease.order
    known: dict[str, dict[str, Any]] = {
        "left": {"preferred": left},
        "right": {"preferred": right},
        "tie": {"preferred": None},
        SKIP: {"preferred": None, "skipped": True},
    }
    choice = fields.get("choice", "")
    if choice not in known:
        raise ConfigError("Choose one of the buttons: A, B, equally good, or skip.")
    return known[choice]


def _ranking(lease: Lease, fields: Mapping[str, str]) -> dict[str, Any]:
    ranks = [0] * len(lease.order)
    for place, index in enumerate(lease.order):
        ranks[index] = _number(fields, f"rank-{place}", range(1, len(ranks) + 1), "Give each response a rank.")
    return {"ranks": tuple(ranks)}


def _rating(lease: Lease, fields: Mapping[str, str]) -> dict[str, Any]:
    ratings = {
        name: _number(fields, f"rating-{place}", RATINGS, f"Choose a number for {visible(name)}.")
        for place, name in enumerate(lease.question.attributes)
    }
    return {"ratings": ratings}


def _edit(lease: Lease, fields: Mapping[str, str]) -> dict[str, Any]:
    if "edited" not in fields:
        raise ConfigError("The edited response is missing.")
    edited, original = browser_text(fields["edited"]), lease.question.candidates[0].text
    return {"edited": original if edited == browser_text(original) else edited}


def _number(fields: Mapping[str, str], name: str, allowed: range, missing: str) -> int:
    given = fields.get(name, "")
    if given not in map(str, allowed):
        raise ConfigError(missing)
    return int(given)


_READERS: dict[str, Callable[[Lease, Mapping[str, str]], dict[str, Any]]] = {
    "comparison": _comparison,
    "ranking": _ranking,
    "rating": _rating,
    "edit": _edit,
}
