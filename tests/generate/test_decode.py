"""Decoding against the most naive loop, alone and in batches, up to and past the context."""

from __future__ import annotations

import pytest
import torch

from llmcourse.generate import Sampling, generate, generate_text, stream
from llmcourse.generate.cache import DenseCache, RollingCache
from llmcourse.generate.sampling import next_token_probabilities
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer

GREEDY = Sampling.greedy()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(vocab_size=17, context_length=12, **changes):
    config = ModelConfig(
        vocab_size=vocab_size, context_length=context_length, n_layers=2, n_heads=2, d_model=16,
        tie_embeddings=False,  # with random tied weights a model only repeats itself
        **changes,
    )  # fmt: skip
    model = Transformer(config, seeded()).double()
    generator = seeded(2)  # a seed whose greedy texts do not end in one token for ever
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            width = {"embedding.weight": 3.0, "positions.weight": 3.0}.get(name, 0.3)
            parameter.data += torch.empty_like(parameter).normal_(0, width, generator=generator)
    return model


@pytest.fixture(scope="module")
def model():
    return make()


@torch.no_grad()
def naive_greedy(model, row, n, context=None):
    """One row, one token at a time, the likeliest each."""
    model.eval()
    row = list(row)
    for _ in range(n):
        logits = model(torch.tensor([row[-(context or len(row)) :]]))[0, -1].tolist()
        row.append(max(range(len(logits)), key=lambda i: (logits[i], -i)))
    return row


