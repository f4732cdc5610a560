"""The picture of the architecture is that of the imports: nothing is drawn that is not there, and nothing left out."""

from __future__ import annotations

import re
from itertools import product
from xml.etree import ElementTree

import pytest
from test_layers import MODULES, home, imported

from generators.architecture import PICTURE, ROOMS, picture, room_of, without_detours

SVG = ElementTree.fromstring(PICTURE.read_text(encoding="utf-8"))
DRAWN = {(path.get("data-from"), path.get("data-to")) for path in SVG.iter() if path.get("data-from")}
# Imports of names that a package's root gives, and loads from elsewhere.
ROOTS = ("textrl_env", "textrl_agents")


def closure(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """All pairs with a way from the first to the second."""
    found = set(arrows)
    rooms = {room for arrow in arrows for room in arrow}
    for middle, start, end in product(rooms, repeat=3):
        if (start, middle) in found and (middle, end) in found:
            found.add((start, end))
    return found


def imports_between_rooms() -> set[tuple[str, str]]:
    """By the walk of `test_layers`, which knows nothing of the drawing."""
    pairs = {(module, home(name)) for module, path in MODULES.items() for name in imported(path)}
    between = {(room_of(module), room_of(target)) for module, target in pairs if target not in ROOTS}
    return {(here, there) for here, there in between if here and there and here != there}


def test_every_module_is_in_a_room():
    outside = {module for module in MODULES if module not in ROOTS and room_of(module) is None}
    assert {module for module in outside if not module.startswith("textrl_env.embedded")} == set()


@pytest.mark.slow  # reads every module twice
def test_the_picture_is_the_imports():
    imports = imports_between_rooms()
    assert imports <= closure(DRAWN), "python docs/generators/architecture.py draws it anew"
    assert closure(DRAWN) == closure(imports | DRAWN)
    assert picture() == PICTURE.read_text(encoding="utf-8"), "python docs/generators/architecture.py draws it anew"


def test_every_room_is_drawn_once_and_inside():
    names = [text.text for text in SVG.iter() if text.tag.endswith("text") and text.get("font-weight") == "bold"]
    assert sorted(names) == sorted(room for rooms in ROOMS.values() for room in rooms)
    _, _, width, height = map(float, SVG.get("viewBox", "").split())
    for box in SVG.iter("{http://www.w3.org/2000/svg}rect"):
        x, y = float(box.get("x", 0)), float(box.get("y", 0))
        assert x >= 0
        assert y >= 0
        assert x + float(box.get("width", 0)) <= width
        assert y + float(box.get("height", 0)) <= height


def test_arrows_point_down_or_into_the_environment():
    """A room stands above all that it needs of its package, so no arrow runs back."""
    for path in SVG.iter("{http://www.w3.org/2000/svg}path"):
        here, there = path.get("data-from"), path.get("data-to")
        if here:
            (x0, y0), *_, (x1, y1) = re.findall(r"([\d.]+) ([\d.]+)", path.get("d", ""))
            leaves = here in ROOMS["textrl_agents"] and there in ROOMS["textrl_env"]
            assert float(x1) < float(x0) if leaves else float(y1) > float(y0), path.attrib
            assert leaves or any({here, there} <= set(rooms) for rooms in ROOMS.values())


def test_an_arrow_that_follows_from_others_is_left_out():
    needed = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": set()}
    assert without_detours(needed) == {"top": {"middle"}, "middle": {"bottom"}, "bottom": set()}
