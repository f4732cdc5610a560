"""The catalogue of a shop, in groups of what the same customers buy."""

from __future__ import annotations

GROUPS = {
    "tea": ("tea", "kettle", "cup", "honey", "lemon", "spoon", "biscuit", "tray"),
    "garden": ("seed", "pot", "spade", "hose", "glove", "rake", "bulb", "fence"),
    "travel": ("map", "bag", "ticket", "towel", "compass", "tent", "rope", "torch"),
    "office": ("pen", "paper", "stapler", "folder", "desk", "lamp", "printer", "ink"),
    "music": ("drum", "guitar", "string", "amp", "cable", "stand", "tuner", "song"),
    "sport": ("ball", "shoe", "net", "bat", "whistle", "shirt", "bottle", "bench"),
}
GROUP_OF = {item: group for group, items in GROUPS.items() for item in items}
"""Item of the catalogue -> the group that buys it."""
