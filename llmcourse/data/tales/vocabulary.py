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


_GIRLS = (
    "Ada Amy Ann Beth Clara Cora Dora Ella Elsie Emma Eva Faye Greta Ida Ivy Jane Kate Lena Lily "
    "Lucy Mary Mia Molly Nell Nina Nora Polly Rosa Ruth Tess Vera Zoe"
)
_BOYS = (
    "Adam Alec Ben Bert Bob Carl Dan Emil Eric Finn Fred Hal Henry Hugh Ivan Jack Jim Joe Leo Luke "
    "Max Ned Noah Otto Owen Paul Pete Sam Seth Tim Toby Tom"
)
PEOPLE = tuple(
    [Person(n, True) for n in _GIRLS.split()] + [Person(n, False) for n in _BOYS.split()]
)

_TOYS = "ball doll drum fiddle flute globe harp horn kite puppet sled top wagon whistle"
_FRAGILE = (
    "bowl clock comb cup doll drum fan fiddle flute globe harp jug kite lamp lantern mask mirror "
    "mug plate sled teapot vase wagon"
)
_THINGS = (
    "badge ball banner bell blanket book bowl bracelet brush button candle cap cloak clock coin "
    "comb compass crown cup cushion doll drum fan fiddle flute globe glove harp hat horn jug kite "
    "ladle lamp lantern letter locket map mask mirror mug necklace pencil pipe plate puppet purse "
    "quill ribbon ring scarf shawl shell sled spade spoon teapot thimble top umbrella vase wagon "
    "wand whistle"
)
THINGS = tuple(Thing(n, n in _TOYS.split(), n in _FRAGILE.split()) for n in _THINGS.split())

ADJECTIVES = tuple(
    "red blue green yellow white black brown golden silver pink purple grey orange violet cream "
    "copper shiny tiny little small huge old new pretty plain neat smart dainty striped spotted "
    "bright pale faded lucky fancy odd curious quaint rare fine simple shabby sturdy splendid".split()
)


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
    _place("orchard", "in", "in basket", "behind wall"),
    _place("forest", "in", "in ferns", "behind stump"),
    _place("harbour", "at", "in chest", "under nets"),
    _place("hill", "on", "in heather", "behind rocks"),
    _place("inn", "at", "in trunk", "under stairs"),
)

FOODS = tuple(
    Food(noun, trade)
    for trade, nouns in {
        "baker": "bread buns",
        "cook": "soup pie",
        "farmer": "cheese eggs",
        "gardener": "carrots berries",
        "miller": "porridge pancakes",
        "shepherd": "nuts plums",
        "teacher": "apples biscuits",
        "sailor": "figs fish",
        "weaver": "pears grapes",
        "potter": "honey cherries",
        "smith": "stew dumplings",
        "fiddler": "cake tarts",
    }.items()
    for noun in nouns.split()
)
TRADES = (
    *dict.fromkeys(food.trade for food in FOODS),
    *"tailor cobbler doctor piper mason tinker painter nurse carter singer poet hunter".split(),
)

# The adjective of the opening sentence decides the weather.
WEATHERS = {
    word: weather
    for weather, words in {
        "sunny": "sunny bright warm clear hot golden mild",
        "rainy": "rainy wet grey drizzly dark",
        "windy": "windy breezy stormy wild",
        "snowy": "snowy frosty icy cold",
        "misty": "misty foggy hazy damp",
    }.items()
    for word in words.split()
}
TIMES = tuple(
    "morning day afternoon evening Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
)

MOODS = {
    "happy": (
        "happy glad cheerful merry joyful delighted pleased lucky proud jolly blissful gleeful "
        "thankful radiant"
    ),
    "sad": "sad gloomy unhappy glum miserable tearful sorrowful wretched lonely forlorn dismal upset",
    "cross": "cross angry grumpy annoyed furious bitter sulky cold fierce irritable",
    "calm": "calm better peaceful safe content hopeful brave warm restful strong",
    "hungry": "hungry empty faint peckish hollow starved",
}


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