class TestGenerate:
    @pytest.mark.parametrize("shape", [(1, 1), (3, 4), (2, 11)])
    @pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
    def test_greedy_equals_the_naive_loop(self, shape, positions):
        model = make(positions=positions)
        ids = torch.randint(17, shape, generator=seeded(2))
        n = 12 - shape[1]
        out = generate(model, ids, n, sampling=GREEDY)
        assert out.tolist() == [naive_greedy(model, row, n) for row in ids.tolist()]
        assert out[:, shape[1] :].unique().numel() >= min(3, n), "a constant would have passed"

    @pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
    def test_a_left_padded_batch_writes_what_each_row_writes_alone(self, positions):
        model = make(positions=positions)
        prompts = [[3], [1, 2, 3, 4, 5], [16, 0]]
        ids = torch.tensor([[0] * (5 - len(p)) + p for p in prompts])
        padding = torch.tensor([[False] * (5 - len(p)) + [True] * len(p) for p in prompts])
        out = generate(model, ids, 7, sampling=GREEDY, padding=padding)
        for row, prompt in zip(out.tolist(), prompts):
            assert row[5:] == naive_greedy(model, prompt, 7)[len(prompt) :]

    def test_padding_is_no_repetition_of_token_0(self, model):
        sampling = Sampling(temperature=0.0, repetition_penalty=3.0)
        ids = torch.tensor([[0, 0, 0, 5], [1, 2, 3, 4]])
        padding = torch.tensor([[False, False, False, True], [True] * 4])
        out = generate(model, ids, 6, sampling=sampling, padding=padding)
        alone = generate(model, torch.tensor([[5]]), 6, sampling=sampling)
        assert out[0, 4:].tolist() == alone[0, 1:].tolist()

    def test_the_penalty_counts_prompt_and_new_tokens(self, model):
        sampling = Sampling(temperature=0.0, repetition_penalty=1e6)
        out = generate(model, torch.tensor([[1, 2]]), 10, sampling=sampling)[0].tolist()
        logits_positive = []
        for n in range(2, 12):
            with torch.no_grad():
                logits = model.eval()(torch.tensor([out[:n]]))[:, -1]
            wanted = next_token_probabilities(logits, sampling, torch.tensor([out[:n]])).argmax()
            logits_positive.append(int(wanted) == out[n])
        assert all(logits_positive)
        assert len(set(out)) > 8, "a penalty this large leaves hardly a repetition"

    def test_sampling_draws_from_the_models_distribution(self, model):
        ids = torch.tensor([[4, 2]]).expand(4000, -1)
        out = generate(model, ids, 1, generator=seeded())[:, -1]
        with torch.no_grad():
            p = model.eval()(ids[:1])[0, -1].softmax(-1)
        counts = torch.bincount(out, minlength=17)
        expected = p * 4000
        large = expected > 5
        chi2 = ((counts - expected)[large] ** 2 / expected[large]).sum().item()
        assert large.sum() > 5 and chi2 < 40  # 16 degrees of freedom at most: one in a thousand

    def test_a_generator_reproduces_and_spares_the_global_state(self, model):
        ids = torch.tensor([[1], [2], [3]])
        before = torch.random.get_rng_state()
        a, b, c = (generate(model, ids, 9, generator=seeded(s)) for s in (1, 1, 2))
        assert torch.equal(a, b) and not torch.equal(a, c)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_a_row_ends_at_a_stop_and_is_filled_with_it(self, model):
        prompts = torch.tensor([[1, 2], [3, 4], [5, 6]])
        free = generate(model, prompts, 10, sampling=GREEDY)
        stop = int(free[0, 4])  # the third new token of the first row
        out = generate(model, prompts, 10, sampling=GREEDY, stop=[stop])
        ends = []
        for row, long in zip(out.tolist(), free.tolist()):
            new = long[2:]
            end = new.index(stop) + 1 if stop in new else len(new)
            ends.append(end)
            width = len(row) - 2
            assert row[2:] == (new[:end] + [stop] * len(new))[:width]
        assert out.shape[1] == 2 + max(ends) and min(ends) <= 3

    def test_it_ends_early_when_every_row_has(self, model):
        free = generate(model, torch.tensor([[1, 2]]), 10, sampling=GREEDY)[0].tolist()
        out = generate(model, torch.tensor([[1, 2]]), 10, sampling=GREEDY, stop=(free[2],))
        assert out[0].tolist() == free[:3]

    def test_several_stops_and_rows_that_end_on_different_ones(self, model):
        prompts = torch.tensor([[1, 2], [3, 4]])
        free = generate(model, prompts, 10, sampling=GREEDY).tolist()
        stops = [free[0][3], free[1][3]]
        out = generate(model, prompts, 10, sampling=GREEDY, stop=stops).tolist()
        for row, long in zip(out, free):
            end = next(i for i, t in enumerate(long[2:]) if t in stops) + 3
            assert row[:end] == long[:end]
            assert set(row[end:]) <= {long[end - 1]}

    def test_a_stop_in_the_prompt_does_not_end_it(self, model):
        out = generate(model, torch.tensor([[7, 7]]), 3, sampling=GREEDY, stop=[7])
        assert out[0].tolist()[:2] == [7, 7] and out.shape[1] > 2

    def test_slide_forgets_the_oldest(self, model):
        ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
        out = generate(model, ids, 30, sampling=GREEDY, overflow="slide")
        assert out.shape == (2, 33)
        assert out.tolist() == [naive_greedy(model, row, 30, context=12) for row in ids.tolist()]
        long = torch.randint(17, (1, 40), generator=seeded(3))
        out = generate(model, long, 2, sampling=GREEDY, overflow="slide")
        assert out[0].tolist() == naive_greedy(model, long[0].tolist(), 2, context=12)

    def test_slide_with_padding(self, model):
        ids, padding = torch.tensor([[0, 0, 3], [4, 5, 6]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
        out = generate(
            model, ids, 30, sampling=GREEDY, padding=padding.bool(), overflow="slide"
        ).tolist()
        # Row 0 sees what fits into the batch's window: its padding slides out first.
        row = [3]
        for n in range(30):
            row = naive_greedy(model, row, 1, context=min(12, len(row)))
            assert row[-1] == out[0][3 + n]

    def test_exactly_the_context_is_allowed(self, model):
        assert generate(model, torch.tensor([[1, 2]]), 10).shape == (1, 12)

    @pytest.mark.parametrize("training", [True, False])
    def test_the_mode_is_put_back_and_dropout_does_not_act(self, training):
        model = make(dropout=0.5)
        model.train(training)
        out = generate(model, torch.tensor([[1, 2]]), 8, sampling=GREEDY)
        assert model.training is training
        assert out[0].tolist() == naive_greedy(model, [1, 2], 8)
        model.train(training)
        model.embedding.weight.data[5] = float("nan")
        with pytest.raises(ValueError, match="NaN"):
            generate(model, torch.tensor([[5]]), 1)
        assert model.training is training

    def test_no_gradients_and_an_untouched_prompt(self, model):
        ids = torch.tensor([[1, 2]])
        out = generate(model, ids, 3)
        assert not out.requires_grad and ids.tolist() == [[1, 2]]
        assert all(p.grad is None for p in model.parameters())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"ids": torch.zeros(1, 0, dtype=torch.int64)}, r"at least one token to continue from"),
            ({"ids": torch.tensor([1, 2])}, r"ids must be \(batch, time\).*got shape \(2,\)"),
            ({"max_new_tokens": 0}, r"max_new_tokens=0 must be at least 1"),
            (
                {"max_new_tokens": 11},
                r"2 prompt tokens and 11 new ones overflow the context of 12; ask for at most 10",
            ),
            ({"overflow": "wrap"}, r"overflow='wrap' is unknown; choose one of"),
            ({"stop": [17]}, r"stop id 17 is outside the vocabulary of 17"),
            ({"stop": [-1]}, r"stop id -1 is outside"),
            ({"padding": torch.ones(1, 2)}, r"padding must be bool of shape \(1, 2\)"),
            ({"padding": torch.ones(1, 3, dtype=torch.bool)}, r"padding must be bool of shape"),
            ({"padding": torch.tensor([[False, False]])}, r"row 0 is all padding"),
            ({"n_completions": 0}, r"n_completions=0 must be at least 1"),
            ({"cache": "ring"}, r"cache='ring' is unknown; choose one of \('dense', 'rolling'"),
            ({"cache": None}, r"cache must be one of .* or a cache, got None"),
            ({"cache": "rolling", "compile": True}, r"compile=True needs cache=\"dense\""),
            ({"ids": torch.tensor([[1, 17]])}, r"token id 17 at position \(0, 1\)"),
        ],
    )
    def test_bad_input_is_named(self, model, arguments, message):
        with pytest.raises(ValueError, match=message):
            generate(model, **{"ids": torch.tensor([[1, 2]]), "max_new_tokens": 3} | arguments)

    @pytest.mark.parametrize("gap", [[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0], [1, 0, 0, 1]])
    def test_a_gap_in_the_padding_is_refused(self, model, gap):
        padding = torch.tensor([[True] * 4, gap]).bool()
        with pytest.raises(ValueError, match="never between real tokens"):
            generate(model, torch.ones(2, 4, dtype=torch.int64), 2, padding=padding)

    def test_bad_input_is_named_before_the_first_token_is_asked_for(self, model):
        with pytest.raises(ValueError, match="overflow the context"):
            stream(model, torch.tensor([[1, 2]]), 11)


