"""What each kind of event sounds like: one definition of every sentence, to write it and to read it.

Taught in Part 2. A key names an event and how it came out; its signature lists its arguments
(the first is the grammatical subject) and its templates are paraphrases, chosen uniformly.

    {a} {b}    people      .s Mia's   .his his/her   .name never a pronoun
    {ab}       both people, "Mia and Tom" or "they"
    {o} {j}    a thing and its adjective   {j.a} "a red"      {f} food     {t} trade
    {p} {q}    places      .at "by the pond"   .the "the pond"
    {s}        a spot      .in "under the boat"   .pre "under"
    {w} {d}    weather word and time of day
    [class]    a free word, uniform over `vocabulary.WORDS[class]`

{a} (the subject) may be said as he or she, and {ab} as they, when the sentence before makes
that clear. Every template names all its arguments, so that a sentence says which event it is.
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
  Once, on {w.a} {d}, {a.name} [sat] {p.at}.
plot.lost: a j o
  {a} could not find {a.his} {j} {o}.
  {a} had lost {a.his} {j} {o}.
  {a.s} {j} {o} was missing.
  {a.s} {j} {o} was gone.
  {a} [sighed], for {a.his} {j} {o} was lost.
plot.gift: a b j o
  {a} had [made] {j.a} {o} for {b}.
  {a} wanted to give {b} {j.a} {o}.
  {a} had {j.a} {o} for {b}.
  It was {b.s} birthday, and {a.name} had {j.a} {o}.
plot.quarrel: a b j o
  {b} wanted {a.s} {j} {o}, and they [quarrelled].
  {b} grabbed {a.s} {j} {o}, and they [quarrelled].
  {b} laughed at {a.s} {j} {o}, and they [quarrelled].
  {b} hid {a.s} {j} {o}, and they [quarrelled].
plot.hungry: a f
  {a} was [hungry] and dreamed of [warm] {f}.
  {a} was [hungry] and wanted some [warm] {f}.
  {a} wished for some [warm] {f}.
  {a} longed for [warm] {f}.
plot.broken: a j o
  {a} had broken {a.his} {j} {o}.
  {a} [sighed], for {a.his} {j} {o} was broken.
  {a.s} {j} {o} was broken.
  {a} had dropped and broken {a.his} {j} {o}.
plot.wish: a j o
  {a} wished for {j.a} {o}.
  {a} had always wanted {j.a} {o}.
  More than anything, {a} wanted {j.a} {o}.
  {a} dreamed of having {j.a} {o}.
clue.lost: p q
  It had to be {p.at} or {q.at}.
  Perhaps it was {p.at} or {q.at}.
  It might be {p.at} or {q.at}.
  Was it {p.at} or {q.at}?
clue.gift: b t p
  {b.name} the {t} was [busy] {p.at}.
  [jolly] {b.name} the {t} was [busy] {p.at}.
  [jolly] {b.name} was the {t} {p.at}.

# --- coming, going, having
meet: b t
  {b.name} the {t} [came_by].
  [jolly] {b.name} the {t} [came_by].
  [then] {b.name} the {t} [came_by].
  Along came [jolly] {b.name} the {t}.
have.thing: b j o
  {b} [held] {j.a} {o}.
  {b} took {j.a} {o} from {b.his} [bag].
  {b} [gladly] showed {j.a} {o}.
  There was {j.a} {o} in {b.s} [bag].
have.food: b f
  {b} [brought] some [warm] {f}.
  {b} took some [warm] {f} from {b.his} [bag].
  There was some [warm] {f} in {b.s} [bag].
move: a p
  {a} [went] to {p.the}.
  [then] {a} [went] to {p.the}.
  {a} [gladly] [went] to {p.the}.
  {a} took the [muddy] [path] to {p.the}.
  {a} [went] down the [muddy] [path] to {p.the}.
walk: a b p
  {ab} [went] to {p.the}.
  [then] {ab} [went] to {p.the}.
  {ab} took the [muddy] [path] to {p.the}.
put: a o s
  {a} [put] the {o} {s.in}.
  [then] {a} [put] the {o} {s.in}.
  {a} [gladly] [put] the {o} {s.in}.
take: a o s
  {a} took the {o} from its place {s.in}.
  {a} came back for the {o} {s.in}.

# --- searching
look.empty: a s
  {a} [looked] {s.in}, but found [a_small] [leaf].
  {a} [looked] {s.in} and saw only [a_small] [leaf].
  {a} [looked] {s.in}: only [a_small] [leaf]!
  {a} [looked] {s.pre} the [old] {s} in vain.
look.found: a s o
  {a} [looked] {s.in}, and there was the {o}!
  {a} [looked] {s.in} and found the {o}!
  {a} [looked] {s.in}, saw the {o} and [cheered]!
  {a} found the {o} {s.pre} the [old] {s} and [cheered]!

# --- asking and answering
ask.lost: a b o
  "{b}, have you seen my {o}?" [sighed] {a.name}.
  {a} [politely] asked {b} to help find the {o}.
  "Please help me find my {o}, {b}," [sighed] {a.name}.
ask.mend: a b o
  "Can you mend my {o}, {b}?" [sighed] {a.name}.
  {a} [politely] asked {b} to mend the {o}.
  {a} [politely] showed {b} the broken {o}.
ask.food: a b f
  "May I have some {f}, {b}?" asked {a.name} [politely].
  {a} [politely] asked {b} for some {f}.
ask.thing: a b o
  "May I have your {o}, {b}?" asked {a.name} [politely].
  {a} [politely] asked {b} for the {o}.
ask.sorry: a b
  "I am sorry, {b}," [sighed] {a.name}.
  {a} [politely] said sorry to {b}.
  {a} [politely] held out a hand to {b}.
reply.yes: b
  "[of_course]," [said] {b.name} [kindly].
  "[of_course]," [said] {b.name}.
  {b.name} [nodded] [kindly].
reply.no: b
  "[not_today]," [said] {b.name} [coldly].
  "[not_today]," [said] {b.name}.
  {b.name} shook {b.his} head [coldly].
reply.forgive: b a
  "Let us be friends, {a}," [said] {b.name} [kindly].
  {b.name} [politely] forgave {a}.
  {b.name} hugged {a} with a [bright] [smile].
reply.sulk: b a
  "[not_today], {a}," [said] {b.name} [coldly].
  {b.name} turned [coldly] away from {a}.

# --- kindness and its opposite
give: a b o
  {a} [gave] the {o} to {b}.
  {a} [gladly] [gave] the {o} to {b}.
  With a [bright] [smile], {a} [gave] the {o} to {b}.
  {a} [gave] the {o} to {b} with a [bright] [smile].
share: a b f
  {a} [gladly] shared the {f} with {b}.
  {a} [gladly] gave {b} half of the {f}.
  {a} shared the {f} with {b} under the [elm].
eat: a f
  {a} [gladly] ate the {f}.
  {a} ate the {f} under the [elm].
mend: a o
  {a} [gladly] mended the {o} with [glue].
  {a} [gladly] fixed the {o} with [glue].
  With some [glue], {a} [gladly] mended the {o}.
thank: b a
  "Thank you, {a}," [said] {b.name} [kindly].
  "You are [so] [kind], {a}!" [cried] {b.name}.
  {b} [kindly] thanked {a}.
  {b} thanked {a} with a [bright] [smile].
  {b} thanked {a} with [a_joke].
comfort: b a
  "Cheer up, {a}," [said] {b.name} [kindly].
  {b} [fondly] put an arm around {a}.
  {b} cheered {a} up with [a_joke].
play: a b o
  {ab} [gladly] played with the {o}.
  {ab} took turns with the {o} under the [elm].
  [then] {ab} played with the {o}.
break: a o
  {a} dropped the {o}, and it broke.
  With a crack, the {o} broke in {a.s} hands.

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
feel.calm: a
  {a} felt [calm] again.
  {a} was [very] [calm] now.
feel.hungry: a
  {a} felt [very] [hungry].
  {a} was [very] [hungry].
why.lost: a o
  {a} was [very] [sad] without the {o}.
  {a} felt [sad], for the {o} was gone.
why.found: a o
  {a} was [very] [happy] to have the {o} back.
  {a} felt [happy], for the {o} was found.
why.gift: a o b
  {a} was [very] [happy] about the {o} from {b}.
  {a} felt [happy], for the {o} came from {b}.
why.refused: a b
  {a} was [very] [sad], for {b} had said no.
  {a} felt [sad] because of {b}.
why.quarrel: a b
  {a} was [very] [cross] with {b}.
  {a} felt [cross] because of {b}.
why.broken: a o
  {a} was [very] [sad] about the broken {o}.
  {a} felt [sad], for the {o} was broken.
why.mended: a o
  {a} was [very] [happy], for the {o} was whole again.
  {a} felt [happy] about the mended {o}.
why.comforted: a b
  {a} felt [very] [calm], thanks to {b}.
  {b} made {a.name} feel [calm] again.
why.fed: a f
  {a} was [very] [happy] and full of {f}.
  {a} felt [happy] after the {f}.
why.played: a o
  {a} was [very] [happy], for the {o} was great fun.
  Playing with the {o} made {a.name} [happy].
why.friends: a b
  {a} was [very] [happy] to be friends with {b}.
  {a} felt [happy] beside {b}.
sing.happy: a
  {a} [hummed] a [merry] [tune].
  [then] {a} [hummed] a [merry] [tune].
  {a} [gladly] [hummed] a [merry] [tune].
sing.sad: a
  {a} [hummed] a [sorrowful] [tune].
  [then] {a} [hummed] a [sorrowful] [tune].
  {a} [sadly] [hummed] a [sorrowful] [tune].
say.happy: a
  "What a [lovely] [day]!" [cried] {a.name}.
  "How [lovely]!" [cried] {a.name} [kindly].
say.sad: a
  "What a [long] [day]," [sighed] {a.name}.
  "Oh dear," [sighed] {a.name} [sadly].
say.lost: a o
  "Where is my {o}?" [sighed] {a.name}.
  "I miss my {o}," [sighed] {a.name}.
  "My poor {o}!" [sighed] {a.name}.

# --- the world around
watch: a
  {a} [watched] [a_hare] [pass_by] the [lane].
  {a} stopped to see [a_hare] [pass_by] the [lane].
scene.bird:
  [a_robin] [sang] in the [elm].
  [far_away], [a_robin] [sang] in the [elm].
scene.smell:
  The air smelled of [hay] and [mint].
  [far_away], it smelled of [hay] and [mint].
scene.sound:
  [far_away], [dog_barked].
  [then] [dog_barked].
scene.sunny:
  The sun [shone] on the [fields].
  A warm sun [shone] over the [fields].
scene.rainy:
  The rain [fell] on the [fields].
  Cold rain [fell] over the [fields].
scene.windy:
  The wind [blew] over the [fields].
  A cold wind [blew] past the [fields].
scene.snowy:
  The snow [settled] on the [fields].
  Soft snow [settled] over the [fields].
scene.misty:
  The mist [hung] over the [fields].
  White mist [hung] around the [fields].
turn.sunny:
  The sun came out over the [fields].
  [then] the sun came out.
turn.rainy:
  It began to rain on the [fields].
  [then] it began to rain.
turn.windy:
  A wind rose over the [fields].
  [then] a wind rose.
turn.snowy:
  It began to snow on the [fields].
  [then] it began to snow.
turn.misty:
  A mist rose over the [fields].
  [then] a mist rose.

# --- endings
end.lost: a o
  {a} [sadly] [went] home without the {o}.
  {a} [sadly] gave up the {o} and [went] home.
  That night, {a} [sadly] dreamed of the {o}.
end.found: a o
  {a} was [very] [happy] to have the {o} home.
  That night, the {o} lay by {a.s} [elbow].
  {a} [fondly] took the {o} home.
end.given: b o
  {b} [fondly] kept the {o} for ever.
  {b} [fondly] hugged the {o} all night.
  That night, the {o} lay near {b.s} [elbow].
end.kept: a o
  {a} [sadly] took the {o} home again.
  {a} [sadly] saved the {o} for another day.
end.friends: a b
  {ab} were [happy] to be friends again.
  {ab} [gladly] [went] home together.
  {ab} [went] home hand in hand.
end.apart: a b
  {ab} [sadly] [went] home alone.
  {ab} went to bed [very] [cross].
end.full: a
  {a} went to bed full and [happy].
  {a} slept like a [log] that night.
end.hungry: a
  {a} went to bed [hungry].
  {a} [sadly] [went] home to an empty plate.
end.mended: a o
  {a} [fondly] took the mended {o} home.
  The {o} was as good as new, and {a.name} was [happy].
end.broken: a o
  {a} [sadly] put the broken {o} away.
  {a} [sadly] [went] home with a broken {o}.
end.granted: a o
  {a} had the {o} at last and was [happy].
  {a} fell asleep with the {o} by {a.his} [elbow].
end.dream: a o
  {a} went to bed and [sadly] dreamed of the {o}.
  {a} [sadly] [went] home to dream of the {o}.
end.good:
  It had been a [lovely] day in the [quiet] village.
  That night, the [quiet] village slept [soundly].
  The [stars] came out over the [quiet] village.
end.bad:
  It had been a [long] day in the [quiet] village.
  The [stars] came out, but it was a [long] night.
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
