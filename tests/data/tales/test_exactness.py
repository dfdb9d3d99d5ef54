"""Is `log_probability` really that of the text? Proved by listing every story of small worlds."""

import math
import random
from collections import defaultdict

import pytest

from llmcourse.data import tales
from llmcourse.data.tales import vocabulary as v
from llmcourse.data.tales.forecast import Forecast
from llmcourse.data.tales.simulate import simulate
from llmcourse.data.tales.state import WHERE

# Each small world exercises other rules; `kinds` keeps deep ones small enough to list.
HAMLETS = {
    "lost": tales.World.hamlet("lost", 5),
    "gift": tales.World.hamlet("gift", 5),
    "quarrel": tales.World.hamlet("quarrel", 4),
    "hungry": tales.World.hamlet("hungry", 5),
    "broken": tales.World.hamlet("broken", 4),
    "wish": tales.World.hamlet("wish", 5),
    "search": tales.World.hamlet("lost", 6, kinds=("move", "look")),
    "searching together": tales.World.hamlet(
        "lost", 6, kinds=("ask", "look", "meet"), things=v.THINGS[:3], trades=v.TRADES[:1]
    ),
    "making up": tales.World.hamlet("quarrel", 7, kinds=("ask", "give", "thank", "comfort")),
    "supper": tales.World.hamlet("hungry", 7, kinds=("meet", "have", "ask", "share")),
    "mending": tales.World.hamlet("broken", 7, kinds=("meet", "ask", "mend", "thank")),
    "giving": tales.World.hamlet("gift", 7, kinds=("move", "give", "play", "put")),
    "wishing": tales.World.hamlet("wish", 6, kinds=("meet", "have", "ask", "give")),
    "two ways to say": tales.World.hamlet(
        "broken", 4, kinds=("mend",), templates_per_key=2, words_per_class=2
    ),
    "forced to end": tales.World.hamlet("lost", 12, kinds=("move", "look"), max_bytes=230),
}
LIMIT = 70_000  # stories; a hamlet beyond it is a mistake in this file


def listed(name: str) -> dict[str, list[tuple[tuple, float]]]:
    table = defaultdict(list)
    for i, (text, hidden, p) in enumerate(tales.enumerate_stories(HAMLETS[name])):
        assert i < LIMIT
        table[text].append((hidden, p))
    return table


@pytest.mark.parametrize("name", HAMLETS)
def test_every_story_of_a_hamlet(name):
    world = HAMLETS[name]
    table = listed(name)
    total = math.fsum(p for ways in table.values() for _, p in ways)
    assert total == pytest.approx(1.0, abs=1e-9)
    rng = random.Random(name)
    texts = list(table)
    for text in rng.sample(texts, min(len(texts), 1500)):
        ways = table[text]
        # different choices make different texts: one way for each value of the hidden variables
        assert len({hidden for hidden, _ in ways}) == len(ways)
        summed = math.fsum(p for _, p in ways)
        assert math.exp(tales.log_probability(text, world)) == pytest.approx(summed, rel=1e-9)
        assert len(text) <= world.max_bytes


def test_hidden_variables_are_truly_hidden():
    """Some texts have several possible truths, and beliefs there are neither 0 nor 1."""
    ways = [len(w) for w in listed("search").values()]
    assert max(ways) == 4  # four spots, none searched
    assert min(ways) == 1  # found
    state = tales.read_state(
        "Ada sat in the barn one sunny day. She could not find her red ball. "
        "It had to be in the barn or in the kitchen. Ada looked in the hay and found the ball!"
    )
    belief = state.belief[WHERE]
    assert belief["hay"] == 1.0 and sum(belief.values()) == pytest.approx(1.0)


def test_bayesian_search():
    """After k empty spots of four, the next holds the thing with probability 1 / (4 - k)."""
    text = (
        "Ada sat in the barn one sunny day. She could not find her red ball. "
        "It had to be in the barn or in the kitchen."
    )
    state = tales.read_state(text)
    spots = iter(("hay", "ladder", "cupboard", "table"))
    beliefs = []
    for sentence in (
        " Ada looked in the hay and saw a pale nail.",
        " Ada looked behind the ladder and saw a pale nail.",
        " She went to the kitchen.",
        " She looked in the cupboard and saw a pale nail.",
    ):
        if "looked" in sentence:
            beliefs.append(state.belief[WHERE][next(spots)])
        text += sentence
        state = tales.read_state(text)
    beliefs.append(state.belief[WHERE][next(spots)])
    assert beliefs == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1.0])
    # then the last spot must hold it: looking there in vain is impossible
    vain = text + " She looked under the table and saw a pale nail."
    verdict = tales.verify(vain)
    assert verdict.grammatical and not verdict.consistent