SCHEMES = {
    "learned": {},
    "sinusoidal": {"positions": "sinusoidal"},
    "rope": {"positions": "rope", "n_kv_heads": 1},
    "none": {"positions": "none"},
    "window": {"positions": "rope", "window": 4, "sinks": 1, "global_every": 2},
    "endless": {"positions": "rope", "window": 3, "sinks": 2},
}


# A rolling buffer needs a window to forget by.
WITH_CACHES = [
    (scheme, cache)
    for scheme, fields in SCHEMES.items()
    for cache in ("dense", "rolling", "paged", "none")
    if cache != "rolling" or "window" in fields
]


class TestCaches:
    @pytest.mark.parametrize(("scheme", "cache"), [x for x in WITH_CACHES if x[1] != "none"])
    def test_the_same_text_with_and_without(self, scheme, cache):
        model = make(**SCHEMES[scheme])
        ids = torch.randint(17, (3, 4), generator=seeded(5))
        for sampling in (GREEDY, Sampling(temperature=1.5, top_p=0.9, repetition_penalty=1.2)):
            texts = [
                generate(model, ids, 8, sampling=sampling, generator=seeded(1), cache=name)
                for name in ("none", cache)
            ]
            assert texts[0].tolist() == texts[1].tolist()
            assert texts[0][:, 4:].unique().numel() > 3, "a constant would have passed"

    @pytest.mark.parametrize(("scheme", "cache"), WITH_CACHES)
    def test_rows_padded_on_either_side_write_what_each_writes_alone(self, scheme, cache):
        model = make(**SCHEMES[scheme])
        prompts = [[3], [1, 2, 3, 4, 5], [16, 0], [7, 8, 9]]
        ids = torch.zeros(4, 6, dtype=torch.int64)
        padding = torch.zeros(4, 6, dtype=torch.bool)
        for n, (prompt, start) in enumerate(zip(prompts, [0, 1, 4, 2])):  # right, both, left, both
            ids[n, start : start + len(prompt)] = torch.tensor(prompt)
            padding[n, start : start + len(prompt)] = True
        out = generate(model, ids, 7, sampling=GREEDY, padding=padding, cache=cache)
        assert torch.equal(out[:, :6], ids)
        for row, prompt in zip(out.tolist(), prompts):
            assert row[6:] == naive_greedy(model, prompt, 7)[len(prompt) :]

    def test_a_row_that_slides_forgets_its_padding_first_on_the_right_too(self):
        model = make()
        ids, padding = torch.tensor([[3, 9, 9], [4, 5, 6]]), torch.tensor([[1, 0, 0], [1, 1, 1]])
        out = generate(
            model, ids, 30, sampling=GREEDY, padding=padding.bool(), overflow="slide"
        ).tolist()
        left = torch.tensor([[0, 0, 3], [4, 5, 6]]), padding.bool().flip(1)
        same = generate(
            model, left[0], 30, sampling=GREEDY, padding=left[1], overflow="slide", cache="none"
        ).tolist()
        assert [row[3:] for row in out] == [row[3:] for row in same]

    @pytest.mark.parametrize("cache", ["dense", "rolling", "paged"])
    def test_each_token_is_run_once(self, cache, monkeypatch):
        model = make(**SCHEMES["window"])
        widths = counted(model, monkeypatch)
        generate(model, torch.tensor([[1, 2, 3], [4, 5, 6]]), 5, cache=cache)
        assert widths == [3, 1, 1, 1, 1]  # the last new token is never run at all

    @pytest.mark.parametrize("t", [2, 4, 5])
    def test_a_prompt_is_run_in_chunks_where_the_cache_asks_for_them(self, t, monkeypatch):
        model = make(**SCHEMES["endless"])
        ids = torch.randint(17, (2, t), generator=seeded(6))
        plain = generate(model, ids, 5, sampling=GREEDY, cache="none")
        widths = counted(model, monkeypatch)
        cache = RollingCache(model.config, 2, max_chunk=2, dtype=torch.float64)
        assert torch.equal(generate(model, ids, 5, sampling=GREEDY, cache=cache), plain)
        assert widths == [2] * (t // 2) + [1] * (t % 2) + [1] * 4

    @pytest.mark.parametrize("cache", ["dense", "rolling"])
    def test_an_endless_model_writes_past_its_context(self, cache):
        model = make(**SCHEMES["endless"])
        out = generate(model, torch.tensor([[1, 2, 3]]), 40, sampling=GREEDY, cache=cache)
        assert out[0].tolist() == naive_greedy(model, [1, 2, 3], 40)

    def test_a_cache_that_is_handed_in_holds_the_text_afterwards(self, model, monkeypatch):
        cache = DenseCache(model.config, 2, dtype=torch.float64)
        ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
        first = generate(model, ids, 4, sampling=GREEDY, cache=cache)
        assert cache.lengths.tolist() == [6, 6]  # all but the last token, which nobody has read
        widths = counted(model, monkeypatch)
        out = generate(model, first, 3, sampling=GREEDY, cache=cache)
        assert widths == [1, 1, 1]
        assert torch.equal(out, generate(model, ids, 7, sampling=GREEDY, cache="none"))

    def test_a_cache_that_does_not_fit_is_refused(self, model):
        ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
        cache = DenseCache(model.config, 3, dtype=torch.float64)
        with pytest.raises(ValueError, match="the cache is for 3 rows and ids has 2"):
            generate(model, ids, 4, cache=cache)
        cache = DenseCache(model.config, 2, dtype=torch.float64)
        generate(model, ids, 4, cache=cache)
        with pytest.raises(ValueError, match="holds 6 tokens and the prompt has 3: nothing is"):
            generate(model, ids, 4, cache=cache)
        cache.truncate(1)
        with pytest.raises(ValueError, match="rows of equal length"):
            padding = torch.tensor([[False, True, True], [True] * 3])
            generate(model, ids, 4, cache=cache, padding=padding)
        assert cache.lengths.tolist() == [1, 1]
        small = DenseCache(model.config, 2, 7, dtype=torch.float64)
        assert generate(model, ids, 5, cache=small).shape == (2, 8)
        small.reset()
        with pytest.raises(
            ValueError, match=r"the cache has room for 7 tokens a row and .* needs 8"
        ):
            generate(model, ids, 6, cache=small)
        assert small.lengths.tolist() == [0, 0]
        with pytest.raises(ValueError, match="needs a model with one"):
            generate(model, ids, 6, cache="rolling")


class TestCompletions:
    @pytest.mark.parametrize("cache", ["dense", "rolling", "paged", "none"])
    def test_each_prompt_is_run_once_and_the_tokens_are_those_of_copies(self, cache, monkeypatch):
        model = make(**SCHEMES["window"])
        ids = torch.tensor([[0, 2, 3], [4, 5, 6]])
        padding = torch.tensor([[False, True, True], [True, True, True]])
        copies = generate(
            model, ids.repeat_interleave(3, 0), 6, padding=padding.repeat_interleave(3, 0),
            generator=seeded(4), cache="none",
        )  # fmt: skip
        rows = counted(model, monkeypatch, axis=0)
        out = generate(
            model, ids, 6, padding=padding, generator=seeded(4), cache=cache, n_completions=3
        )
        assert torch.equal(out, copies)
        assert rows == [2, 6, 6, 6, 6, 6]
        assert len({tuple(row) for row in out.tolist()}) == 6, "copies that do not differ"

    def test_the_prompts_cache_that_is_handed_in_stays_as_it_is(self, model):
        cache = DenseCache(model.config, 1, dtype=torch.float64)
        generate(model, torch.tensor([[1, 2]]), 4, cache=cache, n_completions=5)
        assert cache.lengths.tolist() == [2]


class TestStream:
    def test_it_yields_the_tokens_of_generate_as_they_are_made(self, model, monkeypatch):
        ids = torch.tensor([[1, 2], [3, 4]])
        whole = generate(model, ids, 6, generator=seeded(3))
        widths = counted(model, monkeypatch)
        steps = stream(model, ids, 6, generator=seeded(3))
        assert widths == []
        for n, token in enumerate(steps):
            assert torch.equal(token, whole[:, 2 + n])
            assert len(widths) == n + 1

    def test_a_stream_that_is_closed_puts_the_mode_back(self, model):
        model.train()
        steps = stream(model, torch.tensor([[1, 2]]), 6)
        next(steps)
        assert not model.training
        steps.close()
        assert model.training
        model.eval()


def counted(model, monkeypatch, axis=1):
    """The shape along one axis of every chunk that the model is run on from now on."""
    sizes, hidden = [], model.hidden

    def counting(ids, *args, **options):
        sizes.append(ids.shape[axis])
        return hidden(ids, *args, **options)

    monkeypatch.setattr(model, "hidden", counting)
    return sizes


@pytest.mark.slow
def test_the_compiled_step_writes_the_same_and_is_compiled_once():
    model = make(context_length=300, **SCHEMES["window"])
    ids = torch.tensor([[0, 2, 3], [4, 5, 6]])
    padding = torch.tensor([[False, True, True], [True, True, True]])
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for n, options in enumerate([{}, {"padding": padding, "n_completions": 2}]):
        plain = generate(model, ids, 20, generator=seeded(1), **options)
        out = generate(model, ids, 20, generator=seeded(1), compile=True, **options)
        assert torch.equal(plain, out)
        # One graph for all twenty steps, and another batch size or padding needs one of its own.
        assert graphs["unique_graphs"] == before + n + 1
    plain = generate(model, ids, 90, generator=seeded(2))
    assert torch.equal(plain, generate(model, ids, 90, generator=seeded(2), compile=True))
    assert graphs["unique_graphs"] == before + 2


class TestGenerateText:
    tokenizer = ByteTokenizer((END_OF_TEXT,))

    @pytest.fixture
    def bytes_model(self):
        return make(vocab_size=257, context_length=40)

    def test_each_prompt_gets_what_it_would_get_alone(self, bytes_model):
        prompts = ["a", "longer é", "xyz"]
        texts = generate_text(bytes_model, self.tokenizer, prompts, 12, sampling=GREEDY)
        for prompt, text in zip(prompts, texts, strict=True):
            ids = self.tokenizer.encode(prompt)
            row = naive_greedy(bytes_model, ids, 12)[len(ids) :]
            assert text == self.tokenizer.decode(row)

    def test_the_stop_is_left_out(self, bytes_model):
        biased = make(vocab_size=257, context_length=40)
        with torch.no_grad():
            row = naive_greedy(biased, [97], 8)
            # Make the sixth new token's row of the table the end-of-text token's as well.
            biased.head.weight[256] = biased.head.weight[row[6]] * 1.0001
        ids = naive_greedy(biased, [97], 8)[1:]
        assert 256 in ids
        [text] = generate_text(
            biased, self.tokenizer, ["a"], 8, sampling=GREEDY, stop=(END_OF_TEXT,)
        )
        assert text == self.tokenizer.decode(ids[: ids.index(256)])
        assert END_OF_TEXT not in text
        [free] = generate_text(biased, self.tokenizer, ["a"], 8, sampling=GREEDY)
        assert free == self.tokenizer.decode(ids)

    def test_special_tokens_in_a_prompt_are_one_token(self, bytes_model):
        [text] = generate_text(bytes_model, self.tokenizer, [END_OF_TEXT], 5, sampling=GREEDY)
        assert text == self.tokenizer.decode(naive_greedy(bytes_model, [256], 5)[1:])

    @pytest.mark.parametrize("prompts", [[], [""], ["a", ""]])
    def test_nothing_to_continue_from(self, bytes_model, prompts):
        with pytest.raises(ValueError, match="every prompt needs at least one token"):
            generate_text(bytes_model, self.tokenizer, prompts, 5)

    def test_one_string_is_not_many_prompts(self, bytes_model):
        with pytest.raises(ValueError, match="put it in a list"):
            generate_text(bytes_model, self.tokenizer, "abc", 5)

    def test_an_unknown_stop_is_named(self, bytes_model):
        with pytest.raises(ValueError, match="no special token '<end>'"):
            generate_text(bytes_model, self.tokenizer, ["a"], 5, stop=("<end>",))

    def test_overflow(self, bytes_model):
        with pytest.raises(ValueError, match="overflow the context of 40"):
            generate_text(bytes_model, self.tokenizer, ["a" * 30, "b"], 20)
        [text] = generate_text(
            bytes_model, self.tokenizer, ["a" * 50], 3, sampling=GREEDY, overflow="slide"
        )
        row = naive_greedy(bytes_model, [97] * 50, 3, context=40)[50:]
        assert text == self.tokenizer.decode(row)
