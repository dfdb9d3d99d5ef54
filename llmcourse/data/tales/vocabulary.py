"""Every word of the village: people, places, things, foods, and the free word classes of sentences.

Taught in Part 2 (the corpus whose entropy is known exactly); used by every later part.
One file, so that a reader can see at a glance what the language can say, and so that a world
with held-out names or objects (`World.without`) is a matter of leaving entries out.
All nouns that name a thing, a spot or a food are distinct: a noun identifies its referent.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Person:
    """Someone who may appear in a story."""

    name: str
    female: bool


@dataclass(frozen=True)
class Thing:
    """An object that is owned, lost, given, hidden, broken and mended."""

    noun: str
    toy: bool  # two people can play with it
    breakable: bool


@dataclass(frozen=True)
class Spot:
    """A container or a hiding place; each belongs to one place of the village."""

    noun: str
    preposition: str
    place: str


@dataclass(frozen=True)
class Place:
    """Somewhere to be. The map never changes: the barn always has its hay and its ladder."""

    name: str
    preposition: str
    spots: tuple[Spot, ...]


@dataclass(frozen=True)
class Food:
    """Something to eat, and the trade that makes or grows it."""

    noun: str
    trade: str


# Few enough to learn by heart in minutes, and no two with the same first letter.
_GIRLS = "Ada Cora Ella Greta Ivy Kate Mia Nora Polly Ruth Una Wendy"
_BOYS = "Ben Dan Finn Hal Jack Leo Otto Quinn Sam Tom Victor Zack"
PEOPLE = tuple(
    [Person(n, True) for n in _GIRLS.split()] + [Person(n, False) for n in _BOYS.split()]
)

_TOYS = "ball doll drum flute harp horn kite puppet wagon whistle"
_FRAGILE = "bowl clock comb cup doll drum fan flute harp jug kite lamp mirror mug vase wagon"
_THINGS = (
    "ball bell book bowl brush button candle clock coin comb cup doll drum fan flute hat harp horn "
    "jug kite lamp map mirror mug puppet purse ring scarf spoon vase wagon whistle"
)
THINGS = tuple(Thing(n, n in _TOYS.split(), n in _FRAGILE.split()) for n in _THINGS.split())

_ADJECTIVES = (
    "red blue green yellow white black brown golden silver pink purple grey orange shiny tiny "
    "little big old new pretty plain striped spotted fancy"
)
ADJECTIVES = tuple(_ADJECTIVES.split())


def _place(name: str, preposition: str, *spots: str) -> Place:
    parsed = tuple(Spot(noun, prep, name) for prep, noun in (s.split() for s in spots))
    return Place(name, preposition, parsed)


PLACES = (
    _place("kitchen", "in", "in cupboard", "under table"),
    _place("barn", "in", "in hay", "behind ladder"),
    _place("garden", "in", "in shed", "behind roses"),
    _place("mill", "at", "in barrel", "behind sacks"),
    _place("pond", "by", "in reeds", "under boat"),
    _place("school", "at", "in desk", "under bench"),
    _place("market", "at", "under stall", "behind crates"),
    _place("forest", "in", "in ferns", "behind stump"),
)

# One food for each trade.
_FOODS = {
    "baker": "bread", "cook": "soup", "farmer": "cheese", "gardener": "carrots",
    "miller": "porridge", "shepherd": "nuts", "teacher": "apples", "sailor": "figs",
    "weaver": "pears", "potter": "honey", "smith": "stew", "fiddler": "cake",
}  # fmt: skip
FOODS = tuple(Food(noun, trade) for trade, noun in _FOODS.items())
TRADES = tuple(dict.fromkeys(food.trade for food in FOODS))

# The adjective of the opening sentence decides the weather.
WEATHERS = {
    word: weather
    for weather, words in {
        "sunny": "sunny bright warm clear hot golden mild fine",
        "rainy": "rainy wet grey dark",
        "windy": "windy breezy stormy wild",
        "snowy": "snowy frosty icy cold",
    }.items()
    for word in words.split()
}
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
TIMES = ("morning", "day", "afternoon", "evening", *_DAYS.split())

MOODS = {
    "happy": "happy glad cheerful merry joyful delighted pleased jolly",
    "sad": "sad gloomy unhappy glum miserable tearful lonely upset",
    "cross": "cross angry grumpy annoyed furious bitter",
}


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


# Word classes that sentences draw from uniformly and that do not change the state.
# In a template, [class] is one such choice.
WORDS: dict[str, tuple[str, ...]] = {
    **{mood: tuple(words.split()) for mood, words in MOODS.items()},
    "sat": _split(
        "sat, sang, rested, worked, waited, stood, read, dozed, played, lingered, sketched, "
        "whistled, swept, dreamed, hummed, danced, sewed, wrote, painted, napped, yawned, "
        "sighed, thought, strolled"
    ),
    "quarrelled": _split("quarrelled, argued, squabbled, fought"),
    "very": _split("very, rather, quite, truly, so, really"),
    "warm": _split("warm, fresh, sweet, tasty, lovely, good, plain, cold, fine, simple, rich, hot"),
    "came_by": _split(
        "came by, stopped by, turned up, strolled up, ran up, hurried up, walked up, "
        "skipped up, trotted up, rode up, dropped in, looked in"
    ),
    "jolly": _split(
        "old, young, jolly, tall, thin, busy, clever, gentle, shy, noisy, brave, sleepy, "
        "merry, famous, little, dear, good, tired, funny, proud"
    ),
    "then": _split(
        "then, soon, next, after a while, at once, a little later, by and by, before long"
    ),
    "bag": _split("bag, coat, pocket, apron, sleeve, pouch"),
    "went": _split(
        "went, walked, ran, hurried, skipped, strolled, wandered, marched, trotted, rushed, "
        "crept, danced, hopped, tramped, dashed, raced, ambled, plodded, jogged, slipped"
    ),
    "muddy": _split("muddy, long, short, quiet, stony, narrow, steep, dusty"),
    "path": _split("path, road, lane, track"),
    "looked": _split("looked, searched, peeked, peered, checked, felt, rummaged, hunted"),
    "a_small": _split(
        "a small, a big, a brown, a grey, a dusty, a dirty, a wet, a cold, an odd, a funny, "
        "a black, a white, a lonely, an ugly, a tiny, a pale"
    ),
    "leaf": _split(
        "leaf, acorn, beetle, bone, bottle, cobweb, cork, feather, frog, hook, mouse, nail, "
        "pebble, rag, snail, spider"
    ),
    "of_course": _split("Of course, Gladly, Yes, With pleasure, Surely, Why not"),
    "not_today": _split("No, Not today, Never, Not now"),
    "said": _split("said, answered, replied, called, murmured, whispered"),
    "sighed": _split("sighed, said, sobbed, whispered, groaned, wailed, muttered, sniffed"),
    "gladly": _split(
        "gladly, shyly, proudly, quietly, happily, carefully, quickly, politely, bravely, "
        "eagerly, slowly, sweetly, calmly, softly, boldly, kindly, nobly, merrily, briskly, "
        "gently, promptly, timidly, cheerfully, fondly"
    ),
    "sadly": _split("sadly, slowly, quietly, silently, wearily, glumly, grimly, tearfully"),
    "coldly": _split("coldly, rudely, sharply, crossly"),
    "bright": _split("bright, warm, shy, broad, small, quick, merry, happy, gentle, big"),
    "smile": _split("smile, bow, wink, laugh, nod, grin"),
    "glue": _split("glue, string, wax, nails"),
    "hummed": _split("hummed, sang, whistled, played"),
    "merry": _split(
        "merry, sweet, gentle, silly, happy, lively, funny, pretty, short, quick, bright, new"
    ),
    "slow": _split("slow, sad, low, soft, quiet, lonely"),
    "tune": _split("tune, song, ballad, lullaby, hymn, jig, march, rhyme"),
    "a_hare": _split(
        "a hare, a fox, a cat, a dog, a goat, a deer, a mole, a hen, a duck, a pony, an otter, "
        "a robin, a crow, an owl, a rabbit, a badger"
    ),
    "hay": _split("smoke, wool, bread, moss, wood, pine, straw, soap"),
    "mint": _split("mint, clover, honey, thyme, earth, grass, ginger, lilac"),
    "dog_barked": _split(
        "a dog barked, a cow mooed, a cock crowed, a sheep bleated, a bell rang, "
        "a horse neighed, a frog croaked, a child sang"
    ),
    "fields": _split(
        "huts, fields, lanes, hedges, trees, meadows, river, hills, gates, cottages, bridge, "
        "fences, valley, church, well, ditch"
    ),
    "shone": _split("shone, glowed, danced, blazed"),
    "fell": _split("fell, danced, settled, poured"),
    "blew": _split("blew, danced, howled, whistled"),
    "lovely": _split(
        "lovely, fine, good, splendid, perfect, glorious, grand, pretty, pleasant, happy, "
        "wonderful, golden"
    ),
    "day": _split("day, world, place, time"),
    "long": _split("long, hard, sad, grey, bad, dull"),
    "stars": _split("stars, bats, owls, moths, foxes, mice"),
    "quiet": _split("quiet, sleepy, silent, dark, peaceful, little, old, dreaming, still, calm"),
    "soundly": _split("soundly, well, deeply, sweetly"),
    "ran_past": _split("ran past, crept past, hopped past, slept by, sat by, danced by"),
    "badly": _split("badly, little, poorly, late"),
}
