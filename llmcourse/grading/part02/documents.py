"""Exercise 2.3 A batch of documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _documents_inputs(draw: Draw, size: int) -> Arguments:
    lengths, t = [
        ([1], 1),
        ([2], 2),
        ([1], 3),
        ([3, 2], 4),
        ([2, 5, 1], 5),
        ([draw.integer(1, 6) for _ in range(4)], 7),
    ][size]
    return [draw.distinct(n, 1, 98) for n in lengths], 99, t


def _documents_oracle(
    documents: list[list[int]], end_of_text: int, context_length: int
) -> tuple[Tensor, Tensor]:
    inputs, targets = [], []
    for document in documents:
        row_in, row_out = [], []
        for t in range(context_length):
            row_in.append(document[t] if t < len(document) else 0)
            if t + 1 < len(document):
                row_out.append(document[t + 1])
            else:
                row_out.append(end_of_text if t + 1 == len(document) else -100)
        inputs.append(row_in)
        targets.append(row_out)
    return torch.tensor(inputs), torch.tensor(targets)


def _padded(rows: list[list[int]], fill: int, t: int) -> Tensor:
    return torch.tensor([row + [fill] * (t - len(row)) for row in rows])


def _documents_no_end(documents: Any, end_of_text: int, context_length: int) -> Any:
    return (
        _padded(documents, 0, context_length),
        _padded([d[1:] for d in documents], -100, context_length),
    )


def _documents_zero_labels(documents: Any, end_of_text: int, context_length: int) -> Any:
    return (
        _padded(documents, 0, context_length),
        _padded([[*d[1:], end_of_text] for d in documents], 0, context_length),
    )


def _documents_end_everywhere(documents: Any, end_of_text: int, context_length: int) -> Any:
    return (
        _padded(documents, 0, context_length),
        _padded([d[1:] for d in documents], end_of_text, context_length),
    )


def _documents_left(documents: Any, end_of_text: int, context_length: int) -> Any:
    t = context_length
    inputs = [[0] * (t - len(d)) + d for d in documents]
    targets = [[-100] * (t - len(d)) + [*d[1:], end_of_text] for d in documents]
    return torch.tensor(inputs), torch.tensor(targets)


def _documents_unshifted(documents: Any, end_of_text: int, context_length: int) -> Any:
    return _padded(documents, 0, context_length), _padded(documents, -100, context_length)


def _documents_shifted_in_model(documents: Any, end_of_text: int, context_length: int) -> Any:
    # transformers' convention: labels are the inputs and the model shifts them
    rows = [[*d, end_of_text][:context_length] for d in documents]
    return _padded(rows, 0, context_length), _padded(rows, -100, context_length)


def _documents_by_filling(documents: Any, end_of_text: int, context_length: int) -> Any:
    inputs = torch.zeros(len(documents), context_length, dtype=torch.int64)
    targets = torch.full((len(documents), context_length), -100)
    for row, document in enumerate(documents):
        sequence = torch.tensor([*document, end_of_text])
        inputs[row, : len(document)] = sequence[:-1]
        targets[row, : len(document)] = sequence[1:]
    return inputs, targets


def _end_is_learned(got: Any, arguments: Arguments, call: Answer) -> str | None:
    documents, end_of_text, _ = arguments
    for row, document in enumerate(documents):
        label = int(got[1][row, len(document) - 1])
        if label != end_of_text:
            return (
                f"after the last token of document {row + 1} the label must be end-of-text "
                f"({end_of_text}); it is {label}, so the model never learns to stop there"
            )
    return None


def _padding_is_ignored(got: Any, arguments: Arguments, call: Answer) -> str | None:
    documents, _, _ = arguments
    for row, document in enumerate(documents):
        labels = got[1][row, len(document) :]
        if bool((labels != -100).any()):
            wrong = int(labels[labels != -100][0])
            return f"document {row + 1} has padding labelled {wrong}; the label there is -100"
    return None


DOCUMENTS = Exercise(
    id="2.3",
    title="a batch of whole documents",
    name="document_batch",
    signature=(
        "document_batch(documents: list[list[int]], end_of_text: int, context_length: int)"
        " -> tuple[Tensor, Tensor]"
    ),
    taught="Part 2, batching and shifting",
    difficulty=3,
    minutes=15,
    make_inputs=_documents_inputs,
    oracle=_documents_oracle,
    statement="a row is a document, its targets the next tokens, end-of-text last, then -100",
    properties=(
        Property("the model learns where documents end", _end_is_learned),
        Property("padding carries the label -100", _padding_is_ignored),
    ),
    wrong_answers=(
        WrongAnswer(
            "end-of-text not learned",
            _documents_no_end,
            "End-of-text is never a target, so the model cannot learn to stop: the target of a "
            "document's last token is end_of_text.",
        ),
        WrongAnswer(
            "padding labelled 0",
            _documents_zero_labels,
            "The padding's labels are 0, a real token: the model would learn to say token 0 after "
            "every story. Ignored labels are -100.",
        ),
        WrongAnswer(
            "end-of-text on the whole padding",
            _documents_end_everywhere,
            "All the padding is labelled end-of-text. Only the first place after the document is; "
            "the rest is -100, or most of the loss is about predicting padding.",
        ),
        WrongAnswer(
            "padded on the left",
            _documents_left,
            "The padding stands on the left. Here every document starts at position 0 and the "
            "padding follows it.",
        ),
        WrongAnswer(
            "not shifted",
            _documents_unshifted,
            "The targets are the inputs, not the next tokens: shift them by one.",
        ),
        WrongAnswer(
            "left to the model to shift",
            _documents_shifted_in_model,
            "Targets equal inputs, as for libraries whose models shift the labels themselves. Ours "
            "does not: targets[t] is the token after inputs[t].",
        ),
    ),
    alternatives=(_documents_by_filling,),
    examples=(([[5, 6, 7], [8]], 9, 4),),
)
