"""Words that carry sentiment, and the words that bend it. Shared by the grammar (which writes reviews)
and by the gold scorer (which reads them).

Values are in [-1, 1]. The lists hold every sentiment word that the grammar writes and the everyday ones
beside them, so that the gold scorer also has something to say about text from another model.
"""

from __future__ import annotations

from types import MappingProxyType

_BY_VALUE = {
    1.0: "wonderful excellent superb perfect brilliant outstanding amazing fantastic magnificent masterpiece",
    0.9: "great loved love stunning delicious adore adored marvellous awesome",
    0.8: "lovely beautiful magical thrilling gripping delightful best happy joyful",
    0.7: "enjoyed enjoy admired admire recommend recommended moving charming funny impressed impressive tasty "
    "comfortable friendly lively thanks proud better",
    0.6: "good pleasant clever witty touching vivid cosy reliable worth gladly smile smiled fresh thoughtful "
    "handy warmly fun interesting kind",
    0.5: "nice liked like clean bright fast sturdy crisp tender quiet useful helpful pleased glad",
    0.4: "solid fine safe enjoyable",
    0.3: "decent okay",
    -0.4: "mediocre slow dry damp",
    -0.5: "weak disliked dislike flat silly shallow clumsy salty sad cold predictable lacking",
    -0.6: "bad poor boring bored dull bland regret regretted flimsy noisy sloppy confusing uncomfortable "
    "greasy unreliable tiresome ugly unhappy",
    -0.7: "disappointing disappointed disappoint disappoints broken stale burnt chaotic angry tedious "
    "annoying shabby pointless worse",
    -0.8: "waste wasted rude dirty lifeless pathetic miserable",
    -0.9: "hated hate useless unbearable",
    -1.0: "terrible awful horrible dreadful worst disgusting appalling atrocious",
}
POLARITY = MappingProxyType({word: value for value, words in _BY_VALUE.items() for word in words.split()})
"""Word (lower case) -> polarity in [-1, 1]. A word that is not here carries none."""

_NEGATORS = "not no never nothing nobody none neither nor hardly barely without cannot"
NEGATORS = frozenset(_NEGATORS.split())
"""Words that turn the sentiment of what follows. Words that end in "n't" count as well."""

_FACTORS = {
    1.3: "very really truly extremely absolutely so too incredibly completely",
    0.6: "slightly somewhat fairly rather bit little mostly quite",
}
INTENSIFIERS = MappingProxyType({word: factor for factor, words in _FACTORS.items() for word in words.split()})
"""Word -> factor on the sentiment of what follows it."""

CLAUSE_BREAKS = frozenset(["and", "but", "or", "yet", "though", "although", "because", "while", "however"])
"""Words across which neither a negation nor an intensifier reaches."""
