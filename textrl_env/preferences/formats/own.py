"""This package's own format: one record a line, with everything that it has."""

from __future__ import annotations

from textrl_env.preferences.formats.format import Format, writer
from textrl_env.preferences.record_json import KIND, record_from_dict, record_to_dict
from textrl_env.preferences.records import Comparison, Edit, Ranking, Rating

OWN = Format(
    name="textrl",
    holds="everything",
    matches=lambda rows: {KIND, "candidates"} <= rows[0].keys(),
    read=lambda row: [record_from_dict(row)],
    write=writer(record_to_dict, Comparison, Ranking, Rating, Edit),
)
