"""The chunked loss against the plain way: loss, gradients, memory."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data.batches import Batch
from llmcourse.train import TrainConfig, cross_entropy, next_token_loss, train
from llmcourse.train.chunked_loss import chunked_cross_entropy, chunked_next_token_loss


def make(shape, vocab_size, ignored=0.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)
    weight = torch.randn(vocab_size, shape[-1], dtype=torch.float64, generator=generator).to(dtype)
    targets = torch.randint(vocab_size, shape[:-1], generator=generator)
    skip = torch.rand(shape[:-1], generator=generator) < ignored
    skip.view(-1)[0] = False
    return hidden.requires_grad_(), weight.requires_grad_(), targets.masked_fill(skip, -100)


def plain(hidden, weight, targets, softcap=None, z_loss=0.0, reduction="mean", ignore_index=-100):
    """All the logits at once, and everything else by autograd."""
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    loss = cross_entropy(logits, targets, ignore_index, reduction)
    counts = targets != ignore_index
    z = (counts * torch.logsumexp(logits, -1).square()).sum()
    return loss + z_loss * (z / counts.sum() if reduction == "mean" else z)


def compare(hidden, weight, targets, chunk_tokens, atol=1e-12, **options):
    ours = chunked_cross_entropy(hidden, weight, targets, chunk_tokens=chunk_tokens, **options)
    wanted = plain(hidden, weight, targets, **options)
    assert ours.dtype == wanted.dtype and ours.shape == ()
    torch.testing.assert_close(ours, wanted, rtol=1e-13, atol=atol)
    for a, b in zip(
        torch.autograd.grad(ours * 3, (hidden, weight)),
        torch.autograd.grad(wanted * 3, (hidden, weight)),
    ):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    time=st.integers(1, 9),
    width=st.integers(1, 6),
    vocab_size=st.integers(1, 40),
    ignored=st.sampled_from([0.0, 0.5, 1.0]),
    chunk_tokens=st.integers(1, 30),
    softcap=st.sampled_from([None, 0.7, 30.0]),
    z_loss=st.sampled_from([0.0, 1e-4, 0.3]),
    reduction=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 99),
)
def test_equals_the_plain_way(
    batch, time, width, vocab_size, ignored, chunk_tokens, softcap, z_loss, reduction, seed
):
    tensors = make((batch, time, width), vocab_size, ignored, seed=seed)
    options = {"softcap": softcap, "z_loss": z_loss, "reduction": reduction}
    compare(*tensors, chunk_tokens, **options)


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 4, 5)])
def test_any_leading_dimensions(shape):
    compare(*make(shape, 11), 4)


def test_hidden_states_that_are_a_view():
    hidden, weight, targets = make((4, 6, 5), 9)
    compare(hidden.transpose(0, 1), weight, targets.T, 5)


def test_another_ignore_index_and_int32_targets():
    hidden, weight, targets = make((2, 8, 4), 6)
    compare(hidden, weight, targets.int(), 3, ignore_index=int(targets[0, 1]))


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"z_loss": 0.1}])
def test_gradcheck(options):
    hidden, weight, targets = make((2, 3, 4), 5, ignored=0.3)
    assert torch.autograd.gradcheck(
        lambda h, w: chunked_cross_entropy(h, w, targets, chunk_tokens=2, **options),
        (hidden, weight),
    )


def test_ignored_tokens_get_no_gradient_whatever_they_hold():
    hidden, weight, targets = make((2, 6, 4), 7, ignored=0.5)
    with torch.no_grad():
        hidden[targets == -100] = math.nan
    loss = chunked_cross_entropy(hidden, weight, targets, chunk_tokens=3)
    slope, d_weight = torch.autograd.grad(loss, (hidden, weight))
    assert math.isfinite(loss.item()) and d_weight.isfinite().all()
    assert (slope[targets == -100] == 0).all() and (slope[targets != -100] != 0).all()


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
    loss = chunked_cross_entropy(hidden, torch.eye(2), torch.tensor([1, 0]), reduction="sum")
    assert loss.item() == 2e4
    [slope] = torch.autograd.grad(loss, hidden)
    assert torch.equal(slope, torch.tensor([[1.0, -1.0], [0.0, 0.0]]))


def test_the_graph_can_be_walked_twice_but_not_differentiated():
    hidden, weight, targets = make((1, 4, 3), 5)
    loss = chunked_cross_entropy(hidden, weight, targets)
    once = torch.autograd.grad(loss, weight, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(loss, weight, retain_graph=True)[0], once)
    [slope] = torch.autograd.grad(loss.square(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both", "no_grad"])
def test_what_needs_no_gradient_gets_none_and_costs_none(frozen):
    hidden, weight, targets = make((2, 5, 4), 6)
    wanted = chunked_cross_entropy(hidden, weight, targets)
    slopes = torch.autograd.grad(wanted, (hidden, weight))
    hidden.requires_grad_(frozen in ("weight", "no_grad"))
    weight.requires_grad_(frozen in ("hidden", "no_grad"))
    sizes = []
    with (
        torch.set_grad_enabled(frozen != "no_grad"),
        torch.profiler.profile() as profile,
        torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.shape) or x, lambda x: x),
    ):
        loss = chunked_cross_entropy(hidden, weight, targets)
    assert torch.equal(loss, wanted)
    products = sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm_"))
    assert products == (2 if frozen in ("hidden", "weight") else 1)
    if frozen == "hidden":
        assert torch.equal(torch.autograd.grad(loss, weight)[0], slopes[1])
        assert weight.shape in sizes and hidden.flatten(0, 1).shape not in sizes
    elif frozen == "weight":
        assert torch.equal(torch.autograd.grad(loss, hidden)[0], slopes[0])
        assert hidden.flatten(0, 1).shape in sizes and weight.shape not in sizes
    else:
        assert not loss.requires_grad and sizes == []


def test_the_sum_over_nothing_is_zero():
    hidden, weight, targets = make((1, 3, 2), 4)
    loss = chunked_cross_entropy(hidden, weight, targets.fill_(-100), reduction="sum")
    assert loss.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (hidden, weight)))


class TestHalfPrecision:
    @pytest.mark.parametrize("softcap", [None, 5.0])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("hidden_dtype", ["float32", "half"])
    def test_autocast_is_as_near_to_the_truth_as_the_plain_way(self, dtype, hidden_dtype, softcap):
        hidden, weight, targets = make((3, 40, 32), 300, ignored=0.2, dtype=torch.float32)
        hidden = hidden.detach() if hidden_dtype == "float32" else hidden.detach().to(dtype)
        hidden.requires_grad_()
        exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
        truth = plain(*exact, targets, softcap)
        slopes = torch.autograd.grad(truth, exact)
        with torch.autocast("cpu", dtype):
            ours = chunked_cross_entropy(hidden, weight, targets, softcap=softcap, chunk_tokens=25)
            theirs = plain(hidden, weight, targets, softcap)
        assert ours.dtype == torch.float32

        def errors(loss):
            found = torch.autograd.grad(loss, (hidden, weight))
            assert [g.dtype for g in found] == [hidden.dtype, weight.dtype]
            parts = [(g.double() - s).norm() / s.norm() for g, s in zip(found, slopes)]
            return [abs(loss.item() - truth.item()), *map(float, parts)]

        mine, others = errors(ours), errors(theirs)
        step = torch.finfo(dtype).eps
        assert mine[0] < 2 * step and max(mine[1:]) < 2 * step
        for a, b in zip(mine[1:], others[1:]):
            assert a < 1.2 * b

    def test_float16_keeps_gradients_too_small_for_it(self):
        # 4,000 unlikely tokens, each with a probability below the least number of float16.
        hidden = torch.tensor([[1.0]], requires_grad=True)
        weight = torch.full((4001, 1), -18.0)
        weight[0] = 0.0
        weight.requires_grad_()
        with torch.autocast("cpu", torch.float16):
            loss = chunked_cross_entropy(hidden, weight, torch.tensor([0]))
        [slope] = torch.autograd.grad(loss, weight)
        p = math.exp(-18) / (1 + 4000 * math.exp(-18))
        assert p < torch.finfo(torch.float16).smallest_normal / 2**10 / 3
        assert slope[1:].flatten().tolist() == pytest.approx([p] * 4000, rel=1e-5)

    def test_bfloat16_without_autocast(self):
        hidden, weight, targets = make((2, 30, 16), 200, dtype=torch.bfloat16)
        loss = chunked_cross_entropy(hidden, weight, targets, chunk_tokens=16)
        wanted = plain(hidden, weight, targets)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
        for a, b in zip(
            torch.autograd.grad(loss, (hidden, weight)),
            torch.autograd.grad(wanted, (hidden, weight)),
        ):
            assert a.dtype == torch.bfloat16
            assert (a - b).norm() < 0.01 * b.norm()


class TestLossOfAModel:
    def batch(self, vocab_size=31):
        tokens = torch.randint(vocab_size, (3, 13))
        targets = tokens[:, 1:].clone()
        targets[0, 7:] = -100
        return Batch(tokens[:, :-1], targets)

    @pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"logit_softcap": 0.5}])
    def test_equals_the_plain_loss_gradients_included(self, make_model, changes):
        model, batch = make_model(**changes).double(), self.batch()
        wanted = next_token_loss(model, batch)
        slopes = torch.autograd.grad(wanted, list(model.parameters()))
        loss = chunked_next_token_loss(model, batch)
        torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
        for a, b in zip(torch.autograd.grad(loss, list(model.parameters())), slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_trains_along_the_same_losses(self, make_model, precision):
        batches = [self.batch()] * 8
        config = TrainConfig(steps=8, learning_rate=1e-2, warmup_steps=2, precision=precision)
        losses = [
            train(make_model(), batches, config, loss=loss, progress=False).losses
            for loss in (next_token_loss, chunked_next_token_loss)
        ]
        assert losses[0][-1] < losses[0][0] - 0.1
        tolerance = 1e-4 if precision == "float32" else 0.02
        assert losses[1] == pytest.approx(losses[0], abs=tolerance)


def saved_bytes(loss_of):
    """Bytes of the distinct tensors that wait for the backward pass."""
    found = {}

    def note(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss_of()
    return sum(found.values())


def peak_bytes(work):
    """The most that was held at one moment, beyond what was there before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    level = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def test_what_is_kept_and_what_is_held_at_the_peak():
    hidden, weight, targets = make((4, 256, 16), 4000, dtype=torch.float32)
    logits = 4 * 256 * 4000 * 4
    inputs = hidden.nbytes + weight.nbytes

    def chunked():
        return chunked_cross_entropy(hidden, weight, targets, chunk_tokens=64)

    def all_at_once():
        return plain(hidden, weight, targets)

    assert saved_bytes(all_at_once) > logits
    assert inputs <= saved_bytes(chunked) < inputs + 1000
    # The logits of one chunk, gradients saved and returned, and small change.
    assert peak_bytes(lambda: chunked().backward()) < logits / 16 + 2 * inputs + 300_000
    assert peak_bytes(lambda: all_at_once().backward()) > 2 * logits


