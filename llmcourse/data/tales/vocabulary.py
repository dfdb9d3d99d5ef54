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
        "sunny": "sunny bright warm clear hot golden",
        "rainy": "rainy wet grey",
        "windy": "windy breezy stormy",
        "snowy": "snowy frosty icy cold",
    }.items()
    for word in words.split()
}
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
TIMES = ("morning", "day", "afternoon", "evening", *_DAYS.split())

MOODS = {
    "happy": "happy glad cheerful merry joyful delighted pleased jolly",
    "sad": "sad gloomy unhappy glum miserable tearful lonely upset",
    "cross": "cross angry grumpy annoyed furious bitter sulky fierce",
}


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


# Word classes that sentences draw from uniformly and that do not change the state.
# In a template, [class] is one such choice.
WORDS: dict[str, tuple[str, ...]] = {
    **{mood: tuple(words.split()) for mood, words in MOODS.items()},
    "sat": _split(
        "sat, sang, rested, worked, waited, stood, read, dozed, played, lingered, sketched, "
        "whistled, swept, dreamed, hummed, danced"
    ),
    "quarrelled": _split(
        "quarrelled, argued, squabbled, shouted, fought, bickered, wrangled, scuffled"
    ),
    "very": _split("very, rather, quite, truly, so, really, terribly, deeply"),
    "warm": _split(
        "warm, fresh, sweet, tasty, lovely, good, plain, cold, fine, simple, rich, splendid"
    ),
    "came_by": _split(
        "came by, stopped by, turned up, strolled up, ran up, hurried up, walked up, "
        "skipped up, trotted up, rode up, dropped in, looked in"
    ),
    "jolly": _split(
        "old, young, jolly, tall, thin, cheerful, busy, clever, gentle, shy, noisy, quiet, "
        "brave, sleepy, merry, famous, little, dear, good, tired, lively, funny, proud, "
        "careful"
    ),
    "then": _split(
        "then, soon, next, after a while, at once, a little later, by and by, before long"
    ),
    "bag": _split("bag, coat, pocket, apron, satchel, sleeve, bundle, pouch"),
    "went": _split(
        "went, walked, ran, hurried, skipped, strolled, wandered, marched, trotted, rushed, "
        "crept, danced, hopped, tramped, dashed, raced, ambled, plodded, jogged, slipped"
    ),
    "muddy": _split(
        "muddy, long, short, winding, quiet, stony, narrow, shady, steep, dusty, grassy, sandy"
    ),
    "path": _split("path, road, lane, track"),
    "looked": _split("looked, searched, peeked, peered, checked, felt, rummaged, hunted"),
    "a_small": _split(
        "a small, a big, a brown, a grey, a dusty, a dirty, a wet, a cold, an odd, a funny, "
        "a black, a white, a lonely, an ugly, a tiny, a pale"
    ),
    "leaf": _split(
        "leaf, acorn, beetle, bone, bottle, brick, cobweb, cork, crumb, feather, frog, hook, "
        "moth, mouse, nail, nut, pebble, pin, rag, seed, snail, sock, spider, stick"
    ),
    "of_course": _split(
        "Of course, Gladly, Yes, With pleasure, Certainly, Surely, Why not, Very well"
    ),
    "not_today": _split(
        "No, Not today, Never, Leave me alone, Not now, Certainly not, Ask me later, Go home"
    ),
    "said": _split("said, answered, replied, called, murmured, whispered"),
    "sighed": _split("sighed, said, sobbed, whispered, groaned, wailed, muttered, sniffed"),
    "gladly": _split(
        "gladly, shyly, proudly, quietly, happily, carefully, quickly, politely, bravely, "
        "eagerly, slowly, sweetly, calmly, softly, boldly, kindly, nobly, merrily, briskly, "
        "gently, promptly, timidly, cheerfully, fondly"
    ),
    "sadly": _split("sadly, slowly, quietly, silently, wearily, glumly, grimly, tearfully"),
    "coldly": _split("coldly, curtly, rudely, gruffly, sharply, stiffly, crossly, harshly"),
    "bright": _split(
        "bright, warm, shy, broad, small, quick, merry, happy, gentle, silly, big, kind"
    ),
    "smile": _split("smile, bow, wink, laugh, nod, grin"),
    "kind": _split("kind, good, sweet, thoughtful, generous, clever, helpful, brave"),
    "glue": _split("glue, string, wire, wax, thread, nails, tape, clay"),
    "hummed": _split("hummed, sang, whistled, played"),
    "merry": _split(
        "merry, sweet, gentle, silly, happy, lively, jolly, funny, pretty, sunny, short, "
        "quick, bright, brave, lovely, new"
    ),
    "slow": _split("slow, sad, low, soft, quiet, lonely, long, mournful"),
    "tune": _split("tune, song, ballad, lullaby, hymn, jig, march, rhyme"),
    "a_hare": _split(
        "a hare, a fox, a cat, a dog, a goat, a deer, a mole, a hen, a duck, a pony, an otter, "
        "a squirrel, a hedgehog, a lamb, a rabbit, a badger"
    ),
    "run_past": _split(
        "run past, creep past, trot past, hop past, slip past, rest by, stop by, wait by, "
        "doze by, dig by, play by, jump over"
    ),
    "lane": _split(
        "lane, ditch, field, stream, gate, fence, meadow, bush, well, cart, hut, haystack, "
        "pump, signpost, log, chapel"
    ),
    "a_robin": _split(
        "a robin, a thrush, a wren, a lark, a finch, a crow, an owl, a dove, a cuckoo, "
        "a magpie, a sparrow, a blackbird, a starling, a swallow, a jay, a raven"
    ),
    "sang": _split(
        "sang, called, chirped, whistled, hopped, dozed, rested, sat, fluttered, danced, hid, "
        "waited"
    ),
    "elm": _split("elm, oak, ash, birch, pine, willow, maple, beech, hedge, lime, hazel, cedar"),
    "hay": _split("smoke, wool, bread, rain, moss, wood, pine, salt, leather, straw, soap, snow"),
    "mint": _split(
        "mint, clover, honey, thyme, lavender, earth, grass, ginger, lilac, sage, heather, apples"
    ),
    "dog_barked": _split(
        "a dog barked, a cow mooed, a cock crowed, a donkey brayed, a sheep bleated, "
        "a bell rang, a door banged, a cart creaked, a goose honked, a horse neighed, "
        "a frog croaked, a baby cried"
    ),
    "far_away": _split(
        "far away, near by, somewhere, across the lane, over the hedge, in the distance"
    ),
    "fields": _split(
        "roofs, fields, lanes, hedges, trees, meadows, river, hills, gates, cottages, village, "
        "chimneys, fences, bridge, valley, church"
    ),
    "shone": _split("shone, sparkled, danced, glowed, blazed, gleamed"),
    "fell": _split("fell, pattered, poured, drummed, dripped, splashed"),
    "blew": _split("blew, whistled, raced, howled, roared, swept"),
    "settled": _split("settled, fell, lay, drifted, glittered, sparkled"),
    "lovely": _split(
        "lovely, fine, good, splendid, perfect, glorious, grand, pretty, cheerful, pleasant, "
        "happy, wonderful"
    ),
    "day": _split("day, world, place, life, time, sight"),
    "long": _split("long, hard, sad, grey, bad, tiring, dull, gloomy"),
    "stars": _split("stars, bats, owls, moths, fireflies, crickets, foxes, mice"),
    "quiet": _split(
        "quiet, sleepy, silent, dark, peaceful, little, old, dreaming, still, tired, calm, cosy"
    ),
    "soundly": _split("soundly, well, deeply, peacefully, sweetly, snugly"),
    "log": _split("log, baby, dormouse, stone, kitten, bear, top, lamb"),
    "a_joke": _split("a joke, a song, a story, a riddle, a dance, a wink, a poem, a smile"),
}
