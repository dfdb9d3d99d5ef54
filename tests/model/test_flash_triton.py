"""The Triton kernels, run in Triton's interpreter and compiled for a GPU that need not be there.

The interpreter has to be switched on before Triton is imported, which other tests of the same
process may do first; so a second process holds it and works off what these tests send it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch

from llmcourse.model.flash_triton import triton_attention
from llmcourse.model.masks import Visibility, positions_in_documents, positions_of
from llmcourse.model.triton_launch import choose_launch, tile_lists

INTERPRETER = """
import os, pickle, sys
import torch
from llmcourse.model.flash_triton import triton_attention
from llmcourse.model.masks import Visibility

assert "triton" not in sys.modules, "importing the module must not import Triton"
torch.set_num_threads(1)
out = os.fdopen(os.dup(1), "wb")  # nothing printed by a library may come between the answers
os.dup2(2, 1)
while True:
    try:
        tensors, slope, rule, options = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        result = triton_attention(*tensors, Visibility(**rule), **options)
        answer = [result.detach()]
        if slope is not None:
            answer += torch.autograd.grad(result, [x for x in tensors if x.requires_grad], slope)
    except Exception as error:
        answer = error
    pickle.dump(answer, out)
    out.flush()
"""

COMPILER = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from llmcourse.model.flash_triton import _matrices, load_kernels
from llmcourse.model.masks import Visibility
from llmcourse.model.triton_launch import choose_launch, make_plan, make_rule


class Driver:  # says only what the compiler asks about the GPU
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 80, 32))


driver.set_active(Driver())
kernels, gpu = load_kernels(), torch.device("cuda")
import triton.language as tl

documents = torch.zeros(2, 64, dtype=torch.int64)
everything = {"window": 5, "sinks": 2, "q_documents": documents, "k_documents": documents}
for d, dtype, factor, softcap, rule in (
    (128, torch.bfloat16, tl.bfloat16, 30.0, everything),
    (48, torch.float32, tl.float32, None, {}),
):
    visibility = Visibility(64, 64, **rule)
    launch = choose_launch(64, 64, 128 if d > 64 else 64, dtype, gpu)
    q, kv = torch.zeros(2, 4, 64, d, dtype=dtype), torch.zeros(2, 2, 64, d, dtype=dtype)
    rule = make_rule(kernels, q, kv, kv, visibility, launch, 0.1, softcap)._replace(factor=factor)
    plan = make_plan(kernels, visibility, launch, q.device)
    line = torch.zeros(2, 4, 64)
    q, kv = _matrices(kernels, q, kv)
    places = (plan.q_places, plan.k_places)
    for name, arguments in {
        "forward": (q, kv, kv, q, line, *places, plan.for_queries, rule),
        "backward_keys": (q, kv, kv, q, line, line, kv, kv, *places, plan.for_keys, rule),
        "backward_queries": (q, kv, kv, q, line, line, q, *places, plan.for_queries, rule),
    }.items():
        made = getattr(kernels, name).warmup(
            *arguments, grid=(1, 1, 1), num_warps=launch.num_warps, num_stages=launch.num_stages
        )
        tensor_cores = "mma.sync" in made.asm["ptx"]
        print(name, str(dtype)[6:], made.metadata.shared, tensor_cores, len(made.asm["cubin"]))
"""