# Word classes that sentences draw from uniformly and that do not change the state.
# In a template, [class] is one such choice.
WORDS: dict[str, tuple[str, ...]] = {
    **{mood: tuple(words.split()) for mood, words in MOODS.items()},
    "sat": _split(
        "sat, sang, rested, worked, waited, stood, read, dozed, played, lingered, sketched, "
        "whistled, swept, dreamed, hummed, idled, wandered about, lay about, sewed, wrote, "
        "danced, snoozed, fished, painted"
    ),
    "made": _split(
        "made, bought, wrapped, saved, chosen, found, brought, packed, carved, polished, "
        "ordered, kept"
    ),
    "busy": _split(
        "busy, resting, working, waiting, singing, reading, sleeping, sweeping, digging, "
        "painting, sewing, cooking, napping, baking, dancing, writing, mopping, fishing, "
        "humming, dozing"
    ),
    "quarrelled": _split(
        "quarrelled, argued, squabbled, shouted, fought, bickered, wrangled, sulked"
    ),
    "very": _split("very, rather, quite, truly, so, really, terribly, deeply"),
    "warm": _split(
        "warm, fresh, sweet, tasty, lovely, good, plain, cold, fine, delicious, simple, "
        "excellent, wonderful, homely, leftover, splendid"
    ),
    "came_by": _split(
        "came by, stopped by, turned up, strolled up, ran up, hurried up, walked up, skipped up, "
        "trotted up, rode up, dropped in, looked in"
    ),
    "then": _split(
        "then, soon, next, after a while, at once, a little later, presently, by and by, "
        "before long, after that"
    ),
    "held": _split("had, held, carried, brought, owned, found"),
    "brought": _split("had, brought, carried, offered"),
    "bag": _split("bag, coat, pocket, apron, satchel, sleeve, bundle, knapsack, cloth, pouch"),
    "went": _split(
        "went, walked, ran, hurried, skipped, strolled, wandered, marched, trotted, rushed, "
        "crept, danced, hopped, tramped, dashed, raced, ambled, plodded, jogged, slipped, "
        "sped, rode, hiked, tiptoed"
    ),
    "muddy": _split(
        "muddy, long, short, winding, quiet, stony, narrow, shady, steep, dusty, grassy, "
        "sandy, leafy, crooked, sunken, empty, green, bumpy"
    ),
    "path": _split("path, road, lane, track, trail, way"),
    "old": _split(
        "old, dusty, dark, big, little, dirty, grey, tidy, mossy, damp, broken, quiet, long, "
        "brown, low, cold"
    ),
    "looked": _split("looked, searched, peeked, peered, checked, felt, rummaged, hunted"),
    "a_small": _split(
        "a small, a big, a brown, a grey, a dusty, a dirty, a wet, a cold, an odd, a funny, "
        "a black, a white, a lonely, an ugly, a tiny, a pale, a fat, a thin, a dull, a soggy"
    ),
    "leaf": _split(
        "leaf, acorn, beetle, bone, bottle, brick, cobweb, cork, crumb, egg, feather, frog, hook, "
        "horseshoe, moth, mouse, nail, nut, pebble, pin, rag, seed, snail, sock, spider, stick, "
        "toad, twig, worm, slipper, candlestick, bean, cricket, newt, root, slug, turnip, tile"
    ),
    "cheered": _split("cheered, laughed, danced, shouted, clapped, smiled, sang, jumped"),
    "of_course": _split(
        "Of course, Gladly, Yes, With pleasure, Certainly, Surely, Why not, By all means, "
        "All right, Very well, Yes indeed, Naturally"
    ),
    "said": _split("said, answered, replied, called, murmured, whispered, mumbled, cried"),
    "kindly": _split(
        "kindly, warmly, gently, brightly, cheerfully, softly, sweetly, merrily, heartily, "
        "politely, fondly, happily"
    ),
    "not_today": _split(
        "No, Not today, Never, Leave me alone, Not now, Certainly not, Ask me later, Go home, "
        "Never mind, I am busy, Not likely, Out of the question"
    ),
    "coldly": _split(
        "coldly, shortly, rudely, gruffly, sharply, stiffly, crossly, proudly, harshly, drily"
    ),
    "nodded": _split("nodded, smiled, agreed, winked, laughed, bowed"),
    "gave": _split("gave, handed, passed, brought"),
    "gladly": _split(
        "gladly, shyly, proudly, quietly, happily, carefully, quickly, politely, bravely, "
        "eagerly, slowly, sweetly, calmly, softly, boldly, neatly, nimbly, merrily, briskly, "
        "gently, promptly, timidly, cheerfully, earnestly"
    ),
    "bright": _split(
        "bright, warm, shy, broad, small, quick, merry, happy, gentle, silly, big, kind, "
        "sunny, funny, soft, proud"
    ),
    "smile": _split("smile, bow, wink, laugh, nod, grin, giggle, hop"),
    "kind": _split(
        "kind, good, sweet, thoughtful, generous, clever, noble, helpful, nice, brave"
    ),
    "glue": _split(
        "glue, string, wire, wax, thread, nails, tar, paint, tape, twine, pegs, clay, rope, "
        "putty, pins, straw"
    ),
    "put": _split("put, left, hid, laid, tucked, stored"),
    "a_joke": _split(
        "a joke, a song, a story, a riddle, a dance, a wink, a poem, a silly face, a jig, "
        "a rhyme, a puppet show, a cup of tea, a daisy, a handstand, a pat, a kiss"
    ),
    "hummed": _split("hummed, sang, whistled, played"),
    "merry": _split(
        "merry, sweet, gentle, silly, happy, lively, jolly, funny, pretty, sunny, short, "
        "quick, bright, brave, lovely, new, simple, cheery, catchy, dainty"
    ),
    "sorrowful": _split(
        "slow, sad, low, soft, quiet, lonely, tearful, long, mournful, old, gloomy, bitter, "
        "dreary, plain, broken, tender"
    ),
    "tune": _split(
        "tune, song, ballad, lullaby, hymn, jig, march, rhyme, carol, waltz, reel, verse, air, "
        "shanty, chorus, polka"
    ),
    "watched": _split("watched, saw, noticed, spotted, heard"),
    "a_hare": _split(
        "a hare, a fox, a cat, a dog, a goat, a deer, a mole, a hen, a duck, a pony, an otter, "
        "a squirrel, a hedgehog, a lamb, a rabbit, a badger, a pig, a calf, a weasel, "
        "a kitten, a puppy, a toad, a donkey, a goose"
    ),
    "pass_by": _split(
        "pass, circle, run past, creep past, trot past, hop past, slip past, rest by, stop by, "
        "wait by, doze by, dig by, play by, jump over, sniff at, limp past"
    ),
    "lane": _split(
        "lane, ditch, field, stream, gate, fence, meadow, bush, well, cart, hut, haystack, "
        "pump, steps, signpost, log, tower, chapel, puddle, pigsty, trough, stable, kennel, "
        "milestone"
    ),
    "a_robin": _split(
        "a robin, a thrush, a wren, a lark, a finch, a crow, an owl, a dove, a cuckoo, "
        "a magpie, a sparrow, a blackbird, a starling, a swallow, a jay, a jackdaw, a rook, "
        "a linnet, a pigeon, a raven, a bat, a moth, a bee, a woodpecker"
    ),
    "sang": _split(
        "sang, called, chirped, whistled, hopped, dozed, rested, sat, fluttered, danced, hid, "
        "nested, waited, trilled, hummed, stirred"
    ),
    "elm": _split(
        "elm, oak, ash, birch, pine, willow, maple, beech, hedge, lime, hazel, cedar, alder, "
        "yew, holly, thorn, poplar, plum tree, pear tree, fir"
    ),
    "hay": _split(
        "smoke, wool, bread, rain, moss, wood, pine, salt, leather, straw, soap, ink, coal, "
        "snow, tea, cocoa, fish, tar, wax, dust"
    ),
    "mint": _split(
        "mint, clover, honey, thyme, lavender, earth, grass, ginger, lilac, sage, heather, "
        "plums, apples, lemon, cinnamon, parsley, violets, nettles, cloves, onions"
    ),
    "dog_barked": _split(
        "a dog barked, a cow mooed, a cock crowed, a donkey brayed, a sheep bleated, "
        "a bell rang, a door banged, a cart creaked, a goose honked, a horse neighed, "
        "an axe rang, a child sang, a frog croaked, a saw rasped, a fiddle played, "
        "a baby cried, a cat mewed, a drum rolled, a hen clucked, a pig grunted, "
        "a gate squeaked, a fox yelped, a wheel rattled, a kettle hissed"
    ),
    "far_away": _split(
        "far away, near by, somewhere, across the lane, over the hedge, high up, "
        "in the distance, close by, outside, to the east"
    ),
    "fields": _split(
        "roofs, fields, lanes, hedges, trees, meadows, river, hills, gates, cottages, village, "
        "chimneys, fences, bridge, valley, church, woods, haystacks, street, paths, ditches, "
        "green, rooftops, lawns"
    ),
    "shone": _split("shone, sparkled, danced, glowed, blazed, smiled, gleamed, twinkled"),
    "fell": _split("fell, pattered, poured, drummed, dripped, splashed, streamed, pelted"),
    "blew": _split("blew, whistled, raced, howled, danced, roared, sighed, swept"),
    "settled": _split("settled, fell, lay, drifted, glittered, shone, froze, sparkled"),
    "hung": _split("hung, drifted, crept, floated, rolled, curled, lay, spread"),
    "lovely": _split(
        "lovely, fine, good, splendid, perfect, glorious, grand, pretty, cheerful, beautiful, "
        "happy, pleasant, fair, joyful, wonderful, sweet"
    ),
    "day": _split("day, world, place, life, time, sight"),
    "long": _split(
        "long, hard, sad, grey, bad, tiring, dull, sorry, gloomy, dreary, weary, bleak"
    ),
    "cried": _split("cried, said, laughed, sang, called, shouted, cheered, chuckled"),
    "sighed": _split(
        "sighed, said, sobbed, whispered, groaned, wailed, muttered, moaned, sniffed, cried"
    ),
    "stars": _split("stars, bats, owls, moths, fireflies, crickets, foxes, mice"),
    "quiet": _split(
        "quiet, sleepy, silent, dark, peaceful, little, old, dreaming, still, tired, calm, "
        "cosy"
    ),
    "soundly": _split("soundly, well, deeply, peacefully, sweetly, snugly"),
    "log": _split("log, baby, dormouse, stone, kitten, bear, top, cat, king, lamb"),
    "elbow": _split("hand, pillow, bed, side, head, feet, chair, door"),
    "sadly": _split("sadly, slowly, quietly, silently, wearily, glumly, grimly, tearfully"),
    "so": _split("so, very, truly, really"),
    "jolly": _split(
        "old, young, jolly, tall, thin, cheerful, busy, clever, gentle, shy, noisy, quiet, "
        "brave, sleepy, merry, famous, little, dear, good, tired, lively, funny, proud, "
        "careful"
    ),
    "politely": _split(
        "politely, shyly, softly, quietly, bravely, timidly, sweetly, gently, earnestly, calmly, "
        "slowly, humbly, simply, quickly, bashfully, boldly"
    ),
    "fondly": _split(
        "fondly, proudly, gladly, happily, carefully, gratefully, tenderly, warmly, joyfully, "
        "gently, merrily, thankfully"
    ),
}