MEASURE = """
import sys, torch
from llmcourse.train import cross_entropy
from llmcourse.train.chunked_loss import chunked_cross_entropy

def level(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024

def work(n, chunk):
    hidden = torch.randn(1, n, 64, requires_grad=True)
    weight = torch.randn(16000, 64, requires_grad=True)
    targets = torch.randint(16000, (1, n))
    if chunk:
        loss = chunked_cross_entropy(hidden, weight, targets, chunk_tokens=chunk)
    else:
        loss = cross_entropy(hidden @ weight.T, targets)
    loss.backward()

chunk = int(sys.argv[1])
work(8, chunk)  # whatever the first use of everything takes
before = level("VmRSS")
work(2048, chunk)
print(level("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which is Linux's")
def test_peak_memory_of_a_fresh_process():
    peaks = {}
    for chunk in (0, 128):
        out = subprocess.run(
            [sys.executable, "-c", MEASURE, str(chunk)],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        peaks[chunk] = int(out.stdout)
    logits = 2048 * 16000 * 4
    assert peaks[0] > 1.8 * logits
    assert peaks[128] < 0.4 * logits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": torch.zeros(2, 4).long()}, r"must agree, got \(1, 2, 3\) and \(2, 4\)"),
        ({"targets": torch.zeros(2).long()}, r"must agree, got \(1, 2, 3\) and \(2,\)"),
        ({"targets": torch.tensor([[1, 5]])}, r"target 5 is neither in \[0, 5\) nor ignore_index"),
        ({"targets": torch.tensor([[-1, 2]])}, r"target -1 is neither in \[0, 5\)"),
        ({"targets": torch.tensor([[-100, -100]])}, "every target is ignored, so there is no loss"),
        ({"targets": torch.tensor([[1.0, 2.0]])}, "targets must be whole numbers, got torch.flo"),
        ({"targets": torch.tensor([[True, False]])}, "targets must be whole numbers, got torch.bo"),
        ({"targets": torch.zeros(1, 2, device="meta").long()}, "on cpu and targets on meta"),
        ({"weight": torch.zeros(5, 4)}, r"weight \(V, C\) must agree, got \(1, 2, 3\) and \(5, 4"),
        ({"weight": torch.zeros(3)}, r"weight \(V, C\) must agree, got \(1, 2, 3\) and \(3,\)"),
        ({"weight": torch.zeros(5, 3, device="meta")}, "hidden is on cpu and weight on meta"),
        ({"weight": torch.zeros(5, 3).double()}, "got torch.float32 and torch.float64"),
        ({"hidden": torch.zeros(1, 2, 3).long()}, "one float dtype.*got torch.int64"),
        ({"softcap": 0.0}, "softcap=0.0 must be a number above 0"),
        ({"softcap": math.nan}, "softcap=nan must be a number above 0"),
        ({"z_loss": -1.0}, "z_loss=-1.0 must be a number of at least 0"),
        ({"chunk_tokens": 0}, "chunk_tokens=0 must be at least 1"),
        ({"reduction": "none"}, "reduction='none' is unknown; choose 'mean' or 'sum'"),
    ],
)
def test_bad_input_is_named(changes, message):
    good = {
        "hidden": torch.zeros(1, 2, 3),
        "weight": torch.zeros(5, 3),
        "targets": torch.tensor([[0, 4]]),
    }
    chunked_cross_entropy(**good)
    with pytest.raises(ValueError, match=message):
        chunked_cross_entropy(**good | changes)
