"""The formats by name, and the one that a file's rows look like."""

from __future__ import annotations

from collections.abc import Sequence

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import names_shown
from textrl_env.preferences.formats.format import Format, Row
from textrl_env.preferences.formats.helpsteer import HELPSTEER, HELPSTEER_1_TO_5
from textrl_env.preferences.formats.hh_rlhf import HH_RLHF
from textrl_env.preferences.formats.label_studio import LABEL_STUDIO
from textrl_env.preferences.formats.own import OWN
from textrl_env.preferences.formats.trl import EXPLICIT, IMPLICIT
from textrl_env.preferences.formats.trl_unpaired import UNPAIRED
from textrl_env.preferences.formats.ultrafeedback import ULTRAFEEDBACK

FORMATS = {
    each.name: each
    for each in (
        OWN,
        LABEL_STUDIO,
        ULTRAFEEDBACK,
        HELPSTEER_1_TO_5,
        HELPSTEER,
        UNPAIRED,
        HH_RLHF,
        IMPLICIT,
        EXPLICIT,
    )
}
"""The first that matches is the one: a format stands before those that its rows match too."""


def format_named(name: str) -> Format:
    """The format of that name. Raises UnknownName."""
    if name not in FORMATS:
        raise UnknownName("format", name, FORMATS)
    return FORMATS[name]


def detected(rows: Sequence[Row]) -> Format:
    """The format that rows (at least one) look like. Raises ConfigError where they look like none."""
    for each in FORMATS.values():
        if each.matches(rows):
            return each
    raise ConfigError(
        f"rows with the keys {names_shown(rows[0])} are of no known format; known: {', '.join(FORMATS)}. "
        "Rename the keys, or name the format that is meant"
    )
