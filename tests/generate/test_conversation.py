"""A conversation writes what a fresh start would write, and runs only what is new."""

from __future__ import annotations

import pytest
import torch

from llmcourse.generate import Conversation, Sampling, generate
from llmcourse.generate.cache import DenseCache
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer

CACHES = ["dense", "rolling", "paged"]
WINDOW = {"window": 5, "sinks": 1, "global_every": 2}
WARM = Sampling(temperature=1.3, top_k=9)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(vocab_size=17, **changes):
    changes = {"context_length": 32, "positions": "rope"} | changes
    config = ModelConfig(
        vocab_size=vocab_size, n_layers=2, n_heads=2, d_model=16, init_std=0.5, **changes
    )
    return Transformer(config, seeded(1)).double()


@pytest.fixture(scope="module")
def model():
    return make()


def fresh(model, ids, n, seed, **options):
    """What the model writes after a text with nothing kept from before."""
    out = generate(
        model, torch.tensor([ids]), n, sampling=WARM, generator=seeded(seed), cache="none",
        **options,
    )  # fmt: skip
    return out[0, len(ids) :].tolist()


class TestTurns:
    @pytest.mark.parametrize("cache", CACHES)
    def test_three_turns_equal_a_fresh_start_and_run_only_what_is_new(self, cache):
        model = make(**WINDOW)
        talk, whole = Conversation(model, cache=cache), []
        for turn, (said, wanted) in enumerate([([1, 2, 3, 4], 5), ([5, 6], 3), ([7], 4)]):
            talk.say(said)
            whole += said
            written = talk.reply(wanted, sampling=WARM, generator=seeded(turn))
            assert written == fresh(model, whole, wanted, turn)
            whole += written
            assert talk.ids == whole
            # A reply's last token was written but not read: it is run with the next turn.
            assert talk.prefilled == len(said) + (turn > 0)
            assert talk.held == len(whole) - 1
        assert talk.total_prefilled == 4 + 3 + 2

    def test_two_replies_in_a_row_and_a_turn_in_two_parts(self, model):
        talk = Conversation(model)
        talk.say([1, 2])
        talk.say(torch.tensor([[3]]))
        a = talk.reply(3, sampling=WARM, generator=seeded(1))
        b = talk.reply(3, sampling=WARM, generator=seeded(2))
        assert a == fresh(model, [1, 2, 3], 3, 1) and b == fresh(model, [1, 2, 3, *a], 3, 2)
        assert talk.prefilled == 1

    def test_a_stop_belongs_to_the_text(self, model):
        free = fresh(model, [1, 2, 3], 12, 5)
        talk = Conversation(model)
        talk.say([1, 2, 3])
        written = talk.reply(12, sampling=WARM, stop=[free[3]], generator=seeded(5))
        end = free.index(free[3]) + 1
        assert written == free[:end] and talk.ids == [1, 2, 3, *free[:end]]

    def test_the_repetition_penalty_counts_earlier_turns(self, model):
        rules = Sampling(temperature=0.0, repetition_penalty=1e6)
        talk = Conversation(model)
        talk.say([1, 2])
        talk.reply(4, sampling=rules)
        talk.say([3])
        talk.reply(4, sampling=rules)
        whole = generate(model, torch.tensor([talk.ids[:7]]), 4, sampling=rules, cache="none")
        assert talk.ids == whole[0].tolist() and len(set(talk.ids)) == 11

    def test_a_reply_that_is_cut_short_leaves_what_was_written(self, model):
        talk = Conversation(model)
        talk.say([1, 2, 3])
        tokens = talk.stream(8, sampling=WARM, generator=seeded(3))
        written = [next(tokens), next(tokens)]
        tokens.close()
        assert talk.ids == [1, 2, 3, *written]
        talk.say([4])
        again = talk.reply(5, sampling=WARM, generator=seeded(4))
        assert again == fresh(model, [1, 2, 3, *written, 4], 5, 4)


