"""Sentences and stories: bounds, words, reading back what was written."""

import itertools
import random
import re
from collections import Counter

import pytest

from llmcourse.data import tales
from llmcourse.data.tales.grammar import Event
from llmcourse.data.tales.simulate import sample_text
from llmcourse.data.tales.templates import SENTENCES
from llmcourse.data.tales.vocabulary import WORDS


def test_length_bound_and_form_on_many_seeds():
    longest = 0
    lengths = []
    for seed in range(20_000):
        text = sample_text(random.Random(seed))
        longest = max(longest, len(text))
        lengths.append(len(text))
        assert text.isascii() and "\n" not in text and "  " not in text and text == text.strip()
    assert 400 < longest <= 511
    mean = sum(lengths) / len(lengths)
    assert 280 < mean < 420
    assert sum(200 <= n <= 460 for n in lengths) / len(lengths) > 0.9


def test_the_bound_holds_by_construction():
    world = tales.VILLAGE
    grammar = world.grammar
    start = grammar.longest_start + grammar.longest_end
    assert start <= world.max_bytes
    for key, (_, texts) in SENTENCES.items():
        for template in grammar.templates[key]:
            assert template.longest <= grammar.longest[key.partition(".")[0]]
        assert texts


def test_a_tighter_bound_is_kept_too():
    world = tales.World(max_bytes=300, max_sentences=8)
    texts = tales.sample_stories(300, 3, world)
    assert 250 < max(map(len, texts)) <= 300
    assert all(tales.log_probability(t, world) > -1e9 for t in texts)


def test_enough_words_kinds_and_paraphrases():
    stories = [tales.sample_story(seed) for seed in range(400)]
    words = Counter(w.lower() for s in stories for w in re.findall(r"[A-Za-z]+", s.text))
    assert len(words) >= 500
    kinds = Counter(e.kind for s in stories for e in s.events)
    assert len(kinds) >= 20
    several = [len(texts) >= 2 for _, texts in SENTENCES.values()]
    assert all(several)
    assert all(2 <= len(s.state.people) <= 3 or len(s.state.people) == 1 for s in stories)
    assert sum(len(s.state.people) >= 2 for s in stories) / len(stories) > 0.8
    sentences = [6 <= len(s.sentences) <= 12 for s in stories]
    assert all(sentences)
    assert sum(s.state.solved for s in stories) / len(stories) > 0.55
    assert len({s.text for s in stories}) == 400


def test_stories_read_back():
    for seed in range(600):
        story = tales.sample_story(seed)
        again = tales.parse(story.text)
        assert again.events == story.events
        assert again.sentences == story.sentences
        assert tales.render(again.events) == story.text
        assert again.log_probability == pytest.approx(story.log_probability)
        assert tales.log_probability(story.text) == pytest.approx(story.log_probability)
        assert again.state.holder == story.state.holder
        assert again.state.mood == story.state.mood


def test_the_same_seed_gives_the_same_story():
    first, second = tales.sample_story(5), tales.sample_story(5)
    assert (first.text, first.events, first.hidden) == (second.text, second.events, second.hidden)
    assert tales.sample_story(6).text != first.text
    assert tales.sample_stories(3, 5) == tales.sample_stories(3, 5)
    assert tales.sample_stories(3, 5) != tales.sample_stories(3, 6)
    assert tales.sample_stories(0) == []
    with pytest.raises(ValueError, match="n is -1"):
        tales.sample_stories(-1)


def _random_event(key: str, index: int, rng: random.Random) -> Event:
    grammar = tales.VILLAGE.grammar
    pools = {
        "person": list(tales.NAMES), "thing": list(tales.OBJECTS),
        "adjective": list(tales.ADJECTIVES), "place": list(tales.PLACE_NAMES),
        "spot": list(tales.SPOTS), "food": [f.noun for f in tales.FOODS],
        "trade": list(tales.TRADES), "weather": list(tales.VILLAGE.weathers),
        "time": list(tales.VILLAGE.times),
    }  # fmt: skip
    args: list[str] = []
    for type_ in grammar.types[key]:
        args.append(rng.choice([x for x in pools[type_] if x not in args]))
    template = grammar.templates[key][index]
    words = tuple(rng.choice(grammar.words[c]) for c in template.classes)
    pronouns = tuple(at for at in template.open if rng.random() < 0.5)
    if template.pair and len(set(pronouns) & {0, 1}) == 1:
        pronouns = tuple(at for at in pronouns if at > 1)
    return Event(key, tuple(args), index, words, pronouns)


