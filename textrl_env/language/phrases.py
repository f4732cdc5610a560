"""Templates with `{slots}`: sentences are written from them and recognised by them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

_SLOT = re.compile(r"\{(\w+)\}")


def sentences(text: str) -> list[str]:
    """The text cut behind every full stop, exclamation and question mark that a space follows."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


def words_of(text: str) -> list[str]:
    """The text's runs of letters, digits and underscores, in lower case."""
    return re.findall(r"\w+", text.lower())


class Phrases:
    """Templates over slots, each of which may become one of its options; an option may have slots itself.

    When a text is written, a value given by keyword takes the place of the slot's options.
    """

    def __init__(self, slots: Mapping[str, Sequence[str]]):
        self._slots = {name: tuple(options) for name, options in slots.items()}
        self._recognisers: dict[tuple[str, ...], re.Pattern[str]] = {}

    def write(self, rng: Random, template: str, **given: str) -> str:
        """The template with every slot filled; slots that are not given are drawn."""

        def fill(match: re.Match[str]) -> str:
            if match[1] in given:
                return given[match[1]]
            return self.write(rng, rng.choice(self._slots[match[1]]), **given)

        return _SLOT.sub(fill, template)

    def pattern(self, template: str) -> str:
        """A regular expression for all that the template can become."""
        parts = _SLOT.split(template)  # literal, slot, literal, ..., literal
        out = re.escape(parts[0])
        for slot, literal in zip(parts[1::2], parts[2::2], strict=True):
            options = [self.pattern(option) for option in self._slots[slot]]
            out += f"(?:{'|'.join(options)}){re.escape(literal)}"
        return out

    def recogniser(self, *templates: str) -> re.Pattern[str]:
        """A compiled expression for all that the templates can become; compiled once."""
        if templates not in self._recognisers:
            self._recognisers[templates] = re.compile("|".join(f"(?:{self.pattern(each)})" for each in templates))
        return self._recognisers[templates]

    def matches(self, text: str, *templates: str) -> bool:
        """Whether the whole text can be written from one of the templates."""
        return self.recogniser(*templates).fullmatch(text) is not None
