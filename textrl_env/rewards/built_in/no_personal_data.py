"""Whether a text is free of what names or reaches a person: e-mail addresses, phone, card and bank account numbers."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from textrl_env.errors import MissingExtra
from textrl_env.text.chat_text import completion_text
from textrl_env.user_values import check_names

MOST_CHARACTERS = 20_000
"""Only so much of a text is read."""
# Names and addresses of people have no form that a rule could know.
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}\b")
_CARD = re.compile(r"(?<!\d)[2-6]\d{3}(?:[ -]?\d){9,15}(?!\d)", re.ASCII)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", re.ASCII)


class NoPersonalDataReward:
    """1 for a response without personal data, else 0.

    Found are e-mail addresses by their form, phone numbers that Google's rules hold for valid (package
    `phonenumberslite`), card numbers whose check digit is right (ISO/IEC 7812) and bank account numbers whose
    checksum is (IBAN, ISO 13616; package `python-stdnum`). Names and addresses are not found. It judges any piece of a
    text, also an empty one, which scores 1: combine it with a reward that wants text.

    region: an ISO 3166-1 code such as "US", whose phone numbers are found without their country's code; elsewhere they
    begin with +. None finds those with + alone.

    Raises UnknownName for a region without phone numbers, and MissingExtra without the packages.
    """

    __name__ = "no_personal_data"

    def __init__(self, region: str | None = "US") -> None:
        for module, package in (("phonenumbers", "phonenumberslite"), ("stdnum", "python-stdnum")):
            if importlib.util.find_spec(module) is None:
                raise MissingExtra("rewards", package)
        import phonenumbers

        if region is not None:
            check_names("region", [region], phonenumbers.SUPPORTED_REGIONS)
        self.region = region

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """n scores, 0 or 1."""
        found = (next(find_personal_data(completion_text(text), self.region), None) for text in completions)
        return [1.0 if each is None else 0.0 for each in found]

    def __repr__(self) -> str:
        return f"NoPersonalDataReward(region={self.region!r})"


def find_personal_data(text: str, region: str | None = "US") -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of what is found: "email", "card", "iban" or "phone". region: see NoPersonalDataReward."""
    import phonenumbers
    from stdnum import iban, luhn

    text = text[:MOST_CHARACTERS]
    yield from (("email", match[0]) for match in _EMAIL.finditer(text))
    yield from (("card", match[0]) for match in _CARD.finditer(text) if luhn.is_valid(re.sub(r"[ -]", "", match[0])))
    for match in _IBAN.finditer(text):
        # Words in capitals behind it look like its last groups.
        groups = match[0].split(" ")
        parts = (" ".join(groups[:count]) for count in range(len(groups), 0, -1))
        if (whole := next(filter(iban.is_valid, parts), None)) is not None:
            yield "iban", whole
    phones = phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID)
    yield from (("phone", match.raw_string) for match in phones)


REWARD = NoPersonalDataReward
