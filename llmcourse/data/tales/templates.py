"""What each kind of event sounds like: one definition of a sentence, to write it and to read it.

Taught in Part 2. A key names an event and how it came out; its signature lists its arguments
(the first is the grammatical subject) and its templates are paraphrases, chosen uniformly.

    {a} {b}      people, he or she      .him him or her   .s Mia's, his or her
                 .name always the name  .his always his or her
    {ab}         both people, "Mia and Tom" or they
    {o} {j}      a thing and its adjective   {o.the} {o.my} "the kite", "my kite" or it
                 {j.a} "a red"     {f} food     {t} trade
    {p} {q}      places   .at "by the pond"   .the "the pond"
    {s.in}       a spot, "under the boat"
    {w} {d}      weather word and time of day
    [class]      a free word, uniform over `vocabulary.WORDS[class]`

Where the story makes clear who is meant, a sentence says names or, more often, pronouns: all that
are clear, or none (see `state.py`). Every template names all its arguments, so that a sentence
says which event it is.
"""

from __future__ import annotations

# How each argument letter is typed.
LETTERS = {
    "a": "person", "b": "person", "o": "thing", "j": "adjective", "p": "place", "q": "place",
    "s": "spot", "f": "food", "t": "trade", "w": "weather", "d": "time",
}  # fmt: skip

