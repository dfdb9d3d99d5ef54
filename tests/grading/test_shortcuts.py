"""An answer does its own work: library functions are recognised however they are reached."""

from __future__ import annotations

import functools
import importlib

import pytest
import torch

from llmcourse.grading.core import assess
from llmcourse.grading.guard import Guard, ShortcutUsed, resolve
from llmcourse.grading.inputs import bounded, narrow
from llmcourse.grading.records import PARTS, exercises, find
from llmcourse.grading.routes import WrongRows

OWN = "the work is your own"
# For each exercise a function of the course that does it, and a call in the exercise's signature.
LIBRARY = {
    "1.1": ("llmcourse.model.positions", "sinusoidal_positions"),
    "1.2": ("llmcourse.model.attention", "attention_weights"),
    "1.3": ("llmcourse.model.attention", "attend"),
    "1.4": ("llmcourse.model.masks", "causal_mask"),
    "1.5": ("llmcourse.model.attention", "attend"),
    "1.6": ("llmcourse.model.self_attention", "split_heads"),
    "1.7": ("llmcourse.model.self_attention", "merge_heads"),
    "1.8": ("llmcourse.model.norms", "layer_norm"),
    "1.9": ("llmcourse.model.layers", "gelu"),
    "1.10": ("llmcourse.model.block", "Block"),
    "1.11": ("llmcourse.model.summary", "summary"),
    "2.1": ("llmcourse.data.batches", "windows"),
    "2.2": ("llmcourse.train.losses", "cross_entropy"),
    "2.3": ("llmcourse.data.batches", "document_aligned"),
    "2.4": ("llmcourse.train.losses", "bits_per_byte"),
    "2.5": ("llmcourse.train.schedules", "warmup_cosine"),
    "2.6": ("llmcourse.train.optimizers", "clip_gradient_norm"),
    "2.7": ("llmcourse.generate.sampling", "next_token_probabilities"),
    "2.8": ("llmcourse.generate.sampling", "keep_top_p"),
    "2.9": ("llmcourse.generate.sampling", "keep_min_p"),
    "2.10": ("llmcourse.generate.sampling", "penalise_repetition"),
    "2.11": ("llmcourse.generate.decode", "generate"),
    "3.1": ("llmcourse.model.norms", "rms_norm"),
    "3.2": ("llmcourse.model.feed_forward", "GatedFeedForward"),
    "3.3": ("llmcourse.model.rotary", "rotary_frequencies"),
    "3.4": ("llmcourse.model.rotary", "rotate"),
    "3.5": ("llmcourse.model.attention", "attend"),
    "3.6": ("llmcourse.model.summary", "summary"),
    "3.7": ("llmcourse.model.masks", "sliding_window_mask"),
    "3.8": ("llmcourse.model.attention", "attend"),
    "3.9": ("llmcourse.generate.cache.rolling", "RollingCache"),
    "3.10": ("llmcourse.model.flash", "flash_forward"),
    "3.11": ("llmcourse.generate.speculative", "residual"),
    "3.12": ("llmcourse.model.latent_attention", "LatentAttention"),
    "3.13": ("llmcourse.model.flash", "flash_forward"),
    "4.1": ("llmcourse.tokenizers.bpe_merge", "merge_once"),
    "4.2": ("llmcourse.tokenizers.bpe_train", "learn_merges"),
    "4.3": ("llmcourse.tokenizers.bpe_merge", "merge"),
    "4.4": ("llmcourse.train.schedules", "warmup_stable_decay"),
    "4.5": ("llmcourse.train.adamw", "adamw_step"),
    "4.6": ("llmcourse.train.muon", "orthogonalise"),
    "4.7": ("llmcourse.train.loop", "train"),
    "4.8": ("llmcourse.train.scaler", "LossScaler"),
    "4.9": ("llmcourse.evaluate.scaling_law", "fit"),
    "4.10": ("llmcourse.data.batches", "sliding_window"),
    "4.11": ("llmcourse.data.packing", "packed_batch"),
    "4.12": ("llmcourse.model.feed_forward", "FeedForward"),
    "4.13": ("llmcourse.train.chunked_loss", "chunked_cross_entropy"),
    "5.1": ("llmcourse.model.router", "choose_top_k"),
    "5.2": ("llmcourse.model.router_losses", "router_z_loss"),
    "5.3": ("llmcourse.model.summary", "summary"),
    "5.4": ("llmcourse.model.router", "choose_by_experts"),
    "5.5": ("llmcourse.model.router_losses", "load_balancing_loss"),
    "5.6": ("llmcourse.model.router", "within_capacity"),
    "5.7": ("llmcourse.model.router_losses", "bias_step"),
    "5.8": ("llmcourse.model.router", "choose_top_k"),
    "5.9": ("llmcourse.model.router", "choose_by_experts"),
    "5.10": ("llmcourse.model.upcycle", "upcycle"),
    "5.11": ("llmcourse.model.expert_dispatch", "dispatch_grouped"),
    "5.12": ("llmcourse.model.moe", "MixtureOfExperts"),
}
TORCH = {
    "1.2": [
        lambda x: torch.softmax(x, -1),
        lambda x: x.softmax(-1),
        lambda x: torch.nn.functional.softmax(x, dim=-1),
        lambda x: torch.nn.Softmax(dim=-1)(x),
        lambda x: x.log_softmax(-1).exp(),
    ],
    "1.3": [lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v)],
    "1.5": [
        lambda q, k, v, lengths: torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True
        )
    ],
    "1.8": [
        lambda x, w, b, eps: torch.nn.functional.layer_norm(x, w.shape, w, b, eps),
        lambda x, w, b, eps: torch.layer_norm(x, w.shape, w, b, eps),
        lambda x, w, b, eps: torch.nn.LayerNorm(w.shape, eps=eps, dtype=x.dtype)(x) * w + b,
    ],
    "1.9": [
        lambda x: torch.nn.functional.gelu(x),
        lambda x: torch.nn.GELU()(x),
    ],
    "2.2": [
        lambda x, y: torch.nn.functional.cross_entropy(x.flatten(0, 1), y.flatten()),
        lambda x, y: torch.nn.CrossEntropyLoss()(x.flatten(0, 1), y.flatten()),
        lambda x, y: torch.nn.functional.nll_loss(x.log_softmax(-1).flatten(0, 1), y.flatten()),
    ],
    "3.1": [
        lambda x, w, eps: torch.nn.functional.rms_norm(x, w.shape, w, eps),
        lambda x, w, eps: torch.rms_norm(x, w.shape, w, eps),
        lambda x, w, eps: torch.nn.RMSNorm(w.shape, eps, dtype=x.dtype)(x) * w,
    ],
    "3.5": [
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    ],
    "3.8": [
        lambda rotate, q, k, v, keys, values: (
            torch.nn.functional.scaled_dot_product_attention(q, keys, values),
            keys,
            values,
        )
    ],
    "3.13": [
        lambda q, k, v, block: torch.nn.functional.scaled_dot_product_attention(q, k, v),
    ],
    "4.5": [
        lambda p, g, m, v, t, lr, betas, eps, decay: torch.optim.AdamW(
            [p], lr=lr, betas=betas, eps=eps, weight_decay=decay
        ),
        lambda p, g, m, v, t, lr, betas, eps, decay: torch.optim.Adam([p], lr=lr).step(),
    ],
    "4.6": [lambda matrix, steps: torch.optim.Muon([matrix], ns_steps=steps).step()],
    "4.8": [
        lambda weights, gradients, scale, good, lr, interval: torch.amp.GradScaler(
            "cpu", init_scale=scale, growth_interval=interval
        )
    ],
    "4.13": [
        lambda h, w, t, chunk: torch.nn.functional.cross_entropy(h[:chunk] @ w.T, t[:chunk]),
        lambda h, w, t, chunk: torch.nn.CrossEntropyLoss()(h[:chunk] @ w.T, t[:chunk]),
    ],
}