@pytest.fixture(scope="module")
def interpret():
    """triton_attention in a process where the interpreter is on: output, then gradients."""
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERPRETER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )

    def call(tensors, slope=None, rule=None, **options):
        pickle.dump((tensors, slope, rule, options), process.stdin)
        process.stdin.flush()
        answer = pickle.load(process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return answer

    yield call
    process.stdin.close()
    assert process.wait(timeout=30) == 0


def tensors(b, h, g, t, s, d, dv, dtype=torch.float64, seed=0):
    """q, k, v that want gradients, and a slope of the output."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((b, h, t, d), (b, g, s, d), (b, g, s, dv), (b, h, t, dv))
    made = [torch.randn(x, dtype=torch.float64, generator=generator).to(dtype) for x in shapes]
    return [x.requires_grad_() for x in made[:3]], made[3]


@pytest.fixture
def slopes_by_table(by_table):
    """Output and gradients with the whole table of scores, in float64."""

    def run(inputs, slope, visibility, scale, softcap=None):
        inputs = [x.detach().double().requires_grad_() for x in inputs]
        out = by_table(*inputs, visibility, scale, softcap)
        return [out.detach(), *torch.autograd.grad(out, inputs, slope.double())]

    return run


def assert_same(got, expected, tolerance):
    for name, one, other in zip(("out", "d_q", "d_k", "d_v"), got, expected):
        error = (one.double() - other).abs().max().item()
        assert error <= tolerance, f"{name}: {error:.1e}"


def ragged():
    """Three rows of 40 keys: full, padded on the left, padded on the right; the last 37 ask."""
    real = torch.ones(3, 40, dtype=torch.bool)
    real[1, :21] = False
    real[2, 30:] = False
    places = positions_of(real)
    return {"t": 37, "s": 40, "q_positions": places[:, 3:], "k_positions": places}


def packed():
    """Two rows of documents, numbered far apart, that do not end where tiles do."""
    lengths = ((7, 20, 13), (39, 1, 0))
    documents = torch.stack(
        [
            torch.repeat_interleave(torch.tensor([9, 2**40, -3]), torch.tensor(row))
            for row in lengths
        ]
    )
    places = positions_in_documents(documents)
    return {
        "t": 37,
        "s": 40,
        "q_positions": places[:, 3:],
        "k_positions": places,
        "q_documents": documents[:, 3:],
        "k_documents": documents,
    }


def rolling():
    """A rolling buffer: 21 slots in another order than the text, two empty, shared by all rows."""
    order = (torch.arange(21) * 8) % 21 + 30
    order[torch.tensor([4, 17])] = -1
    return {"t": 3, "s": 21, "q_positions": torch.tensor([48, 49, 50]), "k_positions": order}


@pytest.mark.parametrize(
    "shape, rule",
    [
        ((1, 1, 1, 1, 1, 1, 1), {}),
        ((2, 6, 2, 5, 13, 24, 16), {}),
        ((1, 2, 1, 37, 37, 5, 7), {}),
        ((1, 2, 2, 17, 50, 33, 4), {}),
        ((1, 2, 1, 19, 35, 8, 8), {"causal": False}),
        ((1, 1, 1, 35, 19, 8, 8), {"causal": False}),
        ((1, 2, 1, 53, 70, 8, 8), {"window": 3}),
        ((1, 2, 1, 70, 70, 8, 8), {"window": 3, "sinks": 2}),
        ((1, 1, 1, 1, 50, 8, 8), {"window": 40, "sinks": 17}),
    ],
)
def test_equals_the_table(interpret, shape, rule, slopes_by_table):
    inputs, slope = tensors(*shape)
    rule = {"t": shape[3], "s": shape[4], **rule}
    got = interpret(inputs, slope, rule, scale=0.3, tile=(16, 16))
    assert_same(got, slopes_by_table(inputs, slope, Visibility(**rule), 0.3), 1e-12)


@pytest.mark.parametrize("rule", [{}, {"window": 5, "sinks": 2}])
@pytest.mark.parametrize("layout", [ragged, packed, rolling])
def test_positions_and_documents(interpret, layout, rule, slopes_by_table):
    rule = {**layout(), **rule}
    b = len(rule["k_positions"]) if rule["k_positions"].ndim == 2 else 2
    inputs, slope = tensors(b, 2, 1, rule["t"], rule["s"], 6, 5)
    got = interpret(inputs, slope, rule, scale=0.4, tile=(16, 16))
    assert_same(got, slopes_by_table(inputs, slope, Visibility(**rule), 0.4), 1e-12)


def test_what_sees_nothing_gives_and_passes_back_zero(interpret):
    rule = ragged()
    inputs, slope = tensors(3, 2, 1, 37, 40, 4, 4)
    out, d_q, d_k, d_v = interpret(inputs, slope, rule, scale=0.5, tile=(16, 16))
    blind, unseen = rule["q_positions"] < 0, rule["k_positions"] < 0  # (B, T), (B, S)
    assert blind.sum() == 28 and unseen.sum() == 31
    for x, places in ((out, blind), (d_q, blind), (d_k, unseen), (d_v, unseen)):
        assert torch.count_nonzero(x.transpose(1, 2)[places]) == 0
        assert torch.count_nonzero(x.transpose(1, 2)[~places]) > 0


@pytest.mark.parametrize("softcap", [0.5, 20.0])
def test_softcap(interpret, softcap, slopes_by_table):
    inputs, slope = tensors(1, 4, 2, 17, 20, 24, 16)
    rule = {"t": 17, "s": 20, "window": 9}
    got = interpret(inputs, slope, rule, scale=1.0, softcap=softcap, tile=(16, 16))
    assert_same(got, slopes_by_table(inputs, slope, Visibility(**rule), 1.0, softcap), 1e-12)
    plain = slopes_by_table(inputs, slope, Visibility(**rule), 1.0)
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(got, plain))


@pytest.mark.parametrize("tile", [(16, 32), (32, 16), None])
def test_any_tile_gives_the_same(interpret, tile, slopes_by_table):
    inputs, slope = tensors(1, 2, 1, 50, 75, 8, 8)
    rule = {"t": 50, "s": 75, "window": 30}
    got = interpret(inputs, slope, rule, scale=0.3, tile=tile)
    assert_same(got, slopes_by_table(inputs, slope, Visibility(**rule), 0.3), 1e-12)


@pytest.mark.parametrize(
    "dtype, tolerance",
    [(torch.float32, 5e-6), (torch.bfloat16, 4e-2), (torch.float16, 5e-3)],
)
def test_dtypes(interpret, dtype, tolerance, slopes_by_table):
    inputs, slope = tensors(1, 2, 1, 20, 33, 24, 16, dtype)
    rule = {"t": 20, "s": 33}
    got = interpret(inputs, slope, rule, scale=24**-0.5, tile=(16, 16))
    assert all(x.dtype == dtype for x in got)
    assert_same(got, slopes_by_table(inputs, slope, Visibility(**rule), 24**-0.5), tolerance)


def test_large_scores_do_not_overflow(interpret):
    inputs, slope = tensors(1, 1, 1, 20, 33, 8, 8, torch.float32)
    rule = {"t": 20, "s": 33}
    out, *slopes = interpret(inputs, slope, rule, scale=500.0, tile=(16, 16))
    q, k, v = inputs
    scores = 500.0 * (q @ k.mT).double()
    expected = scores.masked_fill(~Visibility(20, 33).table(), -1e300).softmax(-1) @ v.double()
    assert (out.double() - expected).abs().max() < 2e-2  # scores of 1e4 are known to 1e-3
    assert all(x.isfinite().all() for x in slopes)


def test_views_and_a_slope_in_another_order(interpret, slopes_by_table):
    # As a model hands them over: heads cut from one projection, a slope laid out (B, T, H, Dv).
    x = torch.randn(2, 20, 3, 4, 8, dtype=torch.float64)  # (B, T, q k v, H, D)
    inputs = [part.detach().transpose(1, 2).requires_grad_() for part in x.unbind(2)]
    slope = torch.randn(2, 20, 4, 8, dtype=torch.float64).transpose(1, 2)
    rule = {"t": 20, "s": 20}
    got = interpret(inputs, slope, rule, scale=0.3, tile=(16, 16))
    expected = slopes_by_table(inputs, slope, Visibility(**rule), 0.3)
    assert_same(got, expected, 1e-12)
    columns = [torch.randn(1, 1, 6, 20, dtype=torch.float64).mT.requires_grad_() for _ in range(3)]
    slope = torch.randn(1, 1, 6, 20, dtype=torch.float64).mT
    got = interpret(columns, slope, rule, scale=0.3, tile=(16, 16))
    assert_same(got, slopes_by_table(columns, slope, Visibility(**rule), 0.3), 1e-12)


def test_some_gradients_or_none(interpret, slopes_by_table):
    (q, k, v), slope = tensors(1, 2, 1, 9, 20, 8, 8)
    rule = {"t": 9, "s": 20}
    expected = slopes_by_table((q, k, v), slope, Visibility(**rule), 0.3)
    out, d_k = interpret((q.detach(), k, v.detach()), slope, rule, scale=0.3)
    assert (d_k - expected[2]).abs().max() < 1e-12
    (out,) = interpret((q.detach(), k.detach(), v.detach()), None, rule, scale=0.3)
    assert (out - expected[0]).abs().max() < 1e-12


@pytest.mark.parametrize(
    "rule",
    [
        {"t": 64, "s": 64},
        {"t": 37, "s": 64},
        {"t": 64, "s": 50, "causal": False},
        rolling(),
        {"t": 90, "s": 100, "window": 20},
        {"t": 90, "s": 100, "window": 3, "sinks": 5},
        {"t": 1, "s": 100, "window": 16},
        ragged(),
        packed(),
        {**packed(), "window": 4},
    ],
)
def test_tile_lists_hold_every_visible_pair_and_little_else(rule):
    visibility = Visibility(**rule)
    need = tile_lists(visibility, 16, 16)  # (1 or B, query tiles, key tiles)
    t, s = rule["t"], rule["s"]
    table = visibility.table()
    table = torch.ones(1, 1, t, s, dtype=torch.bool) if table is None else table
    table = table[None] if table.ndim == 2 else table[:, 0]  # (1 or B, T, S)
    table = torch.nn.functional.pad(table, (0, -s % 16, 0, -t % 16))
    holds = table.unflatten(2, (-1, 16)).unflatten(1, (-1, 16)).any(dim=(2, 4))
    if "q_documents" in rule:  # several short documents in a tile: its bounds say too much
        assert need[holds].all() and not need.all()
    else:
        assert torch.equal(need, holds)


def test_tiles_of_a_long_text_cost_no_table():
    need = tile_lists(Visibility(100_000, 100_000, window=1000, sinks=4), 64, 64)
    assert need.shape == (1, 1563, 1563)
    # 64 queries see 1063 positions in a row, which touch 17 tiles, and the sinks' tile.
    assert (need[0, 20:].sum(-1) == 18).all()
    assert need[0, 20].nonzero().flatten().tolist() == [0, *range(4, 21)]


def test_launch_follows_width_and_dtype():
    gpu = torch.device("cuda")
    assert choose_launch(4096, 4096, 64, torch.bfloat16, gpu)[:2] == (64, 64)
    assert choose_launch(4096, 4096, 256, torch.bfloat16, gpu)[:2] == (32, 32)
    assert choose_launch(1, 4096, 64, torch.bfloat16, gpu)[:2] == (16, 64)
    assert choose_launch(4096, 4096, 256, torch.float64, gpu)[:2] == (16, 16)
    assert choose_launch(40, 4096, 64, torch.float32, torch.device("cpu"))[:2] == (64, 128)


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path):
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    off = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILER], env=os.environ | off, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 6
    for name, dtype, shared, tensor_cores, size in lines:
        assert int(shared) <= 99 * 1024, f"{name} {dtype}: more than a common GPU has"
        assert tensor_cores == str(dtype == "bfloat16")  # float32 is not rounded to fit them
        assert int(size) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that Triton knows")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 5e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("rule", [{"t": 200, "s": 333, "window": 70, "sinks": 3}, packed()])
def test_on_a_gpu(rule, dtype, tolerance, slopes_by_table):
    inputs, slope = tensors(2, 4, 2, rule["t"], rule["s"], 48, 64, dtype)
    there = [x.detach().cuda().requires_grad_() for x in inputs]
    out = triton_attention(*there, Visibility(**rule), scale=0.2, softcap=20.0)
    got = [out.detach(), *torch.autograd.grad(out, there, slope.cuda())]
    expected = slopes_by_table(inputs, slope, Visibility(**rule), 0.2, 20.0)
    assert_same([x.cpu() for x in got], expected, tolerance)


def test_refuses_a_cpu_outside_the_interpreter(monkeypatch):
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    monkeypatch.setattr("llmcourse.model.flash_triton.interpreted", lambda kernels: False)
    (q, k, v), _ = tensors(1, 2, 1, 5, 5, 8, 8)
    with pytest.raises(ValueError, match=r'on the CPU; use "flash".*TRITON_INTERPRET=1'):
        triton_attention(q, k, v, Visibility(5, 5), scale=0.3)


def test_without_triton_the_other_implementations_are_named(monkeypatch):
    import llmcourse.model

    monkeypatch.setitem(sys.modules, "triton", None)  # importing it now fails
    monkeypatch.delitem(sys.modules, "llmcourse.model.triton_kernels", raising=False)
    monkeypatch.delattr(llmcourse.model, "triton_kernels", raising=False)
    (q, k, v), _ = tensors(1, 2, 1, 5, 5, 8, 8)
    with pytest.raises(ImportError, match=r'llmcourse\[triton\].*"flash", "sdpa", "flex"'):
        triton_attention(q, k, v, Visibility(5, 5), scale=0.3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"q": (2, 4, 3)}, "must be .batch, heads, time, width."),
        ({"k": (2, 2, 5, 7)}, "batch and width of q"),
        ({"k": (2, 3, 5, 8), "v": (2, 3, 5, 8)}, "4 query heads cannot share 3"),
        ({"k": (2, 2, 0, 8), "v": (2, 2, 0, 8)}, "at least one entry"),
        ({"visibility": Visibility(4, 5)}, "for 4 queries and 5 keys, q and k have 3 and 5"),
        (
            {"visibility": Visibility(3, 5, q_positions=torch.zeros(1, 3, dtype=torch.int64))},
            "q_positions has 1 rows for a batch of 2",
        ),
        ({"q": (2, 4, 3, 257), "k": (2, 2, 5, 257)}, "width 257 and values of 8 .* at most 256"),
        ({"v": (2, 2, 5, 300)}, "width 8 and values of 300 .* at most 256"),
        ({"dtype": torch.int32}, "one float dtype"),
        ({"dtype": torch.float8_e4m3fn}, "float16, got torch.float8_e4m3fn"),
        ({"softcap": -1.0}, "softcap=-1.0 must be above 0"),
        ({"tile": (16, 24)}, "two powers of two, each at least 16"),
        ({"tile": (8, 16)}, "two powers of two, each at least 16"),
    ],
)
def test_bad_input(change, message):
    shapes = {"q": (2, 4, 3, 8), "k": (2, 2, 5, 8), "v": (2, 2, 5, 8)} | change
    dtype = change.get("dtype", torch.float32)
    q, k, v = (torch.zeros(shapes[name]).to(dtype) for name in "qkv")
    options = {name: change[name] for name in ("softcap", "tile") if name in change}
    with pytest.raises(ValueError, match=message):
        triton_attention(q, k, v, change.get("visibility", Visibility(3, 5)), scale=0.3, **options)