# One block for each key: "key: signature", then a paraphrase a line.
_TEXT = """
# --- the setting and the problem
open: a p w d
  One {w} {d}, {a.name} [sat] {p.at}.
  On {w.a} {d}, {a.name} [sat] {p.at}.
  {a.name} [sat] {p.at} one {w} {d}.
plot.lost: a j o
  {a} had lost {a.his} {j} {o}.
  {a} could not find {a.his} {j} {o}.
  {a.s} {j} {o} was missing.
plot.gift: a b j o
  {a} had {j.a} {o} for {b.name}.
  {a} [gladly] packed {j.a} {o} for {b.name}.
  {a} wanted to give {b.name} {j.a} {o}.
plot.quarrel: a b j o
  {b.name} grabbed {a.s} {j} {o}, and they [quarrelled].
  {b.name} laughed at {a.s} {j} {o}, and they [quarrelled].
plot.hungry: a f
  {a} was hungry and wanted some [warm] {f}.
  {a} [sadly] dreamed of some [warm] {f}.
plot.broken: a j o
  {a} had broken {a.his} {j} {o}.
  {a.s} {j} {o} was broken.
plot.wish: a j o
  {a} wished for {j.a} {o}.
  {a} had always wanted {j.a} {o}.
clue.lost: p q
  It had to be {p.at} or {q.at}.
  Perhaps it was {p.at} or {q.at}.
clue.gift: b t p
  {b.name} the {t} was {p.at}.
  [jolly] {b.name} the {t} was {p.at}.

# --- coming, going, having
meet: b t
  {b.name} the {t} [came_by].
  [then] {b.name} the {t} [came_by].
  [jolly] {b.name} the {t} [came_by].
  Along came [jolly] {b.name} the {t}.
have.one: b
  {b} had one.
  {b} took one from {b.his} [bag].
have.thing: b j o
  {b} had {j.a} {o}.
  {b} [gladly] showed {j.a} {o}.
  {b} took {j.a} {o} from {b.his} [bag].
have.food: b f
  {b} had some [warm] {f}.
  {b} took some [warm] {f} from {b.his} [bag].
move: a p
  {a} [went] to {p.the}.
  [then] {a} [went] to {p.the}.
  {a} [gladly] [went] to {p.the}.
  {a} took the [muddy] [path] to {p.the}.
walk: a b p
  {ab} [went] to {p.the}.
  [then] {ab} [went] to {p.the}.
put: a o s
  {a} [gladly] put {o.the} {s.in}.
  [then] {a} put {o.the} {s.in}.

# --- searching
look.empty: a s
  {a} [looked] {s.in}, but found [a_small] [leaf].
  {a} [looked] {s.in} and saw [a_small] [leaf].
look.found: a s o
  {a} [looked] {s.in} and found {o.the}!
  {a} [looked] {s.in}, and there was {o.the}!

# --- asking and answering
ask.lost: a o
  "Please help me find {o.my}," {a} [sighed].
  {a} [gladly] asked for help to find {o.the}.
ask.mend: a o
  "Please mend {o.my}," {a} [sighed].
  {a} [gladly] asked for help to mend {o.the}.
ask.food: a
  "Please give me some of that," {a} [sighed].
  {a} [gladly] asked for some.
ask.thing: a o
  "I would like {o.the}," {a} [sighed].
  {a} [gladly] asked for {o.the}.
ask.sorry: a
  "I am sorry," {a} [sighed].
  {a} [gladly] said sorry.
reply.yes: b
  "[of_course]," {b} [said].
  {b} [gladly] said yes.
reply.no: b
  "[not_today]," {b} [said].
  {b} [coldly] said no.

# --- kindness
give: a b o
  {a} [gladly] gave {o.the} to {b.him}.
  With a [bright] [smile], {a} gave {o.the} to {b.him}.
share: a b f
  {a} [gladly] shared the {f} with {b.him}.
  With a [bright] [smile], {a} shared the {f} with {b.him}.
mend: a o
  {a} [gladly] mended {o.the} with [glue].
  {a} mended {o.the} with some [glue].
thank: b
  "Thank you," {b} [said].
  "Thank you," {b} [gladly] [said].
  {b} said thank you with a [bright] [smile].
comfort: b a
  {b} [gladly] hugged {a.him}.
  With a [bright] [smile], {b} hugged {a.him}.
play: a b o
  {ab} [gladly] played with {o.the}.
  [then] {ab} played with {o.the}.

# --- feelings and their causes
feel.happy: a
  {a} felt [very] [happy].
  {a} was [very] [happy].
feel.sad: a
  {a} felt [very] [sad].
  {a} was [very] [sad].
feel.cross: a
  {a} felt [very] [cross].
  {a} was [very] [cross].
why.glad: a o
  {a} was [happy] about {o.the}.
  {o.the} made {a.him} [happy].
why.blue: a o
  {a} was [sad] about {o.the}.
  {o.the} made {a.him} [sad].
why.cross: a b
  {a} was [cross] with {b.him}.
  {b} made {a.him} [cross].
why.hurt: a b
  {a} was [sad] about {b.him}.
  {b} made {a.him} [sad].
why.warm: a b
  {a} was [happy] about {b.him}.
  {b} made {a.him} [happy].
sing.happy: a
  {a} [hummed] a [merry] [tune].
  [then] {a} [hummed] a [merry] [tune].
sing.sad: a
  {a} [hummed] a [slow] [tune].
  [then] {a} [hummed] a [slow] [tune].
say.happy: a
  "What a [lovely] [day]," {a} [said].
  "What a [lovely] [day]," {a} [gladly] [said].
say.sad: a
  "What a [long] [day]," {a} [sighed].
  "Oh dear," {a} [sadly] [sighed].
say.lost: a o
  "I miss {o.my}," {a} [sighed].
  "I miss {o.my}," {a} [sadly] [sighed].

# --- the world around
watch: a
  {a} saw [a_hare] by the [fields].
  [then] {a} saw [a_hare] by the [fields].
scene.animal:
  [a_hare] [ran_past] the [fields].
  [then] [a_hare] [ran_past] the [fields].
scene.smell:
  The air smelled of [hay] and [mint].
  [then] the air smelled of [hay] and [mint].
scene.sound:
  [then] [dog_barked].
  [dog_barked] by the [fields].
scene.sunny:
  The sun [shone] on the [fields].
  [then] the sun [shone] on the [fields].
scene.rainy:
  The rain [fell] on the [fields].
  [then] the rain [fell] on the [fields].
scene.windy:
  The wind [blew] on the [fields].
  [then] the wind [blew] on the [fields].
scene.snowy:
  The snow [fell] on the [fields].
  [then] the snow [fell] on the [fields].
turn.sunny:
  [then] the sun came out.
  The sun came out over the [fields].
turn.rainy:
  [then] it began to rain.
  It began to rain over the [fields].
turn.windy:
  [then] the wind rose.
  The wind rose over the [fields].
turn.snowy:
  [then] it began to snow.
  It began to snow over the [fields].

# --- endings
end.home: a o
  {a} [gladly] took {o.the} home.
  {a} went to bed with {o.the} and slept [soundly].
end.without: a o
  {a} [sadly] went home without {o.the}.
  {a} went to bed without {o.the} and slept [badly].
end.friends: a b
  {ab} were [happy] to be friends again.
  {ab} [gladly] went home together.
end.good:
  It had been a [lovely] day in the [quiet] village.
  The [stars] came out over the [quiet] village.
end.bad:
  It had been a [long] day in the [quiet] village.
  The [stars] hid from the [quiet] village.
"""


def _read(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    sentences: dict[str, tuple[str, list[str]]] = {}
    key = ""
    for line in text.splitlines():
        if line.startswith("  "):
            sentences[key][1].append(line.strip())
        elif line and not line.startswith("#"):
            key, _, signature = line.partition(":")
            sentences[key] = (signature.replace(" ", ""), [])
    return {key: (signature, tuple(lines)) for key, (signature, lines) in sentences.items()}


SENTENCES = _read(_TEXT)