def test_every_exercise_is_covered():
    assert set(LIBRARY) == {exercise.id for part in PARTS for exercise in exercises(part)}


@pytest.mark.parametrize("exercise_id", LIBRARY)
def test_an_answer_from_the_course_is_rejected(exercise_id):
    module, name = LIBRARY[exercise_id]
    function = getattr(importlib.import_module(module), name)
    exercise = find(exercise_id)
    space = {"borrowed": function, "library": importlib.import_module(module)}
    exec(
        "def by_name(*a): return borrowed(*a)\n"
        "def by_module(*a): return library.anything(*a)\n"
        f"def by_import(*a):\n    from {module} import {name} as other\n    return other(*a)\n"
        "def helper(*a): return borrowed(*a)\n"
        "def by_helper(*a): return helper(*a)\n"
        "def inside(*a): return (lambda *b: borrowed(*b))(*a)\n",
        space,
    )
    names = ("by_name", "by_module", "by_import", "by_helper", "inside")
    answers = [function, functools.partial(function), *(space[one] for one in names)]
    for answer in answers:
        verdict = assess(exercise, answer, [0])
        assert verdict.broken == OWN, verdict.message
        assert "llmcourse" in verdict.message


def test_a_library_function_reached_in_a_roundabout_way_is_seen_at_work():
    def hidden(q, k, v):
        module = importlib.import_module("llmcourse" + ".model.attention")
        try:
            return module.attend(q[None, None], k[None, None], v[None, None], causal=False)[0, 0]
        except BaseException:
            return v

    verdict = assess(find("1.3"), hidden, [0])
    assert verdict.broken == OWN
    assert "llmcourse.model.attention" in verdict.message


def test_the_graders_own_oracle_is_no_answer_either():
    exercise = find("1.3")
    assert assess(exercise, exercise.oracle, [0]).broken == OWN
    assert assess(exercise, lambda q, k, v: exercise.oracle(q, k, v), [0]).broken == OWN
    assert assess(exercise, exercise.alternatives[0], [0]).broken == OWN


