"""Exercise 5.3 Total and active parameters, and FLOPs."""

from __future__ import annotations

import torch

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[int, int, int]


def _counts_inputs(draw: Draw, size: int) -> Arguments:
    # layers, of them dense, C, F of a dense layer, F of an expert, E, K, shared
    return [
        (1, 0, 2, 5, 3, 2, 1, 0),
        (1, 0, 2, 9, 3, 4, 2, 1),
        (3, 1, 4, 10, 3, 4, 2, 1),
        (draw.integer(3, 6), 2, 8, 30, 6, 8, 3, 2),
        (draw.integer(7, 12), 1, 64, draw.integer(200, 300), 48, 16, 4, 1),
        (draw.integer(12, 20), 3, 1024, 4096, draw.integer(300, 900), 32, 6, 2),
    ][size]


def _counts_oracle(
    n_layers: int,
    n_dense: int,
    d_model: int,
    d_ff: int,
    d_expert: int,
    n_experts: int,
    k: int,
    n_shared: int,
) -> Result:
    total = active = flops = 0
    x = torch.empty(1, d_model, device="meta")  # one token; shapes without memory
    for layer in range(n_layers):
        if layer < n_dense:
            networks, router = [(d_ff, True)], 0
        else:
            networks = [(d_expert, number < k) for number in range(n_experts)]
            networks += [(d_expert, True)] * n_shared
            router = n_experts
        matrices = [(torch.empty(router, d_model, device="meta"), True)] if router else []
        for width, used in networks:
            matrices += [(torch.empty(width, d_model, device="meta"), used)] * 2
            matrices += [(torch.empty(d_model, width, device="meta"), used)]
        for matrix, used in matrices:
            total += matrix.numel()
            if used:
                active += matrix.numel()
                out = x.new_empty(1, matrix.shape[1]) @ matrix.T
                flops += 2 * out.numel() * matrix.shape[1]  # a product and a sum each
    return total, active, flops


def _count(
    n_layers: int,
    n_dense: int,
    d_model: int,
    d_ff: int,
    d_expert: int,
    n_experts: int,
    k: int,
    n_shared: int,
    *,
    matrices: int = 3,
    router: int | None = None,
    active_router: int | None = None,
    shared_total: int | None = None,
    flops_each: int = 2,
) -> Result:
    router = n_experts * d_model if router is None else router
    active_router = router if active_router is None else active_router
    shared_total = n_shared if shared_total is None else shared_total
    expert, dense = matrices * d_model * d_expert, matrices * d_model * d_ff
    sparse = n_layers - n_dense
    total = n_dense * dense + sparse * ((n_experts + shared_total) * expert + router)
    active = n_dense * dense + sparse * ((k + n_shared) * expert + active_router)
    return total, active, flops_each * active


def _counts_two_matrices(*arguments: int) -> Result:
    return _count(*arguments, matrices=2)


def _counts_no_router(*arguments: int) -> Result:
    return _count(*arguments, router=0)


def _counts_router_of_k(*arguments: int) -> Result:
    d_model, k = arguments[2], arguments[6]
    return _count(*arguments, active_router=k * d_model)


def _counts_router_inactive(*arguments: int) -> Result:
    return _count(*arguments, active_router=0)


def _counts_no_shared(*arguments: int) -> Result:
    return _count(*arguments[:-1], 0)


def _counts_shared_among_the_chosen(*arguments: int) -> Result:
    total = _count(*arguments)[0]
    return (total, *_count(*arguments[:-1], 0)[1:])


def _counts_shared_among_all(*arguments: int) -> Result:
    return _count(*arguments, shared_total=0)


def _counts_all_active(*arguments: int) -> Result:
    total = _count(*arguments)[0]
    return total, total, 2 * total


def _counts_proportional(*arguments: int) -> Result:
    *_, n_experts, k, _ = arguments
    total = _count(*arguments)[0]
    active = total * k // n_experts
    return total, active, 2 * active


def _counts_all_sparse(*arguments: int) -> Result:
    return _count(arguments[0], 0, *arguments[2:])


def _counts_dense_left_out(*arguments: int) -> Result:
    return _count(arguments[0] - arguments[1], 0, *arguments[2:])


def _counts_dense_besides(*arguments: int) -> Result:
    return _count(arguments[0] + arguments[1], *arguments[1:])


def _counts_one_flop(*arguments: int) -> Result:
    return _count(*arguments, flops_each=1)


def _counts_six_flops(*arguments: int) -> Result:
    return _count(*arguments, flops_each=6)


def _counts_flops_of_all(*arguments: int) -> Result:
    total, active, _ = _count(*arguments)
    return total, active, 2 * total


def _counts_wide_experts(*arguments: int) -> Result:
    return _count(*arguments[:4], arguments[3], *arguments[5:])


def _counts_one_layer(*arguments: int) -> Result:
    return _count(1, 0, *arguments[2:])


