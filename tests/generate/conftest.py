"""A second opinion on caches: every token is remembered in plain lists beside the cache."""

from __future__ import annotations

import random
import types

import pytest
import torch

from llmcourse.errors import CacheError


def tiny_config(n_layers=2, context=24, window=None, sinks=0, global_every=None, **changes):
    """The few fields of a ModelConfig that a cache reads."""

    def layer_window(layer):
        full = global_every is not None and (layer + 1) % global_every == 0
        return None if full else window

    fields = {
        "n_layers": n_layers,
        "context_length": context,
        "window": window,
        "sinks": sinks,
        "layer_window": layer_window,
        "cache_widths": ((2, 3), (2, 5)),
        "endless": window is not None and global_every is None,
    }
    return types.SimpleNamespace(**fields | changes)


class Replay:
    """Feeds a cache tokens whose keys are all different and checks what each query is shown.

    A text is a list of tokens, a token a list of (key (G, Dk), value (G, Dv)) by layer. What a
    query should see follows from the list alone: token j of its own row, j <= p, among the last
    `window` or the first `sinks`.
    """

    def __init__(self, cache, seed=0):
        self.cache, self.config = cache, cache.config
        self.generator = torch.Generator().manual_seed(seed)
        self.texts = [[] for _ in range(cache.batch_size)]

    def random(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def feed(self, t, padding=None, commit=True):
        """One step; raises what the cache raises, and nothing is remembered then."""
        cache, config, b = self.cache, self.config, len(self.texts)
        real = [[True] * t for _ in range(b)] if padding is None else padding.tolist()
        positions = cache.begin(b, t, padding)
        assert positions.expand(b, t).tolist() == self.positions(real), "positions of the queries"
        texts = [list(text) for text in self.texts]
        new = [[[] for _ in range(t)] for _ in range(b)]  # tokens of this step, layer by layer
        (g, d), (g_v, d_v) = config.cache_widths
        for row, token_row in enumerate(new):
            texts[row] += [token for token, is_real in zip(token_row, real[row]) if is_real]
        for layer in range(config.n_layers):
            k, v = self.random(b, g, t, d), self.random(b, g_v, t, d_v)
            for row in range(b):
                for column in range(t):
                    new[row][column].append((k[row, :, column], v[row, :, column]))
            keys, values = cache.update(layer, k, v)
            window = config.layer_window(layer)
            seen = cache.visibility(window, config.sinks if window is not None else 0)
            assert (seen.t, seen.s) == (t, keys.shape[2]) and values.shape[2] == seen.s
            table = seen.table()
            if table is None:
                table = torch.ones(t, seen.s, dtype=torch.bool)
            table = table.expand(b, 1, t, seen.s)
            for row in range(b):
                for column, p in enumerate(self.positions(real)[row]):
                    chosen = table[row, 0, column]  # (S,)
                    shown = keys[row][:, chosen], values[row][:, chosen]  # (G, N, D) each
                    self.compare(shown, self.visible(texts[row], p, window, layer))
        if commit:
            cache.commit()
            self.texts = texts
            assert cache.lengths.tolist() == [len(text) for text in texts]
            assert cache.longest == max(map(len, texts))

    def positions(self, real):
        """Real tokens before each, padding -1, counted one by one."""
        counted = []
        for text, row in zip(self.texts, real):
            n, line = len(text), []
            for is_real in row:
                line.append(n if is_real else -1)
                n += is_real
            counted.append(line)
        return counted

    def visible(self, text, p, window, layer):
        places = [
            j for j in range(p + 1) if window is None or p - j < window or j < self.config.sinks
        ]
        return [text[j][layer] for j in places]

    def compare(self, shown, expected):
        keys, values = shown
        assert keys.shape[1] == len(expected), "keys that are seen"
        if not expected:
            return
        order = keys[0, :, 0].argsort()
        expected = sorted(expected, key=lambda token: float(token[0][0, 0]))
        for got, want in ((keys[:, order], 0), (values[:, order], 1)):
            assert torch.equal(got, torch.stack([token[want] for token in expected], dim=1))

    def truncate(self, lengths):
        self.cache.truncate(lengths if isinstance(lengths, int) else torch.tensor(lengths))
        each = [lengths] * len(self.texts) if isinstance(lengths, int) else lengths
        self.texts = [text[:n] for text, n in zip(self.texts, each)]

    def select(self, rows):
        assert self.cache.select(rows) is self.cache
        self.texts = [list(self.texts[row]) for row in rows]

    def fork(self, n):
        seed = int(torch.randint(1000, (), generator=self.generator))
        other = Replay(self.cache.fork(n), seed)
        other.texts = [list(text) for text in self.texts for _ in range(n)]
        return other

    def reset(self):
        self.cache.reset()
        self.texts = [[] for _ in self.texts]


def random_padding(b, t, dice):
    """(B, T) bool: none, left, right or anywhere; whole rows of padding among them."""
    kind = dice.choice(["left", "right", "anywhere", "full"])
    rows = []
    for _ in range(b):
        n = t if kind == "full" else dice.randint(0, t)
        row = [False] * (t - n) + [True] * n
        if kind == "right":
            row.reverse()
        if kind == "anywhere":
            dice.shuffle(row)
        rows.append(row)
    return torch.tensor(rows)


def random_life(make_cache, seed, may_refuse, ragged=True, steps=18):
    """A random life of a cache and its forks: chunks, padding, failures, truncation, selection.

    Every step is checked. `may_refuse(cache, t, padding)` says whether a refusal would be right.
    Returns how many steps were fed and how many refused.
    """
    dice = random.Random(seed)
    lives, fed, refused = [Replay(make_cache(dice.choice([1, 1, 2, 3])), seed)], 0, 0
    for _ in range(steps):
        life = dice.choice(lives)
        b, before = len(life.texts), life.cache.lengths.tolist()
        event = dice.choice(["feed"] * 6 + ["fail", "truncate", "select", "fork", "reset"])
        try:
            if event in ("feed", "fail"):
                t = dice.choice([1, 1, 1, 2, 3, 5, 9, 14])
                padding = random_padding(b, t, dice) if ragged and dice.random() < 0.5 else None
                life.feed(t, padding, commit=event == "feed")
                fed += 1
            elif event == "truncate":
                each = [dice.randint(0, max(before)) for _ in range(b)]
                life.truncate(each if ragged and dice.random() < 0.5 else each[0])
            elif event == "select":
                life.select([dice.randrange(b) for _ in range(dice.choice([1, b, min(4, b + 1)]))])
            elif event == "fork" and len(lives) < 3 and b < 4:
                lives.append(life.fork(dice.choice([1, 2])))
            elif event == "reset" and dice.random() < 0.3:
                life.reset()
        except CacheError as error:
            assert life.cache.lengths.tolist() == before, "a refusal changes nothing"
            if "half way" in str(error) or "cannot be taken back" in str(error):
                assert type(life.cache).__name__ == "RollingCache", error
                life.reset()
                continue
            empty = max(before) == 0 and padding is not None and not padding.any()
            assert event in ("feed", "fail"), error
            assert empty or may_refuse(life.cache, t, padding), error
            refused += 1
    return fed, refused


def held_bytes(thing, seen=None):
    """Bytes of all tensors that an object holds, each storage once, found by walking it."""
    seen = {} if seen is None else seen
    if isinstance(thing, torch.Tensor):
        seen[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    elif isinstance(thing, dict):
        for value in thing.values():
            held_bytes(value, seen)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            held_bytes(value, seen)
    elif type(thing).__module__.startswith("llmcourse.generate"):
        held_bytes(vars(thing), seen)
    return sum(seen.values())


@pytest.fixture
def replay():
    return Replay


@pytest.fixture
def config():
    return tiny_config


@pytest.fixture
def live():
    return random_life


@pytest.fixture
def held():
    return held_bytes
