"""Exercise 4.11 Several documents in one row."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Documents = list[list[int]]
Result = tuple[Tensor, Tensor, Tensor, Tensor]
IGNORED = -100


def _packing_inputs(draw: Draw, size: int) -> Arguments:
    lengths, t = [
        ([2], 2),
        ([2, 2], 4),
        ([3], 5),
        ([2, 3], 6),
        ([4, 2, 3], 10),
        ([3, 5, 2, 2], 12),
    ][size]
    return [draw.integers(1, 9, n).tolist() for n in lengths], t


def _packing_oracle(documents: Documents, context_length: int) -> Result:
    whole = [list(d) for d in documents]
    padding = context_length - sum(len(d) for d in whole)
    inputs, targets, positions, home = [], [], [], []
    for number, document in enumerate([*whole, [0] * padding]):
        for place, token in enumerate(document):
            inputs.append(token)
            positions.append(place)
            home.append(number)
            inside = number < len(whole) and place + 1 < len(document)
            targets.append(document[place + 1] if inside else IGNORED)
    visible = [
        [home[j] == home[i] and j <= i for j in range(context_length)]
        for i in range(context_length)
    ]
    return (
        torch.tensor(inputs, dtype=torch.int64),
        torch.tensor(targets, dtype=torch.int64),
        torch.tensor(positions, dtype=torch.int64),
        torch.tensor(visible, dtype=torch.bool),
    )


def _home(documents: Documents, t: int) -> Tensor:
    lengths = [len(d) for d in documents]
    lengths.append(t - sum(lengths))
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))  # (T,)


def _causal(t: int) -> Tensor:
    return torch.ones(t, t, dtype=torch.bool).tril()


def _packed(documents: Documents, t: int) -> Result:
    home = _home(documents, t)
    flat = [token for d in documents for token in d]
    padding = t - len(flat)
    targets = [label for d in documents for label in (*d[1:], IGNORED)]
    positions = [i for d in documents for i in range(len(d))]
    return (
        torch.tensor(flat + [0] * padding),
        torch.tensor(targets + [IGNORED] * padding),
        torch.tensor(positions + list(range(padding))),
        (home[:, None] == home) & _causal(t),
    )


def _packing_one_text(documents: Documents, t: int) -> Result:
    inputs, targets, positions, _ = _packed(documents, t)
    return inputs, targets, positions, _causal(t)


def _packing_running_positions(documents: Documents, t: int) -> Result:
    inputs, targets, _, visible = _packed(documents, t)
    return inputs, targets, torch.arange(t), visible


def _packing_target_across(documents: Documents, t: int) -> Result:
    inputs, _, positions, visible = _packed(documents, t)
    n = sum(len(d) for d in documents)
    targets = torch.full((t,), IGNORED)
    targets[: n - 1] = inputs[1:n]
    return inputs, targets, positions, visible


def _packing_only_targets(documents: Documents, t: int) -> Result:
    # Everything is one text, and only the targets know of the borders.
    inputs, targets, _, _ = _packed(documents, t)
    return inputs, targets, torch.arange(t), _causal(t)


def _packing_plain(documents: Documents, t: int) -> Result:
    inputs, targets, _, _ = _packing_target_across(documents, t)
    return inputs, targets, torch.arange(t), _causal(t)


def _packing_sees_future(documents: Documents, t: int) -> Result:
    inputs, targets, positions, visible = _packed(documents, t)
    return inputs, targets, positions, visible | visible.T


def _packing_inverted(documents: Documents, t: int) -> Result:
    inputs, targets, positions, visible = _packed(documents, t)
    return inputs, targets, positions, ~visible


def _packing_not_itself(documents: Documents, t: int) -> Result:
    inputs, targets, positions, visible = _packed(documents, t)
    return inputs, targets, positions, visible.tril(-1)


def _packing_padding_counts(documents: Documents, t: int) -> Result:
    inputs, targets, positions, visible = _packed(documents, t)
    n = sum(len(d) for d in documents)
    return (
        inputs,
        torch.cat([targets[:n], torch.zeros(t - n, dtype=torch.int64)]),
        positions,
        visible,
    )


def _packing_padding_in_last(documents: Documents, t: int) -> Result:
    inputs, targets, _, _ = _packed(documents, t)
    padding = t - sum(len(d) for d in documents)
    longer = [*documents[:-1], documents[-1] + [0] * padding]
    _, _, positions, visible = _packed(longer, t)
    return inputs, targets, positions, visible


def _packing_padding_blind(documents: Documents, t: int) -> Result:
    inputs, targets, positions, visible = _packed(documents, t)
    n = sum(len(d) for d in documents)
    real = torch.arange(t) < n
    return inputs, targets, positions, visible & real[:, None] & real


def _packing_not_shifted(documents: Documents, t: int) -> Result:
    inputs, _, positions, visible = _packed(documents, t)
    n = sum(len(d) for d in documents)
    return inputs, torch.where(torch.arange(t) < n, inputs, IGNORED), positions, visible


def _packing_positions_from_one(documents: Documents, t: int) -> Result:
    inputs, targets, positions, visible = _packed(documents, t)
    return inputs, targets, positions + 1, visible


def _packing_document_numbers(documents: Documents, t: int) -> Result:
    inputs, targets, _, visible = _packed(documents, t)
    return inputs, targets, _home(documents, t), visible


def _packing_by_tensors(documents: Documents, t: int) -> Result:
    ends = torch.tensor([len(d) for d in documents]).cumsum(0)  # where each document stops
    places = torch.arange(t)
    home = (places[:, None] >= ends).sum(dim=1)  # (T,) how many documents have ended
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
    inputs = torch.zeros(t, dtype=torch.int64)
    inputs[: int(ends[-1])] = torch.cat([torch.tensor(d) for d in documents])
    follows = torch.cat([home[1:] == home[:-1], torch.zeros(1, dtype=torch.bool)])
    counted = follows & (places < ends[-1])
    targets = inputs.roll(-1).masked_fill(~counted, IGNORED)
    visible = torch.block_diag(
        *(torch.ones(int(n), int(n)) for n in torch.bincount(home, minlength=len(documents)))
    )
    return inputs, targets, places - starts[home], visible.tril().bool()


def _no_crosstalk(got: Result, arguments: Arguments, call: Answer) -> str | None:
    documents, t = arguments
    home = _home(documents, t).tolist()
    for i, row in enumerate(got[3].tolist()):
        for j, seen in enumerate(row):
            if seen and (home[j] != home[i] or j > i):
                what = "the future" if home[j] == home[i] else "another document"
                return f"token {i} of the row may look at token {j}, which is {what}"
    return None


def _nothing_across(got: Result, arguments: Arguments, call: Answer) -> str | None:
    documents, _ = arguments
    end = 0
    for number, document in enumerate(documents):
        end += len(document)
        label = int(got[1][end - 1])
        if label != IGNORED:
            return (
                f"the last token of document {number} has the target {label}: what follows it is "
                "another document, or nothing"
            )
    return None


def _as_if_alone(got: Result, arguments: Arguments, call: Answer) -> str | None:
    documents, _ = arguments
    start = 0
    names = ("inputs", "targets", "positions")
    for number, document in enumerate(documents):
        stop = start + len(document)
        alone = call([document], len(document))
        for name, packed, single in zip(names, got, alone):
            if packed[start:stop].tolist() != single.tolist():
                return (
                    f"document {number} has other {name} in this row than in a row of its own: "
                    f"{packed[start:stop].tolist()}, not {single.tolist()}"
                )
        start = stop
    return None


PACKING = Exercise(
    id="4.11",
    title="pack documents into a row",
    name="pack_row",
    signature=(
        "pack_row(documents: list[list[int]], context_length: int) "
        "-> tuple[Tensor, Tensor, Tensor, Tensor]"
    ),
    taught="Part 4, packing",
    difficulty=4,
    minutes=25,
    make_inputs=_packing_inputs,
    oracle=_packing_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="inputs, targets, positions and mask, as if each document stood in a row of its own",
    properties=(
        Property("no token looks out of its document", _no_crosstalk),
        Property("no target belongs to another document", _nothing_across),
        Property("a packed document is as if it stood alone", _as_if_alone),
    ),
    wrong_answers=(
        WrongAnswer(
            "a causal mask only",
            _packing_one_text,
            "The mask is the plain causal one: a document looks at those before it. Both must be "
            "the case, j <= i and the same document.",
        ),
        WrongAnswer(
            "positions run on",
            _packing_running_positions,
            "The positions run on through the row. They start again from 0 with each document (and "
            "with the padding), as if it stood alone.",
        ),
        WrongAnswer(
            "targets across borders",
            _packing_target_across,
            "The last token of a document is asked to predict the first of the next, which nobody "
            "can. Its target is -100.",
        ),
        WrongAnswer(
            "only the targets",
            _packing_only_targets,
            "The targets know of the borders, mask and positions do not: all tokens still see what "
            "is before them in the row. Three things are needed.",
        ),
        WrongAnswer(
            "one long text",
            _packing_plain,
            "The documents are simply strung together: mask, positions and targets all go across "
            "the borders. Three things keep them apart, and all three are needed.",
        ),
        WrongAnswer(
            "the future is visible",
            _packing_sees_future,
            "Within a document every token sees every other: the same document is not enough, "
            "j <= i must hold too.",
        ),
        WrongAnswer(
            "True means hidden",
            _packing_inverted,
            "The mask is inverted: True is where the token may look.",
        ),
        WrongAnswer(
            "not itself",
            _packing_not_itself,
            "A token does not see itself: j <= i, not j < i. The first token of a document would "
            "have nothing to look at, and softmax gives NaN there.",
        ),
        WrongAnswer(
            "padding is learned",
            _packing_padding_counts,
            "The padding has the target 0, so the model learns to write padding. Its target is "
            "-100, like that of every token that is not asked.",
        ),
        WrongAnswer(
            "padding belongs to the last",
            _packing_padding_in_last,
            "The padding is taken for part of the last document. It is one more document of its "
            "own: positions from 0, looking at itself only.",
        ),
        WrongAnswer(
            "padding sees nothing",
            _packing_padding_blind,
            "The padding may not even look at itself: softmax over nothing is NaN, which spreads. "
            "Treat it as one more document.",
        ),
        WrongAnswer(
            "targets not shifted",
            _packing_not_shifted,
            "The targets are the inputs themselves. The target is the token that comes next.",
        ),
        WrongAnswer(
            "positions from 1",
            _packing_positions_from_one,
            "The positions start at 1. They count from 0, as in a row with a single document.",
        ),
        WrongAnswer(
            "numbers of documents for positions",
            _packing_document_numbers,
            "The third result holds the numbers of the documents. Asked for is the position of "
            "each token within its own.",
        ),
    ),
    alternatives=(_packing_by_tensors,),
    examples=(([[5, 6, 9], [7, 9]], 6),),
)