def _counts_layer_by_layer(
    n_layers: int,
    n_dense: int,
    d_model: int,
    d_ff: int,
    d_expert: int,
    n_experts: int,
    k: int,
    n_shared: int,
) -> Result:
    def network(width: int) -> int:
        return 2 * width * d_model + d_model * width

    idle = sum((n_experts - k) * network(d_expert) for _ in range(n_dense, n_layers))
    total = 0
    for layer in range(n_layers):
        if layer < n_dense:
            total += network(d_ff)
        else:
            total += n_experts * (network(d_expert) + d_model) + network(n_shared * d_expert)
    return total, total - idle, (total - idle) * 2


def _idle_experts_cost_memory_only(got: Result, arguments: Arguments, call: Answer) -> str | None:
    n_layers, n_dense, d_model, d_ff, d_expert, n_experts, k, n_shared = arguments
    more = call(n_layers, n_dense, d_model, d_ff, d_expert, n_experts + 1, k, n_shared)
    rows = (n_layers - n_dense) * d_model
    if more[1] - got[1] != rows:
        return (
            f"one expert more in each sparse layer must add {rows} active parameters, its rows of "
            f"the routers; it added {more[1] - got[1]}"
        )
    return None


COUNTS = Exercise(
    id="5.3",
    title="total and active parameters",
    name="count_parameters",
    signature=(
        "count_parameters(n_layers: int, n_dense: int, d_model: int, d_ff: int, d_expert: int, "
        "n_experts: int, k: int, n_shared: int) -> tuple[int, int, int]"
    ),
    taught="Part 5, two bills",
    difficulty=2,
    minutes=15,
    make_inputs=_counts_inputs,
    oracle=_counts_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="total parameters, active parameters, and FLOPs of the forward pass of one token",
    properties=(
        Property("an expert that is not chosen costs memory only", _idle_experts_cost_memory_only),
    ),
    wrong_answers=(
        WrongAnswer(
            "two matrices",
            _counts_two_matrices,
            "Each network is counted with two matrices. A gated one has three: gate, up and down.",
        ),
        WrongAnswer(
            "router left out",
            _counts_no_router,
            "The routers are missing: E rows of C numbers in each sparse layer, which every token "
            "meets.",
        ),
        WrongAnswer(
            "router of k rows",
            _counts_router_of_k,
            "Only k rows of the router are counted as active. To choose the k best a token needs "
            "the logits of all E experts.",
        ),
        WrongAnswer(
            "router inactive",
            _counts_router_inactive,
            "The router is not counted as active. Every token goes through all of it.",
        ),
        WrongAnswer(
            "shared left out",
            _counts_no_shared,
            "The shared experts are missing. They come on top of the n_experts, in both counts.",
        ),
        WrongAnswer(
            "shared among the chosen",
            _counts_shared_among_the_chosen,
            "Only k experts are counted as active, shared ones among them or left out. A token "
            "takes k that it chooses and all the shared ones besides.",
        ),
        WrongAnswer(
            "shared among all",
            _counts_shared_among_all,
            "The shared experts are not in the total: they come on top of the n_experts to choose "
            "among.",
        ),
        WrongAnswer(
            "all active",
            _counts_all_active,
            "All parameters are counted as active. Of the n_experts a token uses k.",
        ),
        WrongAnswer(
            "k / E of everything",
            _counts_proportional,
            "The active share is taken to be k / E of everything. Only the experts to choose among "
            "shrink so; routers, shared experts and dense layers are used in full.",
        ),
        WrongAnswer(
            "all layers sparse",
            _counts_all_sparse,
            "All layers are counted as sparse. The first n_dense have one network of width d_ff.",
        ),
        WrongAnswer(
            "dense layers left out",
            _counts_dense_left_out,
            "The dense layers are missing: n_dense networks of width d_ff, in both counts.",
        ),
        WrongAnswer(
            "dense layers besides",
            _counts_dense_besides,
            "The dense layers are counted on top of n_layers. They are the first of them, so "
            "n_layers - n_dense are sparse.",
        ),
        WrongAnswer(
            "one FLOP",
            _counts_one_flop,
            "The parameters are right. Each active weight costs two FLOPs, a product and a sum.",
        ),
        WrongAnswer(
            "six FLOPs",
            _counts_six_flops,
            "The FLOPs are those of training, 6 for each active weight. The forward pass alone "
            "takes 2.",
        ),
        WrongAnswer(
            "FLOPs of all",
            _counts_flops_of_all,
            "The FLOPs are counted for all experts. Only active weights are multiplied with: that "
            "is the whole point.",
        ),
        WrongAnswer(
            "experts as wide as dense layers",
            _counts_wide_experts,
            "The experts are counted with the width d_ff of the dense layers. Theirs is d_expert.",
        ),
        WrongAnswer(
            "one layer",
            _counts_one_layer,
            "This is one sparse layer. Every sparse layer has experts and a router of its own.",
        ),
    ),
    alternatives=(_counts_layer_by_layer,),
    examples=((32, 0, 4_096, 14_336, 14_336, 8, 2, 0),),
)
