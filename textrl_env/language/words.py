"""The words of the grammar and of the tasks: six topics of reviews, a small made-up world, and what formats share.

Only data. Every noun is singular, so that no rule has to agree in number.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """The words of one kind of review. `fit` and `unfit` are said of the subject, not of an aspect."""

    name: str
    subject: tuple[str, ...]
    place: tuple[str, ...]
    aspect: tuple[str, ...]
    fit: tuple[str, ...]
    unfit: tuple[str, ...]


def _topic(name: str, *, subject: str, place: str, aspect: str, fit: str, unfit: str) -> Topic:
    def split(words: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in words.split(","))

    return Topic(name, split(subject), split(place), split(aspect), split(fit), split(unfit))


TOPICS = (
    _topic(
        "film",
        subject="film, movie, comedy, thriller, drama, documentary, sequel, cartoon",
        place="at the cinema, on the plane, at the festival",
        aspect="plot, acting, ending, music, dialogue, camera work, cast, first scene",
        fit="funny, gripping, moving, clever, charming, beautiful",
        unfit="boring, predictable, confusing, silly, flat, tedious",
    ),
    _topic(
        "book",
        subject="novel, book, story, biography, guide, memoir, diary, poem",
        place="from the library, by the new author, in the series",
        aspect="plot, style, ending, main character, language, first chapter, cover, humour",
        fit="gripping, touching, witty, thoughtful, vivid, brilliant",
        unfit="tedious, boring, confusing, dry, shallow, pointless",
    ),
    _topic(
        "meal",
        subject="soup, bread, curry, salad, cake, coffee, fish, breakfast",
        place="at the old hotel, at the corner cafe, in the market hall",
        aspect="service, sauce, portion, price, taste, menu, smell, dessert",
        fit="delicious, tasty, fresh, crisp, tender, superb",
        unfit="bland, stale, greasy, burnt, salty, cold",
    ),
    _topic(
        "hotel",
        subject="room, hotel, suite, cabin, hostel, inn, bed, pool",
        place="by the lake, near the station, on the hill",
        aspect="staff, view, bathroom, breakfast, location, wifi, price, garden",
        fit="clean, quiet, comfortable, cosy, bright, charming",
        unfit="dirty, noisy, uncomfortable, shabby, damp, cold",
    ),
    _topic(
        "gadget",
        subject="phone, camera, laptop, speaker, watch, printer, lamp, drone",
        place="from the small shop, in the blue box, with the new screen",
        aspect="battery, screen, sound, design, manual, price, software, button",
        fit="fast, reliable, handy, sturdy, clever, brilliant",
        unfit="broken, flimsy, useless, unreliable, clumsy, slow",
    ),
    _topic(
        "concert",
        subject="concert, band, singer, song, album, festival, orchestra, show",
        place="in the park, at the town hall, on the main stage",
        aspect="sound, crowd, light show, drummer, voice, venue, ticket price, last song",
        fit="lively, thrilling, beautiful, stunning, magical, joyful",
        unfit="noisy, chaotic, lifeless, sloppy, tiresome, dull",
    ),
)

COUNTRIES = {  # made up: country -> (capital, river, colour of the flag)
    "Marovia": ("Telin", "Olan", "green"),
    "Sandor": ("Pelmar", "Vesk", "red"),
    "Ilmaria": ("Korin", "Tasel", "blue"),
    "Brevia": ("Dalen", "Umber", "yellow"),
    "Norvalia": ("Estrin", "Rilla", "white"),
    "Quessia": ("Hadar", "Mond", "black"),
}
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ANIMALS = {  # animal -> (number of legs, what it does)
    "cat": ("four", "sleeps"),
    "dog": ("four", "barks"),
    "bird": ("two", "sings"),
    "horse": ("four", "runs"),
    "spider": ("eight", "climbs"),
    "bee": ("six", "flies"),
    "hen": ("two", "walks"),
    "frog": ("four", "jumps"),
}

# What several formats share. Each begins with a consonant where "a" may stand before it.
PEOPLE = ("Anna", "Tom", "Mia", "Leo", "Nora", "Ben", "Eva", "Max", "Lily", "Sam", "Ida", "Paul")
CITIES = tuple(capital for capital, _, _ in COUNTRIES.values())
THINGS = ("lamp", "watch", "camera", "book", "phone", "guide", "hat", "ring", "box", "cup")
FOODS = ("soup", "bread", "curry", "salad", "cake", "coffee", "fish")
BEASTS = ("cat", "dog", "bird", "horse", "hen", "frog", "bee")
PLACES = ("river", "lake", "market", "park", "station", "garden", "hill")
VEHICLES = ("train", "bus", "boat", "car")