def test_every_sentence_has_exactly_one_reading():
    """Every template, filled at random, is read back as itself and as nothing else."""
    rng = random.Random(0)
    grammar = tales.VILLAGE.grammar
    for key, templates in grammar.templates.items():
        for index, _ in itertools.product(range(len(templates)), range(25)):
            event = _random_event(key, index, rng)
            sentence = grammar.render(event)
            readings = tales.VILLAGE.reader.read(sentence)
            assert len(readings) == 1, (sentence, [r[0].key for r in readings])
            template, args, words, pronouns = readings[0]
            assert (template.key, template.index, words) == (key, index, event.words)
            assert tuple(at for at, _ in pronouns) == event.pronouns
            hidden = (None if i in event.pronouns else x for i, x in enumerate(event.args))
            assert args == tuple(hidden)
            assert tales.split_sentences(f"{sentence} {sentence}") == [sentence, sentence]
            assert len(sentence) <= grammar.templates[key][index].longest


def test_no_paraphrase_and_no_word_twice():
    lines = [line for _, lines in SENTENCES.values() for line in lines]
    assert len(lines) == len(set(lines))
    for words in WORDS.values():
        assert len(words) == len(set(words)) >= 4
    nouns = [*tales.OBJECTS, *tales.SPOTS, *tales.PLACE_NAMES, *(f.noun for f in tales.FOODS)]
    assert len(nouns) == len(set(nouns))


def test_articles_and_pronouns():
    text = " ".join(tales.sample_stories(500, 2))
    assert not re.search(r"\b[Aa] [aeiou]", text)
    assert not re.search(r"\b[Aa]n [^aeiou]", text)
    women = {p.name for p in tales.PEOPLE if p.female}
    said = 0
    for seed in range(200):
        story = tales.sample_story(seed)
        for sentence, event in zip(story.sentences, story.events, strict=True):
            named = [a for i, a in enumerate(event.args) if i not in event.pronouns]
            for at in event.pronouns:
                said += 1
                word = event.args[at]
                assert word not in named and not re.search(rf"\b{word}\b", sentence)
                if word in tales.OBJECTS:
                    assert re.search(r"\b[Ii]t\b", sentence)
                elif not re.search(r"\b[Tt]hey\b", sentence):
                    fitting = "she|her" if word in women else "he|him|his"
                    assert re.search(rf"\b({fitting})\b", sentence, re.IGNORECASE)
    assert said > 500


def test_only_what_is_clear_is_a_pronoun():
    story = "Ada sat in the barn one sunny day. Tom grabbed her red kite, and they fought."
    for sentence, good in {
        " She gladly gave it to him.": True,
        " Ada gladly gave the kite to Tom.": True,
        " She gladly gave the kite to Tom.": False,  # all that is clear, or none
        " Ada gladly gave it to him.": False,
        " They gladly gave it to him.": False,
        " He was cross with her.": True,
    }.items():
        assert tales.verify(story + sentence).consistent is good
    third = story + " Ben the baker ran up."
    assert tales.read_state(third).refers[False] == "Ben"
    # Tom must be named now, and two men in one sentence are both named
    assert tales.verify(third + " Tom was cross with her.").consistent
    assert not tales.verify(third + " He was cross with her.").consistent


def test_difficulties():
    n = {}
    for level in ("easy", "village", "hard"):
        world = tales.World.of_difficulty(level)
        texts = tales.sample_stories(200, 1, world)
        assert all(tales.verify(t, world).complete for t in texts[:20])
        n[level] = sum(len(tales.split_sentences(t)) for t in texts) / len(texts)
        assert max(map(len, texts)) <= 511
    assert n["easy"] + 1 < n["village"] < n["hard"] - 1
    assert tales.World.of_difficulty("village").max_sentences == tales.VILLAGE.max_sentences
    with pytest.raises(ValueError, match="one of easy, village, hard"):
        tales.World.of_difficulty("fiendish")


def test_held_out_world():
    world = tales.VILLAGE.without(names=["Mia", "Tom"], things=["kite"])
    text = " ".join(tales.sample_stories(300, 4, world))
    assert not re.search(r"\b(Mia|Tom|kite)\b", text)
    assert world.fingerprint() != tales.fingerprint()
    assert tales.VILLAGE.without().fingerprint() == tales.fingerprint()
    with pytest.raises(ValueError, match="Gandalf"):
        tales.VILLAGE.without(names=["Gandalf"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"people": ()}, "World.people has 0 entries"),
        ({"plots": ("war",)}, "known plots"),
        ({"pronoun_rate": 1.0}, "must lie in"),
        ({"min_sentences": 9, "max_sentences": 8}, "need 4 <= min <= max"),
        ({"max_bytes": 100}, "World.max_bytes is 100"),
    ],
)
def test_impossible_worlds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tales.World(**changes)