@pytest.mark.parametrize("exercise_id", TORCH)
def test_torchs_one_call_equivalents_are_rejected(exercise_id):
    for answer in TORCH[exercise_id]:
        verdict = assess(find(exercise_id), answer, [0])
        assert verdict.broken == OWN, verdict.message


def test_imported_answers_are_rejected_by_name():
    for answer in (torch.softmax, torch.nn.functional.softmax, torch.nn.Softmax(dim=-1)):
        verdict = assess(find("1.2"), answer, [0])
        assert verdict.broken == OWN
        assert "torch" in verdict.message
        assert "softmax" in verdict.message.lower()


def test_a_reference_taken_beforehand_is_still_recognised():
    early = torch.softmax
    table = {"soft": torch.softmax}
    assert assess(find("1.2"), lambda x: early(x, -1), [0]).broken == OWN
    assert assess(find("1.2"), lambda x: table["soft"](x, -1), [0]).broken == OWN


def test_swallowing_the_refusal_does_not_help():
    def answer(x):
        try:
            return torch.softmax(x, -1)
        except Exception:
            powers = (x - x.max(-1, keepdim=True).values).exp()
            return powers / powers.sum(-1, keepdim=True)

    verdict = assess(find("1.2"), answer, [0])
    assert verdict.broken == OWN
    assert "torch.softmax" in verdict.message


def test_everything_works_again_after_the_guard():
    x = torch.randn(3)
    wanted = x.exp() / x.exp().sum()
    guard = Guard(find("1.2").forbidden)
    with guard.watch():
        with pytest.raises(ShortcutUsed):
            torch.softmax(x, -1)
        with pytest.raises(ShortcutUsed):
            x.softmax(-1)
    assert guard.used == "torch.softmax"
    for result in (torch.softmax(x, -1), x.softmax(-1), torch.nn.functional.softmax(x, dim=-1)):
        assert torch.allclose(result, wanted)
    assert "softmax" not in vars(torch.Tensor)


def test_a_function_of_ones_own_may_have_a_famous_name():
    def softmax(x):
        powers = torch.exp(x - x.max(-1, keepdim=True).values)
        return powers / powers.sum(-1, keepdim=True)

    def answer(x):
        return softmax(x)

    assert assess(find("1.2"), answer, range(5)).status == "passed"


def test_a_misspelt_forbidden_name_is_refused():
    with pytest.raises(ValueError, match="softmaxx"):
        resolve("torch.nn.functional.softmaxx")


def test_flash_attention_meets_the_keys_in_tiles():
    """3.13: a whole row or table of scores is refused however it is computed; tiles are not."""
    q, k, _, block = find("3.13").inputs(0, 5)
    tables = (
        lambda: q @ k.T,
        lambda: k @ q.T,
        lambda: torch.einsum("td,sd->ts", q * 0.5, k),
        lambda: (q[:, None] * k[None]).sum(-1),
        lambda: q[2] @ k.T,
        lambda: torch.cat([q @ k[:5].T, q @ k[5:].T], dim=1),
    )
    for table in tables:
        with pytest.raises(MemoryError, match="no room for all 11 keys"):
            table()
    assert (q @ k[:block].T).shape == (7, 3)
    with pytest.raises(ValueError, match="has an axis of length 7 already"):
        narrow(torch.zeros(7, 2), 7)


def test_experts_take_their_tokens_in_one_call():
    """5.11: an expert refuses more rows than chose it, and fewer; another counts for itself."""
    x, experts, _, _, run = find("5.11").inputs(0, 4)
    for e in range(len(run.counts)):
        mine = (experts == e).any(dim=1)
        assert run(e, x[mine]).shape == x[mine].shape
        for rows in (x, x[:0], x[mine][1:]):
            if len(rows) != int(mine.sum()):
                with pytest.raises(WrongRows, match="they come in one call"):
                    run(e, rows)


def test_the_chunked_loss_has_room_for_a_chunk():
    """4.13: more numbers at once than a chunk's logits are refused, in whatever shape."""
    hidden, weight, _, chunk = find("4.13").inputs(0, 5)
    tables = (
        lambda: hidden @ weight.T,
        lambda: weight @ hidden.T,
        lambda: torch.einsum("nc,vc->nv", hidden * 0.5, weight),
        lambda: (hidden[:, None] * weight).sum(-1),
        lambda: torch.cat([hidden[:4] @ weight.T, hidden[4:8] @ weight.T]),
        lambda: hidden.clone().requires_grad_() @ weight.T,
    )
    for table in tables:
        with pytest.raises(MemoryError, match="only for 32 numbers"):
            table()
    assert (hidden[:chunk] @ weight.T).shape == (4, 8)
    with pytest.raises(ValueError, match="has more than 5 numbers already"):
        bounded(torch.zeros(3, 2), 5)
