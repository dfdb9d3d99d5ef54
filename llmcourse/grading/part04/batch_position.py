"""Exercise 4.10 The batch of any step, for a run that resumes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw, rolled
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Order = Callable[[int], Tensor]


def _batch_inputs(draw: Draw, size: int) -> Arguments:
    # For each size: step, items, items in a batch
    step, n, batch_size = [
        (0, 6, 2),
        (draw.integer(3, 5), 8, 3),  # the second epoch or the third; two are left out in each
        (2, 5, 2),  # the first batch of the second epoch
        (draw.integer(5, 7), 12, 3),
        (8 + 11 * draw.integer(3, 5), 11, 4),  # its items, counted through, span two epochs
        (draw.integer(900, 999), 29, 6),
    ][size]
    return step, n, batch_size, draw.orders(n)


def _batch_oracle(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    # Like the run that never stopped: every batch from the first one on.
    epoch, made = 0, 0
    while True:
        items = order(epoch).tolist()
        while len(items) >= batch_size:
            batch, items = items[:batch_size], items[batch_size:]
            if made == step:
                return torch.tensor(batch)
            made += 1
        epoch += 1


def _slice(items: Tensor, place: int, batch_size: int) -> Tensor:
    return items[place * batch_size : (place + 1) * batch_size]


def _batch_same_order(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    return _slice(order(0), step % (n // batch_size), batch_size)


def _batch_not_shuffled(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    return _slice(torch.arange(n), step % (n // batch_size), batch_size)


def _batch_new_order_each_step(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    return _slice(order(step), step % (n // batch_size), batch_size)


def _batch_restarts(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    return _slice(order(step // (n // batch_size)), 0, batch_size)


def _batch_one_late(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    return _batch_by_divmod(step + 1, n, batch_size, order)


def _batch_one_early(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    return _batch_by_divmod(max(0, step - 1), n, batch_size, order)


def _batch_epoch_from_one(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    each = n // batch_size
    return _slice(order(step // each + 1), step % each, batch_size)


def _batch_nothing_dropped(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    each = -(-n // batch_size)
    return _slice(order(step // each), step % each, batch_size)


def _batch_across_epochs(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    places = range(step * batch_size, (step + 1) * batch_size)
    return torch.stack([order(place // n)[place % n] for place in places])


def _batch_cut_short(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    epoch, start = divmod(step * batch_size, n)
    return order(epoch)[start : start + batch_size]


def _batch_one_order_for_it(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    epoch, start = divmod(step * batch_size, n)
    return order(epoch).roll(-start)[:batch_size]


def _batch_epoch_of_items(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    return _slice(order(step // n), step % (n // batch_size), batch_size)


def _batch_places(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    each = n // batch_size
    places = torch.arange(n)[order(step // each).argsort()]
    return _slice(places, step % each, batch_size)


def _batch_strided(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    each = n // batch_size
    return order(step // each)[step % each :: each][:batch_size]


def _batch_overlapping(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    each = n // batch_size
    start = step % each
    return order(step // each)[start : start + batch_size]


def _batch_by_divmod(step: int, n: int, batch_size: int, order: Order) -> Tensor:
    # All batches of the epoch as rows; the step picks one.
    each = n // batch_size
    epoch, row = divmod(step, each)
    return order(epoch)[: each * batch_size].reshape(each, batch_size)[row].clone()


def _whole_batch(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    batch_size = arguments[2]
    if len(set(got.tolist())) < batch_size:
        return f"a batch holds {batch_size} different items, this one {sorted(got.tolist())}"
    return None


def _epoch_has_all_once(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    _, n, batch_size, order = arguments
    each = n // batch_size
    for epoch in (0, 1):
        seen = [
            item
            for step in range(epoch * each, (epoch + 1) * each)
            for item in call(step, n, batch_size, order).tolist()
        ]
        if len(set(seen)) < len(seen):
            return (
                f"steps {epoch * each} to {(epoch + 1) * each - 1} are one epoch, and an item "
                f"comes twice in it: {seen}"
            )
        if seen != order(epoch)[: len(seen)].tolist():
            return (
                f"the batches of epoch {epoch}, one after the other, are not its order from the "
                f"beginning: {seen}"
            )
    return None


BATCH_POSITION = Exercise(
    id="4.10",
    title="the batch of any step",
    name="batch_at",
    signature="batch_at(step: int, n: int, batch_size: int, order) -> Tensor",
    taught="Part 4, checkpoint and resume",
    difficulty=3,
    minutes=15,
    make_inputs=_batch_inputs,
    oracle=_batch_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="batch number step of the run that never stopped",
    properties=(
        Property("a batch is whole", _whole_batch),
        Property("an epoch goes through its own order", _epoch_has_all_once),
    ),
    wrong_answers=(
        WrongAnswer(
            "the same order in every epoch",
            _batch_same_order,
            "Every epoch has the order of epoch 0. Each has one of its own: order(epoch).",
        ),
        WrongAnswer(
            "not shuffled",
            _batch_not_shuffled,
            "The items come in their plain order: what order(epoch) says is not used.",
        ),
        WrongAnswer(
            "a new order at every step",
            _batch_new_order_each_step,
            "order() is called with the step. It takes the epoch, or every batch comes from "
            "another shuffle and items come twice.",
        ),
        WrongAnswer(
            "the epoch starts over",
            _batch_restarts,
            "Resuming starts the epoch over: this is its first batch, whatever the step. The data "
            "position is part of what a checkpoint must bring back.",
        ),
        WrongAnswer(
            "one batch late",
            _batch_one_late,
            "This is the batch of the next step: one batch would be left out at every resume. "
            "Steps count from 0.",
        ),
        WrongAnswer(
            "one batch early",
            _batch_one_early,
            "This is the batch of the step before: one batch would be trained on twice at every "
            "resume. Steps count from 0.",
        ),
        WrongAnswer(
            "epochs from 1",
            _batch_epoch_from_one,
            "The order is that of the next epoch. Epochs count from 0: step // batches per epoch.",
        ),
        WrongAnswer(
            "nothing dropped",
            _batch_nothing_dropped,
            "The rest of an epoch counts as a batch, a smaller one, and later batches come too "
            "late. It is left out: n // batch_size batches an epoch.",
        ),
        WrongAnswer(
            "across epochs",
            _batch_across_epochs,
            "The rest of one epoch is put together with the beginning of the next. It is left out, "
            "and every epoch starts with a fresh batch.",
        ),
        WrongAnswer(
            "cut off by the end of an epoch",
            _batch_cut_short,
            "Counted in items, a batch may begin anywhere in an epoch, and one that meets its end "
            "comes back short. Count in steps: every epoch has n // batch_size whole batches.",
        ),
        WrongAnswer(
            "round and round one order",
            _batch_one_order_for_it,
            "The batch goes round the end of one order, so items come a second time, and no rest "
            "is left out. Each epoch has n // batch_size whole batches.",
        ),
        WrongAnswer(
            "epochs of n steps",
            _batch_epoch_of_items,
            "The epoch is step // n. A step takes a whole batch: an epoch has n // batch_size "
            "steps.",
        ),
        WrongAnswer(
            "order read backwards",
            _batch_places,
            "These are the places of the items in the order rather than the items at the places: "
            "order(epoch) lists items. No argsort.",
        ),
        WrongAnswer(
            "every so many",
            _batch_strided,
            "The batch takes items at even distances from the order. It takes neighbours: "
            "batch_size of them in a row.",
        ),
        WrongAnswer(
            "batches that overlap",
            _batch_overlapping,
            "Each batch starts one item behind the last, so they overlap. It starts batch_size "
            "items behind.",
        ),
    ),
    alternatives=(_batch_by_divmod,),
    examples=((3, 7, 3, rolled(7)),),
)