class TestHistory:
    @pytest.mark.parametrize("cache", ["dense", "paged"])
    def test_it_is_kept_as_far_as_both_agree(self, model, cache):
        talk = Conversation(model, cache=cache)
        talk.say([1, 2, 3, 4, 5, 6])
        talk.reply(4, sampling=WARM, generator=seeded(1))
        changed = [1, 2, 3, 9, 5, 6, 7]
        talk.set_history(changed)
        assert talk.held == 3 and talk.ids == changed
        assert talk.reply(5, sampling=WARM, generator=seeded(2)) == fresh(model, changed, 5, 2)
        assert talk.prefilled == 4

    def test_a_shorter_history_reads_its_last_token_again(self, model):
        talk = Conversation(model)
        talk.say([1, 2, 3, 4, 5, 6])
        talk.reply(4)
        talk.set_history([1, 2, 3, 4])
        assert talk.held == 4
        assert talk.reply(4, sampling=WARM, generator=seeded(2)) == fresh(model, [1, 2, 3, 4], 4, 2)
        assert talk.prefilled == 1

    def test_nothing_in_common(self, model):
        talk = Conversation(model)
        talk.say([1, 2, 3])
        talk.reply(4)
        talk.set_history([2, 2, 3])
        assert talk.held == 0
        assert talk.reply(4, sampling=WARM, generator=seeded(2)) == fresh(model, [2, 2, 3], 4, 2)
        assert talk.prefilled == 3

    def test_a_rolling_buffer_that_has_forgotten_begins_anew(self):
        model = make(window=4, sinks=1)
        talk = Conversation(model, cache="rolling")
        talk.say([1, 2, 3])
        talk.reply(40, sampling=WARM, generator=seeded(1))
        history = [*talk.ids[:20], 3]
        talk.set_history(history)
        assert talk.reply(6, sampling=WARM, generator=seeded(2)) == fresh(model, history, 6, 2)
        assert talk.prefilled == 21


class TestText:
    tokenizer = ByteTokenizer((END_OF_TEXT,))

    def test_text_in_text_out_and_special_names_are_plain_characters(self):
        model = make(257, context_length=64)
        talk = Conversation(model, self.tokenizer)
        talk.say("aé" + END_OF_TEXT)
        assert talk.ids == self.tokenizer.encode("aé" + END_OF_TEXT) and 256 not in talk.ids
        before = list(talk.ids)
        text = talk.reply_text(12, sampling=WARM, generator=seeded(1))
        assert text == self.tokenizer.decode(fresh(model, before, 12, 1))

    def test_the_stop_is_kept_in_the_text_and_left_out_of_the_reply(self):
        model = make(257, context_length=64)
        model.embedding.weight.data[256] *= 3
        talk = Conversation(model, self.tokenizer)
        talk.say("abc")
        text = talk.reply_text(50, stop=(END_OF_TEXT,), generator=seeded(0))
        assert talk.ids[-1] == 256 and END_OF_TEXT not in text
        assert text == self.tokenizer.decode(talk.ids[3:-1])

    def test_without_a_tokenizer(self, model):
        talk = Conversation(model)
        with pytest.raises(ValueError, match="text needs a tokenizer"):
            talk.say("abc")
        talk.say([1])
        with pytest.raises(ValueError, match="a reply as text needs a tokenizer"):
            talk.reply_text(3)
        assert talk.ids == [1]


class TestRefusals:
    def test_overflow_is_precise_and_changes_nothing(self, model):
        talk = Conversation(model)
        talk.say(list(range(10)) * 2)
        with pytest.raises(
            ValueError,
            match="20 prompt tokens and 13 new ones overflow the context of 32; "
            "ask for at most 12 new tokens; the text so far can be shortened",
        ):
            talk.reply(13)
        with pytest.raises(ValueError, match="would have 33 tokens and overflow the context of 32"):
            talk.say([1] * 13)
        assert len(talk.ids) == 20 and talk.held == 0
        assert len(talk.reply(12)) == 12 and len(talk.ids) == 32
        with pytest.raises(ValueError, match="not one new token fits"):
            talk.reply(1)

    def test_before_anything_is_said(self, model):
        with pytest.raises(ValueError, match="nothing has been said yet"):
            Conversation(model).reply(3)

    def test_ids_outside_the_vocabulary(self, model):
        talk = Conversation(model)
        with pytest.raises(ValueError, match="token id 17 is outside the vocabulary of 17"):
            talk.say([1, 17])
        assert talk.ids == []

    def test_caches_that_cannot_serve(self, model):
        with pytest.raises(ValueError, match="lives from its cache"):
            Conversation(model, cache="none")
        cache = DenseCache(model.config, 2, dtype=torch.float64)
        with pytest.raises(ValueError, match="the cache is for 2 rows and ids has 1"):
            Conversation(model, cache=cache)
        cache = DenseCache(model.config, 1, dtype=torch.float64)
        generate(model, torch.tensor([[1, 2]]), 3, cache=cache)
        with pytest.raises(ValueError, match="holds 4 tokens already"):
            Conversation(model, cache=cache)
