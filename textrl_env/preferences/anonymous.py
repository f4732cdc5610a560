"""Records without pseudonyms: they are hashed with a salt that nobody keeps; and records without free text."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator

from textrl_env.preferences.records import Edit, Record

_DIGITS = 16  # hexadecimal, of a hash: 64 bits


def anonymized(records: Iterable[Record]) -> Iterator[Record]:
    """Replace each annotator by an HMAC-SHA256 of the pseudonym, whose key is drawn at random for this call.

    Records of one annotator stay together, and a hash tells neither the pseudonym nor which hash of another export is
    the same annotator's. All else is as it was and may tell: prompts, responses, their columns, which may hold names,
    times, and free text, which `without_free_text` drops.
    """
    key = secrets.token_bytes(32)
    for record in records:
        if record.annotator is None:
            yield record
            continue
        digest = hmac.new(key, record.annotator.encode("utf-8"), hashlib.sha256).hexdigest()
        yield dataclasses.replace(record, annotator=digest[:_DIGITS])


def without_free_text(records: Iterable[Record]) -> Iterator[Record]:
    """Drop what annotators wrote in their own words: every comment, and edits as a whole, which are nothing else."""
    for record in records:
        if not isinstance(record, Edit):
            yield record if record.comment is None else dataclasses.replace(record, comment=None)