def test_log_probability_marginalises_what_the_simulator_knew():
    """E[p(text) / p(text, truth)] over sampled truths given texts: the joint never exceeds the
    marginal, and the mean of p(truth | text) matches the posterior's own expectation."""
    posterior = []
    for seed in range(300):
        story = tales.sample_story(seed)
        assert story.joint_log_probability <= story.log_probability + 1e-9
        posterior.append(math.exp(story.joint_log_probability - story.log_probability))
        expected = math.prod(
            story.state.belief[name][value] for name, value in story.hidden.items()
        )
        assert posterior[-1] == pytest.approx(expected, rel=1e-9)
    assert 0.3 < sum(posterior) / len(posterior) < 0.9


def test_importance_identity():
    """Sum over texts of p(text) = 1, checked by Monte Carlo with a wrong simulator: drawing
    stories from one world and weighing them by another gives weights of mean 1."""
    base = tales.World.hamlet("lost", 6, kinds=("move", "look", "meet"))
    other = tales.World.hamlet("lost", 6, kinds=("move", "look", "meet"), pronoun_rate=0.75)
    weights = []
    for text in tales.sample_stories(4000, 5, base):
        ratio = tales.log_probability(text, other) - tales.log_probability(text, base)
        weights.append(math.exp(ratio))
    mean = sum(weights) / len(weights)
    error = math.sqrt(sum((w - mean) ** 2 for w in weights)) / len(weights)
    assert abs(mean - 1.0) < 4 * error
    assert error < 0.05


@pytest.mark.parametrize("seed", range(6))
def test_next_sentence_distribution_sums_to_one(seed):
    story = tales.sample_story(seed)
    for n in range(2, len(story.sentences) + 1):
        prefix = " ".join(story.sentences[:n])
        assert sum(tales.next_kinds(prefix).values()) == pytest.approx(1.0)
    small = tales.World.hamlet("lost", 6)
    rng = random.Random(seed)
    text = " ".join(s for _, s, _, _ in simulate(rng, small))
    sentences = tales.split_sentences(text)
    for n in range(len(sentences) + 1):
        prefix = " ".join(sentences[:n])
        table = tales.next_sentences(prefix, small)
        assert sum(table.values()) == pytest.approx(1.0, abs=1e-9)
        if n < len(sentences):
            score = tales.sentence_log_probabilities(text, small)[n]
            assert math.log(table[sentences[n]]) == pytest.approx(score)
        else:
            assert table == {"": 1.0}


def test_forecast_agrees_with_the_listed_distribution():
    prefix = "Ada sat in the barn one sunny day. She could not find her red ball."
    table = tales.next_sentences(prefix)
    forecast = tales.forecast(prefix)
    assert forecast.count() == len(table) == 2 * 8 * 7
    entropy = -math.fsum(p * math.log(p) for p in table.values())
    assert forecast.entropy() == pytest.approx(entropy)
    for sentence, p in table.items():
        assert forecast.log_probability(sentence) == pytest.approx(math.log(p))
    assert forecast.sample(random.Random(0)) in table
    assert forecast.log_probability("") == -math.inf
    with pytest.raises(ValueError, match="more than the limit of 50"):
        tales.next_sentences(prefix, limit=50)
    done = Forecast(tales.sample_story(1).state)
    assert done.log_probability("") == 0.0 and done.sample(random.Random(0)) == ""


def test_entropy_floor():
    texts = tales.sample_stories(300, 11)
    floor = tales.entropy_floor(texts)
    nats = -sum(tales.log_probability(t) for t in texts)
    size = sum(len(t.encode()) for t in texts)
    assert floor.nats == pytest.approx(nats) and floor.bytes == size
    assert floor.nats_per_byte == pytest.approx(nats / size) == pytest.approx(floor.expected)
    assert floor.bits_per_byte == pytest.approx(floor.nats_per_byte / math.log(2))
    fresh = tales.entropy_floor(texts[:10], fresh=1000)
    error = math.hypot(fresh.standard_error, floor.standard_error)
    assert abs(fresh.expected - floor.expected) < 4 * error
    with pytest.raises(ValueError, match="at least one story"):
        tales.entropy_floor([])
    with pytest.raises(ValueError, match="text 1 is not a story"):
        tales.entropy_floor([texts[0], texts[1] + " It had been a good day in the old village."])
