"""The words that several formats share. All are singular and begin with a consonant where "a" may stand before them."""

from __future__ import annotations

from textrl_env.language.topics import COUNTRIES, DAYS

PEOPLE = ("Anna", "Tom", "Mia", "Leo", "Nora", "Ben", "Eva", "Max", "Lily", "Sam", "Ida", "Paul")
CITIES = tuple(capital for capital, _, _ in COUNTRIES.values())
WEEKDAYS = DAYS
THINGS = ("lamp", "watch", "camera", "book", "phone", "guide", "hat", "ring", "box", "cup")
FOODS = ("soup", "bread", "curry", "salad", "cake", "coffee", "fish")
BEASTS = ("cat", "dog", "bird", "horse", "hen", "frog", "bee")
PLACES = ("river", "lake", "market", "park", "station", "garden", "hill")
VEHICLES = ("train", "bus", "boat", "car")
