"""The exercises of Part 2: data, loss, schedule and sampling of a language model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Exercise, Property, WrongAnswer

Arguments = tuple[Any, ...]

# 2.1 Next-token windows -----------------------------------------------------------------------


def _windows_inputs(draw: Draw, size: int) -> Arguments:
    n, t = [(2, 1), (4, 3), (5, 2), (6, 2), (draw.integer(9, 14), 4), (15, 5)][size]
    return torch.tensor(draw.distinct(n, 0, 99)), t


def _windows_oracle(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    values, inputs, targets, start = tokens.tolist(), [], [], 0
    while start + context_length + 1 <= len(values):
        inputs.append(values[start : start + context_length])
        targets.append(values[start + 1 : start + context_length + 1])
        start += context_length
    return torch.tensor(inputs), torch.tensor(targets)


def _rows(tokens: Tensor, start: int, rows: int, t: int) -> Tensor:
    return tokens[start : start + rows * t].reshape(rows, t)


def _windows_unshifted(tokens: Tensor, context_length: int) -> Any:
    rows = (len(tokens) - 1) // context_length
    inputs = _rows(tokens, 0, rows, context_length)
    return inputs, inputs.clone()


def _windows_swapped(tokens: Tensor, context_length: int) -> Any:
    rows = (len(tokens) - 1) // context_length
    inputs = _rows(tokens, 0, rows, context_length)
    return _rows(tokens, 1, rows, context_length), inputs


def _windows_too_many(tokens: Tensor, context_length: int) -> Any:
    rows = len(tokens) // context_length
    inputs = _rows(tokens, 0, rows, context_length)
    return inputs, _rows(tokens, 1, rows, context_length)


def _windows_rolled(tokens: Tensor, context_length: int) -> Any:
    rows = (len(tokens) - 1) // context_length
    inputs = _rows(tokens, 0, rows, context_length)
    return inputs, inputs.roll(-1, dims=1)


def _windows_overlapping(tokens: Tensor, context_length: int) -> Any:
    pieces = tokens.unfold(0, context_length + 1, 1)
    return pieces[:, :-1], pieces[:, 1:]


def _windows_cut_first(tokens: Tensor, context_length: int) -> Any:
    pieces = tokens.unfold(0, context_length + 1, context_length + 1)
    return pieces[:, :-1], pieces[:, 1:]


def _windows_uncut(tokens: Tensor, context_length: int) -> Any:
    return tokens[:-1], tokens[1:]


def _windows_by_unfold(tokens: Tensor, context_length: int) -> Any:
    pieces = tokens.unfold(0, context_length + 1, context_length)  # (M, T + 1), overlapping by one
    return pieces[:, :-1], pieces[:, 1:]


def _targets_follow(got: Any, arguments: Arguments, call: Answer) -> str | None:
    inputs, targets = got
    if not torch.equal(inputs[:, 1:], targets[:, :-1]):
        return "the target at t must be the input at t + 1"
    follower = dict(zip(arguments[0].tolist(), arguments[0][1:].tolist()))  # tokens are distinct
    for token, target in zip(inputs.reshape(-1).tolist(), targets.reshape(-1).tolist()):
        if follower.get(token) != target:
            return (
                f"after {token} comes {follower.get(token)} in the text, the target says {target}"
            )
    return None


WINDOWS = Exercise(
    id="2.1",
    title="next-token windows",
    name="next_token_windows",
    signature=("next_token_windows(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]"),
    taught="Part 2, batching and shifting",
    difficulty=2,
    minutes=15,
    make_inputs=_windows_inputs,
    oracle=_windows_oracle,
    statement="windows follow each other without overlap, and every target is the next token",
    properties=(Property("every target is the token that follows its input", _targets_follow),),
    wrong_answers=(
        WrongAnswer(
            "not shifted",
            _windows_unshifted,
            "The targets equal the inputs: the model would learn to copy. Shift them by one token.",
        ),
        WrongAnswer(
            "inputs and targets swapped",
            _windows_swapped,
            "Inputs and targets are swapped: the model would predict the token before.",
        ),
        WrongAnswer(
            "one window too many",
            _windows_too_many,
            "You count N // T windows. The last target needs one more token, so only (N - 1) // T "
            "fit: it shows when N is a multiple of T.",
        ),
        WrongAnswer(
            "rolled within the row",
            _windows_rolled,
            "The last target of each row is the row's own first token: roll wraps around. Shift "
            "the whole text before cutting it into rows.",
        ),
        WrongAnswer(
            "overlapping",
            _windows_overlapping,
            "The windows start at every token. Here they follow each other: the next one starts T "
            "tokens on.",
        ),
        WrongAnswer(
            "not cut",
            _windows_uncut,
            "The shift is right, and the text is still in one piece: cut inputs and targets into "
            "rows of T tokens with reshape(-1, T), after dropping what is left over.",
        ),
        WrongAnswer(
            "a token lost between windows",
            _windows_cut_first,
            "The text is cut into pieces of T + 1, so one prediction between two windows is lost. "
            "The last target of one window is the first input of the next.",
        ),
    ),
    alternatives=(_windows_by_unfold,),
    examples=((torch.tensor([10, 11, 12, 13, 14, 15]), 2),),
)

# 2.2 Cross-entropy ----------------------------------------------------------------------------


def _loss_inputs(draw: Draw, size: int) -> Arguments:
    b, t, v = [(1, 1, 2), (1, 2, 3), (1, 3, 2), (2, 3, 4), (2, 3, 5), (3, 5, 7)][size]
    logits, targets = draw.normal(b, t, v), draw.integers(0, v - 1, b, t)
    if size >= 2:
        targets[0, 1:] = -100  # rows with different numbers of labels
    if size == 3:
        logits[1] += 2000.0  # exp overflows
        logits[0] -= 2000.0
    return logits, targets


def _loss_oracle(logits: Tensor, targets: Tensor) -> Tensor:
    losses = []
    for row, target in zip(
        logits.reshape(-1, logits.shape[-1]).tolist(), targets.reshape(-1).tolist()
    ):
        if target != -100:
            top = max(row)
            total = math.fsum(math.exp(value - top) for value in row)
            losses.append(top + math.log(total) - row[target])
    return torch.tensor(math.fsum(losses) / len(losses), dtype=torch.float64)


def _token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    # ignored labels read class 0 and are dealt with by the caller
    picked = logits.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return logits.logsumexp(-1) - picked


def _loss_over_all(logits: Tensor, targets: Tensor) -> Tensor:
    return (_token_losses(logits, targets) * (targets != -100)).mean()


def _loss_counts_ignored(logits: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(logits, targets).mean()


def _loss_unstable(logits: Tensor, targets: Tensor) -> Tensor:
    powers = logits.exp()
    logp = (powers / powers.sum(-1, keepdim=True)).log()
    picked = -logp.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return picked[targets != -100].mean()


def _loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(logits, targets)[targets != -100].sum()


def _loss_bits(logits: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(logits, targets)[targets != -100].mean() / math.log(2)


def _loss_mean_of_means(logits: Tensor, targets: Tensor) -> Tensor:
    kept = targets != -100
    rows = (_token_losses(logits, targets) * kept).sum(-1) / kept.sum(-1)
    return rows[kept.any(-1)].mean()


def _loss_softmax_twice(logits: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(torch.softmax(logits, -1), targets)[targets != -100].mean()


def _loss_looks_up_ignored(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()


def _loss_by_indexing(logits: Tensor, targets: Tensor) -> Tensor:
    flat, labels = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    kept = labels != -100
    flat, labels = flat[kept], labels[kept]
    shifted = flat - flat.amax(1, keepdim=True)
    logp = shifted - shifted.exp().sum(1, keepdim=True).log()
    return -logp[torch.arange(len(labels)), labels].mean()


def _uniform_costs_log_v(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits, targets = arguments
    uniform = float(call(torch.zeros_like(logits), targets))
    if abs(uniform - math.log(logits.shape[-1])) > 1e-6:
        return (
            f"with all logits equal the loss must be ln V = {math.log(logits.shape[-1]):.4g}; "
            f"it is {uniform:.4g}"
        )
    return None


def _ignored_is_ignored(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits, targets = arguments
    changed = torch.where((targets == -100)[..., None], torch.flip(2 * logits, (-1,)), logits)
    if abs(float(call(changed, targets)) - float(got)) > 1e-6:
        return "changing the logits where the label is -100 changed the loss"
    return None


CROSS_ENTROPY = Exercise(
    id="2.2",
    title="cross-entropy with ignored labels",
    name="cross_entropy",
    signature="cross_entropy(logits: Tensor, targets: Tensor) -> Tensor",
    taught="Part 2, the loss",
    difficulty=3,
    minutes=20,
    make_inputs=_loss_inputs,
    oracle=_loss_oracle,
    statement="the mean of -log softmax(logits)[target] over the labels that are not -100",
    properties=(
        Property("ignored labels do not count", _ignored_is_ignored),
        Property("all logits equal cost ln V nats a token", _uniform_costs_log_v),
    ),
    forbidden=(
        "torch.nn.functional.cross_entropy",
        "torch.nn.functional.nll_loss",
        "torch._C._nn.cross_entropy_loss",
        "torch._C._nn.nll_loss_nd",
        "torch.nll_loss" if hasattr(torch, "nll_loss") else "torch._C._nn.nll_loss",
    ),
    wrong_answers=(
        WrongAnswer(
            "divided by all positions",
            _loss_over_all,
            "The sum leaves the ignored labels out and the divisor does not: divide by the number "
            "of labels that count, not by B * T. Padding would make the loss look small.",
        ),
        WrongAnswer(
            "ignored labels counted",
            _loss_counts_ignored,
            "The labels -100 are counted (as class 0). They mark padding: leave them out of the "
            "sum and of the divisor.",
        ),
        WrongAnswer(
            "log of softmax",
            _loss_unstable,
            "exp overflows for large logits, and log of a rounded-down 0 is -inf. Use "
            "logsumexp(logits) - logits[target], or subtract the maximum first.",
        ),
        WrongAnswer(
            "sum",
            _loss_sum,
            "This is the sum over the labels; asked for is the mean.",
        ),
        WrongAnswer(
            "in bits",
            _loss_bits,
            "The loss is in bits. Losses are in nats here: the natural logarithm.",
        ),
        WrongAnswer(
            "mean of the rows' means",
            _loss_mean_of_means,
            "You average each row and then the rows, so a label in a short row weighs more. "
            "Every label counts the same: one sum, one divisor.",
        ),
        WrongAnswer(
            "-100 looked up",
            _loss_looks_up_ignored,
            "The label -100 is looked up like a token id. Take the ignored positions out first, or "
            "look up a harmless id such as 0 there and leave the result out of the mean.",
        ),
        WrongAnswer(
            "softmax applied twice",
            _loss_softmax_twice,
            "softmax is applied twice: the loss takes logits, and softmax(softmax(x)) is almost "
            "uniform, so such a loss hardly falls.",
        ),
    ),
    alternatives=(_loss_by_indexing,),
    examples=(
        (
            torch.tensor([[[0.0, math.log(3.0)], [5.0, 5.0], [1.0, 2.0]]], dtype=torch.float64),
            torch.tensor([[1, 0, -100]]),
        ),
    ),
)

# 2.3 A batch of documents ---------------------------------------------------------------------


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

# 2.4 Perplexity and bits per byte -------------------------------------------------------------


def _score_inputs(draw: Draw, size: int) -> Arguments:
    n = [1, 2, 3, 4, 7, 12][size]
    bytes_each = draw.integers(1, 6, n)
    bytes_each[0] = 3  # not all one: tokens and bytes are never the same number
    return draw.uniform(0.1, 6.0, n), bytes_each


def _score_oracle(token_losses: Tensor, token_bytes: Tensor) -> tuple[float, float]:
    nats, n = math.fsum(token_losses.tolist()), len(token_losses)
    return math.exp(nats / n), nats / sum(token_bytes.tolist()) / math.log(2)


def _score_mean_of_exp(token_losses: Tensor, token_bytes: Tensor) -> Any:
    bits = token_losses.sum() / token_bytes.sum() / math.log(2)
    return token_losses.exp().mean().item(), bits.item()


def _score_nats(token_losses: Tensor, token_bytes: Tensor) -> Any:
    return token_losses.mean().exp().item(), (token_losses.sum() / token_bytes.sum()).item()


def _score_times_ln2(token_losses: Tensor, token_bytes: Tensor) -> Any:
    nats = token_losses.sum() / token_bytes.sum()
    return token_losses.mean().exp().item(), nats.item() * math.log(2)


def _score_per_token(token_losses: Tensor, token_bytes: Tensor) -> Any:
    return token_losses.mean().exp().item(), token_losses.mean().item() / math.log(2)


def _score_mean_of_ratios(token_losses: Tensor, token_bytes: Tensor) -> Any:
    ratios = token_losses / token_bytes
    return token_losses.mean().exp().item(), ratios.mean().item() / math.log(2)


def _score_base_two(token_losses: Tensor, token_bytes: Tensor) -> Any:
    bits = token_losses.sum() / token_bytes.sum() / math.log(2)
    return 2 ** token_losses.mean().item(), bits.item()


def _score_in_bits(token_losses: Tensor, token_bytes: Tensor) -> Any:
    bits = [loss / math.log(2) for loss in token_losses.tolist()]
    return 2 ** (sum(bits) / len(bits)), sum(bits) / int(token_bytes.sum())


def _perplexity_of_equal(got: Any, arguments: Arguments, call: Answer) -> str | None:
    losses, sizes = arguments
    perplexity, bits = call(torch.full_like(losses, math.log(4.0)), torch.ones_like(sizes))
    if abs(float(perplexity) - 4) > 1e-6:
        return "a model that always hesitates between 4 equal tokens has perplexity 4, not " + (
            f"{float(perplexity):.4g}"
        )
    if abs(float(bits) - 2) > 1e-6:
        return (
            "choosing among 4 equal tokens of one byte each costs 2 bits per byte, not "
            f"{float(bits):.4g}"
        )
    return None


SCORES = Exercise(
    id="2.4",
    title="perplexity and bits per byte",
    name="language_scores",
    signature=("language_scores(token_losses: Tensor, token_bytes: Tensor) -> tuple[float, float]"),
    taught="Part 2, validation",
    difficulty=2,
    minutes=10,
    make_inputs=_score_inputs,
    oracle=_score_oracle,
    statement="perplexity is exp(mean loss); bits per byte are all the nats / ln 2 / all the bytes",
    properties=(Property("four equal choices", _perplexity_of_equal),),
    wrong_answers=(
        WrongAnswer(
            "mean of the exponentials",
            _score_mean_of_exp,
            "The perplexity averages exp(loss). It is the exponential of the average: exp comes "
            "last, or a single surprise dominates.",
        ),
        WrongAnswer(
            "nats per byte",
            _score_nats,
            "The second number is in nats per byte: divide by ln 2 to get bits.",
        ),
        WrongAnswer(
            "times ln 2",
            _score_times_ln2,
            "Nats are multiplied by ln 2. A nat is 1 / ln 2 = 1.44 bits: divide.",
        ),
        WrongAnswer(
            "bits per token",
            _score_per_token,
            "The second number is bits per token. Divide by the number of bytes, or scores of "
            "different tokenizers cannot be compared.",
        ),
        WrongAnswer(
            "mean of the ratios",
            _score_mean_of_ratios,
            "You average each token's own bits per byte. Divide the total by the total: a long "
            "token counts for more bytes.",
        ),
        WrongAnswer(
            "two to the nats",
            _score_base_two,
            "The perplexity is 2 to the power of a loss in nats. With nats the base is e.",
        ),
    ),
    alternatives=(_score_in_bits,),
    examples=(
        (torch.tensor([math.log(2.0), math.log(8.0)], dtype=torch.float64), torch.tensor([1, 3])),
    ),
)

# 2.5 The schedule -----------------------------------------------------------------------------


def _schedule_inputs(draw: Draw, size: int) -> Arguments:
    peak, floor = draw.number(0.5, 1.0), draw.number(0.05, 0.2)
    if size == 0:  # the first step
        return 0, peak, draw.integer(3, 9), draw.integer(20, 30), floor
    if size == 1:  # the last step of the warm-up
        warmup = draw.integer(3, 9)
        return warmup - 1, peak, warmup, draw.integer(20, 30), floor
    warmup, total = draw.integer(2, 9), draw.integer(23, 40)
    if size == 2:  # early on the cosine
        return warmup + draw.integer(3, 6), peak, warmup, total, floor
    if size == 3:  # late on it
        return total - draw.integer(2, 5), peak, warmup, total, floor
    if size == 4:  # the end and after it
        return total + draw.integer(1, 9), peak, warmup, total, floor
    return draw.integer(0, warmup - 2), peak, warmup, total, 0.0


def _schedule_oracle(
    step: int, peak: float, warmup_steps: int, total_steps: int, floor: float
) -> float:
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return floor
    share = (step - warmup_steps) / (total_steps - warmup_steps)
    # cos² of the half angle is the same curve as half of one plus the cosine
    return floor + (peak - floor) * math.cos(math.pi * share / 2) ** 2


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def _schedule_from_zero(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * step / warmup
    share = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * _cosine(share)


def _schedule_peak_twice(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * _cosine(share)


def _schedule_whole(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + (peak - floor) * _cosine(min(1.0, step / total))


def _schedule_floor_added(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + peak * _cosine(min(1.0, (step - warmup) / (total - warmup)))


def _schedule_bare(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    share = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * math.cos(math.pi * share)


def _schedule_linear(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    share = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * (1 - share)


def _schedule_unclamped(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + (peak - floor) * _cosine((step - warmup) / (total - warmup))


def _schedule_no_warmup(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    share = min(1.0, max(0.0, (step - warmup) / (total - warmup)))
    return floor + (peak - floor) * _cosine(share)


def _schedule_by_interpolation(
    step: int, peak: float, warmup_steps: int, total_steps: int, floor: float
) -> float:
    rising = min(1.0, (step + 1) / (warmup_steps + 1)) * peak
    share = min(max(step - warmup_steps, 0) / (total_steps - warmup_steps), 1.0)
    return rising - (peak - floor) * (1 - math.cos(share * math.pi)) / 2


def _never_zero(got: float, arguments: Arguments, call: Answer) -> str | None:
    step = arguments[0]
    if step == 0 and float(got) == 0:
        return "the first step has learning rate 0: it would teach nothing"
    return None


def _within_bounds(got: float, arguments: Arguments, call: Answer) -> str | None:
    _, peak, warmup_steps, _, floor = arguments
    step = arguments[0]
    if step >= warmup_steps and not floor - 1e-12 <= float(got) <= peak + 1e-12:
        return f"after the warm-up it must lie between floor {floor} and peak {peak}"
    return None


SCHEDULE = Exercise(
    id="2.5",
    title="warm-up and cosine",
    name="warmup_cosine",
    signature=(
        "warmup_cosine(step: int, peak: float, warmup_steps: int, total_steps: int, floor: float)"
        " -> float"
    ),
    taught="Part 2, the loop",
    difficulty=2,
    minutes=15,
    make_inputs=_schedule_inputs,
    oracle=_schedule_oracle,
    statement="a straight rise to the peak, half a cosine down to the floor, then the floor",
    properties=(
        Property("the first step already learns", _never_zero),
        Property("the rate stays between floor and peak", _within_bounds),
    ),
    wrong_answers=(
        WrongAnswer(
            "warm-up from zero",
            _schedule_from_zero,
            "The warm-up starts at 0, so the first step is wasted: use (step + 1) / "
            "(warmup_steps + 1).",
        ),
        WrongAnswer(
            "peak reached twice",
            _schedule_peak_twice,
            "The last step of the warm-up is at the peak already, and so is the next. The peak "
            "comes at step warmup_steps: divide by warmup_steps + 1.",
        ),
        WrongAnswer(
            "cosine over all steps",
            _schedule_whole,
            "The cosine is measured from step 0, so the rate jumps down where the warm-up ends. "
            "It starts at the end of the warm-up: (step - warmup) / (total - warmup).",
        ),
        WrongAnswer(
            "floor added on top",
            _schedule_floor_added,
            "The floor is added to the whole curve, so it starts at peak + floor. Scale the cosine "
            "by (peak - floor).",
        ),
        WrongAnswer(
            "cosine from 1 to -1",
            _schedule_bare,
            "cos runs from 1 to -1, so the rate goes below the floor (and becomes negative). Bring "
            "it to 1 ... 0 with (1 + cos) / 2.",
        ),
        WrongAnswer(
            "straight line",
            _schedule_linear,
            "The decay is a straight line; asked for is half a cosine: flat at both ends.",
        ),
        WrongAnswer(
            "rises again after the end",
            _schedule_unclamped,
            "After total_steps the cosine turns up again. From there on the rate stays at the "
            "floor.",
        ),
        WrongAnswer(
            "no warm-up",
            _schedule_no_warmup,
            "The warm-up is missing: the rate begins at its peak. It rises in a straight line over "
            "the first warmup_steps steps.",
        ),
    ),
    alternatives=(_schedule_by_interpolation,),
    examples=((6, 1.0, 2, 10, 0.2),),
)

# 2.6 Gradient clipping ------------------------------------------------------------------------


def _clip_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:
        return [draw.normal(2) + 3.0], 1.0
    if size == 1:  # small enough already
        return [draw.uniform(0.1, 0.2, 2), draw.uniform(0.1, 0.2, 1)], 1.0
    if size == 2:  # one large, one small
        return [draw.normal(2) + 5.0, draw.uniform(0.1, 0.3, 3)], 1.0
    if size == 3:
        return [torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)], 0.5
    shapes = [(2, 3), (4,), (1,)] if size == 4 else [(3, 5), (5,), (2, 2, 2)]
    return [draw.normal(*shape, scale=2.0) for shape in shapes], draw.number(0.5, 1.5)


def _clip_oracle(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = math.sqrt(math.fsum(v * v for g in gradients for v in g.reshape(-1).tolist()))
    factor = max_norm / norm if norm > max_norm else 1.0
    return [
        torch.tensor([v * factor for v in g.reshape(-1).tolist()], dtype=g.dtype).reshape(g.shape)
        for g in gradients
    ]


def _global_norm(gradients: list[Tensor]) -> Tensor:
    return torch.sqrt(sum((g * g).sum() for g in gradients))


def _clip_each(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g * min(1.0, max_norm / max(float(g.norm()), 1e-12)) for g in gradients]


def _clip_values(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g.clamp(-max_norm, max_norm) for g in gradients]


def _clip_always(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g * (max_norm / (_global_norm(gradients) + 1e-12)) for g in gradients]


def _clip_sum_of_norms(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = sum(float(g.norm()) for g in gradients)
    return [g * min(1.0, max_norm / max(norm, 1e-12)) for g in gradients]


def _clip_squared(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = sum(float((g * g).sum()) for g in gradients)
    return [g * min(1.0, max_norm / max(norm, 1e-12)) for g in gradients]


def _clip_by_cat(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    if norm <= max_norm:
        return gradients
    return [g / (norm + 1e-6) * max_norm for g in gradients]


def _direction_is_kept(got: Any, arguments: Arguments, call: Answer) -> str | None:
    before = torch.cat([g.reshape(-1) for g in arguments[0]])
    after = torch.cat([g.reshape(-1) for g in got]).double()
    lengths = before.norm() * after.norm()
    if float(lengths) > 0 and abs(float(before @ after / lengths) - 1) > 1e-6:
        return "all gradients together point another way than before; only their length may change"
    return None


def _small_is_untouched(got: Any, arguments: Arguments, call: Answer) -> str | None:
    gradients, max_norm = arguments
    norm = float(_global_norm(gradients))
    after = float(torch.cat([g.reshape(-1) for g in got]).norm())
    if norm <= max_norm and abs(after - norm) > 1e-4:
        return f"the norm was {norm:.4g}, below max_norm = {max_norm}, and is {after:.4g} now"
    return None


CLIP = Exercise(
    id="2.6",
    title="clip the gradients by their global norm",
    name="clip_gradients",
    signature="clip_gradients(gradients: list[Tensor], max_norm: float) -> list[Tensor]",
    taught="Part 2, the loop",
    difficulty=2,
    minutes=10,
    make_inputs=_clip_inputs,
    oracle=_clip_oracle,
    tolerance=1e-5,  # many add 1e-6 to the norm against a division by zero
    statement="one factor, min(1, max_norm / norm), for all tensors; norm is that of all of them",
    properties=(
        Property("gradients already small enough stay as they are", _small_is_untouched),
        Property("the direction is kept", _direction_is_kept),
    ),
    forbidden=(
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.utils.clip_grads_with_norm_",
        "torch.nn.utils.get_total_norm",
    ),
    wrong_answers=(
        WrongAnswer(
            "each tensor by itself",
            _clip_each,
            "Each tensor is clipped by its own norm, which turns the overall direction. Compute "
            "one norm over all tensors and scale them all by one factor.",
        ),
        WrongAnswer(
            "clipped by value",
            _clip_values,
            "Each number is clamped to ±max_norm: that is clipping by value. By norm, all numbers "
            "shrink by the same factor.",
        ),
        WrongAnswer(
            "always scaled",
            _clip_always,
            "Small gradients are blown up to max_norm. The factor never exceeds 1.",
        ),
        WrongAnswer(
            "sum of the norms",
            _clip_sum_of_norms,
            "The tensors' norms are added. The global norm is the root of the "
            "sum of their squares.",
        ),
        WrongAnswer(
            "square root forgotten",
            _clip_squared,
            "This compares the sum of squares with max_norm: the square root is missing.",
        ),
    ),
    alternatives=(_clip_by_cat,),
    examples=(
        (
            [torch.tensor([3.0], dtype=torch.float64), torch.tensor([[4.0]], dtype=torch.float64)],
            1.0,
        ),
    ),
)

# 2.7 Temperature and top-k --------------------------------------------------------------------


def _top_k_inputs(draw: Draw, size: int) -> Arguments:
    b, v, k = [(1, 2, 1), (1, 3, 2), (1, 4, 4), (2, 5, 2), (3, 7, 3), (2, 11, draw.integer(2, 9))][
        size
    ]
    temperature = draw.pick([0.4, 0.7, 1.6, 2.5])
    logits = draw.normal(b, v)
    if b > 1:  # a row whose scores all lie above those of the others
        logits[0] += 6.0
    return logits, temperature, k


def _top_k_oracle(logits: Tensor, temperature: float, k: int) -> Tensor:
    rows = []
    for row in logits.tolist():
        kept = sorted(range(len(row)), key=lambda i: row[i], reverse=True)[:k]
        top = max(row)
        powers = {i: math.exp((row[i] - top) / temperature) for i in kept}
        total = math.fsum(powers.values())
        rows.append([powers.get(i, 0.0) / total for i in range(len(row))])
    return torch.tensor(rows, dtype=torch.float64)


def _keep(logits: Tensor, k: int, fill: float = -math.inf) -> Tensor:
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, fill)


def _top_k_times(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_keep(logits, k) * temperature, dim=-1)


def _top_k_after(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_keep(logits, k), dim=-1) / temperature


def _top_k_not_normalised(logits: Tensor, temperature: float, k: int) -> Tensor:
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return probabilities.masked_fill(_keep(logits, k).isinf(), 0.0)


def _top_k_zero(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_keep(logits, k, 0.0) / temperature, dim=-1)


def _top_k_smallest(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_lowest(logits, k) / temperature, dim=-1)


def _lowest(logits: Tensor, k: int) -> Tensor:
    most = logits.topk(k, dim=-1, largest=False).values[:, -1:]
    return logits.masked_fill(logits > most, -math.inf)


def _top_k_no_temperature(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_keep(logits, k), dim=-1)


def _top_k_first_row(logits: Tensor, temperature: float, k: int) -> Tensor:
    least = logits[0].topk(k).values[-1]
    return torch.softmax(logits.masked_fill(logits < least, -1e30) / temperature, dim=-1)


def _top_k_by_scatter(logits: Tensor, temperature: float, k: int) -> Tensor:
    values, places = logits.sort(dim=-1, descending=True)
    kept = torch.softmax(values[:, :k] / temperature, dim=-1)
    return torch.zeros_like(logits).scatter(-1, places[:, :k], kept)


def _sums_to_one(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    total = got.sum(-1)
    worst = total[(total - 1).abs().argmax()].item()
    return f"a row sums to {worst:.4g}" if abs(worst - 1) > 1e-6 else None


def _keeps_k(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    kept = (got > 0).sum(-1)
    wrong = kept[kept != arguments[2]]
    if len(wrong):
        return f"{int(wrong[0])} tokens of a row can be drawn, k = {arguments[2]} should be"
    return None


TOP_K = Exercise(
    id="2.7",
    title="temperature and top-k",
    name="top_k_probabilities",
    signature="top_k_probabilities(logits: Tensor, temperature: float, k: int) -> Tensor",
    taught="Part 2, sampling",
    difficulty=2,
    minutes=10,
    make_inputs=_top_k_inputs,
    oracle=_top_k_oracle,
    statement="softmax(logits / temperature) over each row's k largest logits, 0 elsewhere",
    properties=(
        Property("the probabilities of a row sum to 1", _sums_to_one),
        Property("exactly k tokens of each row are kept", _keeps_k),
    ),
    wrong_answers=(
        WrongAnswer(
            "multiplied by the temperature",
            _top_k_times,
            "The logits are multiplied by the temperature: it works backwards. Divide, so that a "
            "low temperature makes the favourite stand out.",
        ),
        WrongAnswer(
            "temperature after the softmax",
            _top_k_after,
            "The temperature divides the probabilities, so they no longer sum to 1. It divides the "
            "logits, before the softmax.",
        ),
        WrongAnswer(
            "not renormalised",
            _top_k_not_normalised,
            "The others are set to 0 after the softmax and the rest is not scaled up to sum to 1 "
            "again. Set their logits to -inf before the softmax.",
        ),
        WrongAnswer(
            "logits set to zero",
            _top_k_zero,
            "The removed logits are set to 0, and exp(0) is 1: they can still be drawn. Set them "
            "to -inf.",
        ),
        WrongAnswer(
            "the smallest k",
            _top_k_smallest,
            "The k smallest logits are kept. Keep the largest.",
        ),
        WrongAnswer(
            "temperature ignored",
            _top_k_no_temperature,
            "The temperature changes nothing in your result: divide the logits by it.",
        ),
        WrongAnswer(
            "one threshold for the batch",
            _top_k_first_row,
            "One threshold, that of the first row, serves the whole batch. Every row has its own "
            "k-th largest logit: topk(..., dim=-1).",
        ),
    ),
    alternatives=(_top_k_by_scatter,),
    examples=((torch.tensor([[0.0, math.log(9.0), math.log(4.0)]], dtype=torch.float64), 2.0, 2),),
)

# 2.8 Top-p ------------------------------------------------------------------------------------


def _probability_rows(draw: Draw, b: int, v: int) -> Tensor:
    return torch.softmax(draw.normal(b, v, scale=1.5), dim=-1)


def _top_p_inputs(draw: Draw, size: int) -> Arguments:
    b, v = [(1, 2), (1, 3), (1, 4), (1, 5), (2, 6), (3, 9)][size]
    probabilities = _probability_rows(draw, b, v)
    if size == 1:  # the favourite alone is more than p
        probabilities = torch.tensor([[0.2, 0.7, 0.1]], dtype=torch.float64)
        return probabilities[:, torch.tensor(draw.distinct(3, 0, 2))], 0.5
    return probabilities, draw.pick([0.35, 0.6, 0.8, 0.9])


def _top_p_oracle(probabilities: Tensor, p: float) -> Tensor:
    rows = []
    for row in probabilities.tolist():
        kept, total = [], 0.0
        for i in sorted(range(len(row)), key=lambda i: row[i], reverse=True):
            kept.append(i)
            total += row[i]
            if total >= p:
                break
        rows.append([row[i] / total if i in kept else 0.0 for i in range(len(row))])
    return torch.tensor(rows, dtype=torch.float64)


def _top_p_general(probabilities: Tensor, keep: Any, normalise: bool = True) -> Tensor:
    values, places = probabilities.sort(dim=-1, descending=True)
    values = values * keep(values)
    if normalise:
        values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(values).scatter(-1, places, values)


def _top_p_drops_crossing(probabilities: Tensor, p: float) -> Tensor:
    return _top_p_general(probabilities, lambda values: values.cumsum(-1) <= p)


def _top_p_one_more(probabilities: Tensor, p: float) -> Tensor:
    def keep(values: Tensor) -> Tensor:
        before = values.cumsum(-1) - values
        inside = before < p
        return inside | torch.cat([inside[:, :1], inside[:, :-1]], dim=-1)

    return _top_p_general(probabilities, keep)


def _top_p_not_normalised(probabilities: Tensor, p: float) -> Tensor:
    return _top_p_general(probabilities, lambda v: v.cumsum(-1) - v < p, normalise=False)


def _top_p_sorted(probabilities: Tensor, p: float) -> Tensor:
    values = probabilities.sort(dim=-1, descending=True).values
    values = values * (values.cumsum(-1) - values < p)
    return values / values.sum(-1, keepdim=True)


def _top_p_threshold(probabilities: Tensor, p: float) -> Tensor:
    kept = probabilities * (probabilities >= 1 - p)
    return kept / kept.sum(-1, keepdim=True)


def _top_p_ascending(probabilities: Tensor, p: float) -> Tensor:
    values, places = probabilities.sort(dim=-1)
    values = values * (values.cumsum(-1) - values < p)
    values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(values).scatter(-1, places, values)


def _top_p_unsorted(probabilities: Tensor, p: float) -> Tensor:
    kept = probabilities * (probabilities.cumsum(-1) - probabilities < p)
    return kept / kept.sum(-1, keepdim=True)


def _top_p_by_rank(probabilities: Tensor, p: float) -> Tensor:
    # mass of everything more probable than token i, without sorting
    above = probabilities[:, None, :] > probabilities[:, :, None]
    mass = (above * probabilities[:, None, :]).sum(-1)
    kept = torch.where(mass < p, probabilities, 0.0)
    return kept / kept.sum(-1, keepdim=True)


def _reaches_p(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    probabilities, p = arguments
    if not bool((got > 0).any(-1).all()):
        return "a row has no token left; the favourite always stays"
    mass = (probabilities * (got > 0)).sum(-1)
    least = float(mass.min())
    if least < p - 1e-9:
        return f"the kept tokens of a row have a probability of {least:.4g}, less than p = {p}"
    return None


def _no_more_than_needed(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    probabilities, p = arguments
    for row, kept in zip(probabilities, got > 0):
        mass, least = float(row[kept].sum()), float(row[kept].min())
        if mass - least >= p:
            return (
                f"without the kept token of probability {least:.4g} the rest would still reach "
                f"p = {p}"
            )
    return None


TOP_P = Exercise(
    id="2.8",
    title="top-p: the nucleus",
    name="top_p_probabilities",
    signature="top_p_probabilities(probabilities: Tensor, p: float) -> Tensor",
    taught="Part 2, sampling",
    difficulty=4,
    minutes=20,
    make_inputs=_top_p_inputs,
    oracle=_top_p_oracle,
    statement="the fewest most probable tokens that together reach p, renormalised",
    properties=(
        Property("the kept tokens reach p", _reaches_p),
        Property("the probabilities of a row sum to 1", _sums_to_one),
        Property("no more tokens are kept than needed", _no_more_than_needed),
    ),
    wrong_answers=(
        WrongAnswer(
            "crossing token dropped",
            _top_p_drops_crossing,
            "The token that crosses p is dropped, so the kept ones stay below p, and when the "
            "favourite alone exceeds p nothing is left. Keep a token while the sum before it is "
            "below p.",
        ),
        WrongAnswer(
            "one token too many",
            _top_p_one_more,
            "One token too many is kept: the one after the token that crosses p. A shift by one "
            "is applied to a mask that did not need it.",
        ),
        WrongAnswer(
            "not renormalised",
            _top_p_not_normalised,
            "The right tokens are kept, and their probabilities do not sum to 1: divide by their "
            "sum.",
        ),
        WrongAnswer(
            "left in sorted order",
            _top_p_sorted,
            "The result is in sorted order: probabilities have lost their tokens. Put them back "
            "with scatter, or sort the mask back.",
        ),
        WrongAnswer(
            "a threshold on each token",
            _top_p_threshold,
            "Each token is compared with 1 - p. Top-p is about the sum of the most probable "
            "tokens, not about any one of them.",
        ),
        WrongAnswer(
            "sorted upwards",
            _top_p_ascending,
            "The sum starts from the least probable token. Sort in descending order.",
        ),
        WrongAnswer(
            "not sorted",
            _top_p_unsorted,
            "The sum runs in the order of the vocabulary. Sort by probability first, the most "
            "probable in front.",
        ),
    ),
    alternatives=(_top_p_by_rank,),
    examples=((torch.tensor([[0.25, 0.5, 0.125, 0.125]], dtype=torch.float64), 0.6),),
)

# 2.9 Min-p ------------------------------------------------------------------------------------


def _min_p_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:  # no token reaches p by itself: an absolute threshold keeps none
        return torch.tensor([[0.25, 0.15, 0.3, 0.3]], dtype=torch.float64), 0.6
    b, v = [(1, 2), (1, 3), (1, 5), (2, 4), (2, 6), (3, 9)][size]
    probabilities = _probability_rows(draw, b, v)
    if b > 1:  # a sure row beside a hesitant one
        probabilities[1] = torch.softmax(draw.normal(v, scale=0.1), dim=-1)
        probabilities[0] = 0.9 * torch.nn.functional.one_hot(torch.tensor(1), v) + 0.1 / v
    return probabilities, 0.5 if size == 4 else draw.pick([0.1, 0.2, 0.3, 0.5])


def _min_p_oracle(probabilities: Tensor, min_p: float) -> Tensor:
    rows = []
    for row in probabilities.tolist():
        kept = [value if value >= min_p * max(row) else 0.0 for value in row]
        rows.append([value / math.fsum(kept) for value in kept])
    return torch.tensor(rows, dtype=torch.float64)


def _renormalised(probabilities: Tensor, keep: Tensor) -> Tensor:
    kept = probabilities * keep
    return kept / kept.sum(-1, keepdim=True)


def _min_p_absolute(probabilities: Tensor, min_p: float) -> Tensor:
    return _renormalised(probabilities, probabilities >= min_p)


def _min_p_batch_maximum(probabilities: Tensor, min_p: float) -> Tensor:
    return _renormalised(probabilities, probabilities >= min_p * probabilities.max())


def _min_p_not_normalised(probabilities: Tensor, min_p: float) -> Tensor:
    return probabilities * (probabilities >= min_p * probabilities.amax(-1, keepdim=True))


def _min_p_reversed(probabilities: Tensor, min_p: float) -> Tensor:
    return _renormalised(
        probabilities, probabilities < min_p * probabilities.amax(-1, keepdim=True)
    )


def _min_p_one_minus(probabilities: Tensor, min_p: float) -> Tensor:
    return _renormalised(
        probabilities, probabilities >= (1 - min_p) * probabilities.amax(-1, keepdim=True)
    )


def _min_p_in_logs(probabilities: Tensor, min_p: float) -> Tensor:
    logs = probabilities.log()
    low = logs < logs.max(dim=-1, keepdim=True).values + math.log(min_p)
    return torch.softmax(logs.masked_fill(low, -math.inf), dim=-1)


def _favourite_stays(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    probabilities, _ = arguments
    favourite = got.gather(-1, probabilities.argmax(-1, keepdim=True))
    if not bool((favourite > 0).all()):
        return "the most probable token of a row has been removed; it always stays"
    return None


MIN_P = Exercise(
    id="2.9",
    title="min-p",
    name="min_p_probabilities",
    signature="min_p_probabilities(probabilities: Tensor, min_p: float) -> Tensor",
    taught="Part 2, sampling",
    difficulty=2,
    minutes=10,
    make_inputs=_min_p_inputs,
    oracle=_min_p_oracle,
    statement="tokens of at least min_p times their row's largest probability, renormalised",
    properties=(
        Property("the most probable token stays", _favourite_stays),
        Property("the probabilities of a row sum to 1", _sums_to_one),
    ),
    wrong_answers=(
        WrongAnswer(
            "an absolute threshold",
            _min_p_absolute,
            "Each token is compared with min_p itself, which can remove every token of a hesitant "
            "row. The threshold is min_p times the row's largest probability.",
        ),
        WrongAnswer(
            "the maximum of the batch",
            _min_p_batch_maximum,
            "The largest probability of the whole batch sets the threshold. Each row has its own "
            "maximum: amax(-1, keepdim=True).",
        ),
        WrongAnswer(
            "not renormalised",
            _min_p_not_normalised,
            "The right tokens are kept, and their probabilities do not sum to 1: divide by their "
            "sum.",
        ),
        WrongAnswer(
            "comparison the wrong way round",
            _min_p_reversed,
            "The comparison is the wrong way round: the improbable tokens are kept.",
        ),
        WrongAnswer(
            "one minus min_p",
            _min_p_one_minus,
            "The threshold is (1 - min_p) times the maximum. A larger min_p is stricter: min_p "
            "times the maximum.",
        ),
    ),
    alternatives=(_min_p_in_logs,),
    examples=((torch.tensor([[0.5, 0.3, 0.16, 0.04]], dtype=torch.float64), 0.5),),
)

# 2.10 Repetition penalty ----------------------------------------------------------------------


def _repetition_inputs(draw: Draw, size: int) -> Arguments:
    b, v, t = [(1, 2, 1), (1, 3, 2), (1, 4, 3), (2, 5, 3), (2, 7, 4), (3, 9, 5)][size]
    logits = draw.uniform(0.2, 2.0, b, v)
    signs = torch.where(draw.uniform(0.0, 1.0, b, v) < 0.5, -1.0, 1.0)
    signs[:, 0], signs[:, 1] = 1.0, -1.0
    previous = draw.integers(0, v - 1, b, t)
    if size in (0, 1):  # a negative score that has occurred
        previous[:, 0] = 1
    if size >= 2:  # one of each sign, one of them twice
        previous[:, 0], previous[:, 1], previous[:, 2] = 0, 1, 0
    if b > 1:  # rows that saw different tokens
        previous[1, :] = 2
    return logits * signs, previous, draw.pick([1.3, 1.7, 2.0])


def _repetition_oracle(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    rows = []
    for row, seen in zip(logits.tolist(), previous.tolist()):
        new = list(row)
        for token in set(seen):
            new[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
        rows.append(new)
    return torch.tensor(rows, dtype=torch.float64)


def _seen(logits: Tensor, previous: Tensor) -> Tensor:
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, previous, True)


def _repetition_divided(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    return torch.where(_seen(logits, previous), logits / penalty, logits)


def _repetition_each_time(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    out = logits.clone()
    for row in range(len(out)):
        for token in previous[row].tolist():
            value = out[row, token]
            out[row, token] = value / penalty if value > 0 else value * penalty
    return out


def _repetition_subtracted(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    return torch.where(_seen(logits, previous), logits - penalty, logits)


def _repetition_rewarded(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    changed = torch.where(logits > 0, logits * penalty, logits / penalty)
    return torch.where(_seen(logits, previous), changed, logits)


def _repetition_whole_batch(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    changed = torch.where(logits > 0, logits / penalty, logits * penalty)
    seen = _seen(logits, previous).any(0, keepdim=True)
    return torch.where(seen, changed, logits)


def _repetition_everything(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def _repetition_by_gather(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    picked = logits.gather(1, previous)
    picked = torch.minimum(picked / penalty, picked * penalty)
    return logits.scatter(1, previous, picked)


def _never_likelier(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits = arguments[0]
    raised = (got > logits + 1e-12).nonzero()
    if len(raised):
        row, token = raised[0].tolist()
        return (
            f"token {token} had logit {float(logits[row, token]):.4g} and has "
            f"{float(got[row, token]):.4g} now: a penalty must never raise a logit"
        )
    return None


def _unseen_untouched(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits, previous, _ = arguments
    for row, seen in enumerate(previous.tolist()):
        for token in range(logits.shape[1]):
            if token not in seen and float(got[row, token]) != float(logits[row, token]):
                return f"token {token} has not occurred in row {row} and its logit has changed"
    return None


REPETITION = Exercise(
    id="2.10",
    title="the repetition penalty",
    name="penalise_repetition",
    signature="penalise_repetition(logits: Tensor, previous: Tensor, penalty: float) -> Tensor",
    taught="Part 2, sampling",
    difficulty=3,
    minutes=15,
    make_inputs=_repetition_inputs,
    oracle=_repetition_oracle,
    statement="logits of tokens that occurred: divided if positive, multiplied if negative, once",
    properties=(
        Property("a penalty never makes a token more likely", _never_likelier),
        Property("tokens that have not occurred keep their logits", _unseen_untouched),
    ),
    wrong_answers=(
        WrongAnswer(
            "always divided",
            _repetition_divided,
            "Every logit is divided, and dividing a negative one brings it closer to 0: the token "
            "gets likelier. Divide positive logits and multiply negative ones.",
        ),
        WrongAnswer(
            "once per occurrence",
            _repetition_each_time,
            "A token that occurred twice is penalised twice. The penalty counts once, however "
            "often the token occurred.",
        ),
        WrongAnswer(
            "subtracted",
            _repetition_subtracted,
            "The penalty is subtracted; that is the presence penalty of other libraries. This one "
            "is a factor.",
        ),
        WrongAnswer(
            "the wrong way round",
            _repetition_rewarded,
            "Multiplication and division are swapped: repeated tokens get likelier.",
        ),
        WrongAnswer(
            "tokens of the whole batch",
            _repetition_whole_batch,
            "Tokens that occurred in any row are penalised in all of them. Every row has its own "
            "past.",
        ),
        WrongAnswer(
            "every token",
            _repetition_everything,
            "All tokens are penalised, whether they occurred or not: `previous` is not used.",
        ),
    ),
    alternatives=(_repetition_by_gather,),
    examples=(
        (
            torch.tensor([[2.0, -1.0, 3.0]], dtype=torch.float64),
            torch.tensor([[0, 1, 0]]),
            2.0,
        ),
    ),
)

# 2.11 Greedy decoding -------------------------------------------------------------------------


def _greedy_inputs(draw: Draw, size: int) -> Arguments:
    b, t, v, new = [
        (1, 1, 3, 1),
        (1, 2, 3, 2),
        (1, 1, 4, 4),
        (2, 2, 4, 4),
        (3, 2, 5, 5),
        (3, 3, 6, 6),
    ][size]
    for _ in range(200):
        scores, ids = draw.scores(v), draw.integers(0, v - 1, b, t)
        # The stop token is one that the model does say, but not as the very last word.
        said = [row[t:] for row in _greedy_rows(scores, ids, new, stop=-1)]
        early = [token for row in said for token in row[:-1]]
        stop = draw.pick(early) if early else said[0][0]
        if size in (3, 4):
            ids[:, 0] = stop  # a stop token in the prompt stops nothing
        if size < 3:
            break
        # In a batch: some row stops before the others and would have had more to say.
        rows = _greedy_rows(scores, ids, new, stop)
        free = _greedy_rows(scores, ids, new, stop=-1)
        longest = max(len(row) for row in rows)
        talks_on = any(set(f[len(r) : longest]) - {stop} for r, f in zip(rows, free))
        if talks_on and (size != 3 or _all_stop_apart(scores, ids, new, stop)):
            break
    return scores, ids, new, stop


def _all_stop_apart(scores: Answer, ids: Tensor, new: int, stop: int) -> bool:
    """Whether all rows stop before the last step, and never all in one step."""
    together = _greedy_together(scores, ids, new, stop)
    return together.shape[1] > _greedy_goes_on(scores, ids, new, stop).shape[1]


def _greedy_rows(scores: Answer, ids: Tensor, new: int, stop: int) -> list[list[int]]:
    """Each row decoded by itself, which batched decoding must agree with."""
    rows = []
    for prompt in ids.tolist():
        row = list(prompt)
        for _ in range(new):
            last = scores(torch.tensor([row]))[0, -1].tolist()
            row.append(last.index(max(last)))
            if row[-1] == stop:
                break
        rows.append(row)
    return rows


def _greedy_oracle(next_logits: Answer, ids: Tensor, max_new_tokens: int, stop: int) -> Tensor:
    rows = _greedy_rows(next_logits, ids, max_new_tokens, stop)
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [stop] * (longest - len(row)) for row in rows])


def _greedy_general(
    scores: Answer,
    ids: Tensor,
    new: int,
    stop: int,
    *,
    freeze: bool = True,
    end: str = "all",
    position: int = -1,
    append: bool = True,
    done_at_start: bool = False,
) -> Tensor:
    done = (ids == stop).any(1) if done_at_start else torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(new):
        token = scores(ids)[:, position].argmax(-1)
        if freeze:
            token = torch.where(done, stop, token)
        after = done | (token == stop)
        if not append and bool(after.all()):
            break
        done = after
        ids = torch.cat([ids, token[:, None]], dim=1)
        ended = {"all": done.all(), "any": done.any(), "together": (token == stop).all()}
        if end in ended and bool(ended[end]):
            break
    return ids


def _greedy_never_stops(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, freeze=False, end="never")


def _greedy_goes_on(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, freeze=False)


def _greedy_together(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, freeze=False, end="together")


def _greedy_any(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, end="any")


def _greedy_first_position(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, position=0)


def _greedy_prompt_stops(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, done_at_start=True)


def _greedy_stop_not_appended(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, append=False)


def _greedy_new_only(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop)[:, ids.shape[1] :]


def _greedy_in_place(next_logits: Answer, ids: Tensor, max_new_tokens: int, stop: int) -> Tensor:
    b, t = ids.shape
    out = torch.full((b, t + max_new_tokens), stop)
    out[:, :t] = ids
    alive = torch.ones(b, dtype=torch.bool)
    length = t
    while length < t + max_new_tokens and alive.any():
        # only the rows that are still running are scored
        token = next_logits(out[alive, :length])[:, -1].max(dim=-1).indices
        out[alive, length] = token
        alive[alive.clone()] = token != stop
        length += 1
    return out[:, :length]


def _prompt_is_kept(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    _, ids, _, _ = arguments
    if not torch.equal(got[:, : ids.shape[1]], ids):
        return "the result must begin with the prompt"
    return None


def _stopped_stays_stopped(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    _, ids, _, stop = arguments
    for index, row in enumerate(got[:, ids.shape[1] :].tolist()):
        if stop in row and any(token != stop for token in row[row.index(stop) :]):
            return f"row {index} goes on talking after its stop token"
    return None


def _stops_when_all_have(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    _, ids, _, stop = arguments
    if got.shape[1] > ids.shape[1] + 1 and bool((got[:, -2] == stop).all()):
        before = got[:, ids.shape[1] : -1]
        if bool((before == stop).any(1).all()):
            return "all rows had stopped and the loop went on"
    return None


GREEDY = Exercise(
    id="2.11",
    title="greedy decoding of a batch",
    name="greedy_decode",
    signature=("greedy_decode(next_logits, ids: Tensor, max_new_tokens: int, stop: int) -> Tensor"),
    taught="Part 2, sampling",
    difficulty=4,
    minutes=20,
    make_inputs=_greedy_inputs,
    oracle=_greedy_oracle,
    statement="each row is what greedy decoding of it alone gives, filled up with the stop token",
    properties=(
        Property("the prompt is kept", _prompt_is_kept),
        Property("a row that has stopped stays stopped", _stopped_stays_stopped),
        Property("the loop ends when every row has stopped", _stops_when_all_have),
    ),
    forbidden=(),
    wrong_answers=(
        WrongAnswer(
            "never stops",
            _greedy_never_stops,
            "The stop token is ignored: max_new_tokens are generated every time.",
        ),
        WrongAnswer(
            "stopped rows go on",
            _greedy_goes_on,
            "Rows that have stopped go on while others are running. Once a row has said stop, "
            "every later token of it is stop.",
        ),
        WrongAnswer(
            "ends when all rows say stop at once",
            _greedy_together,
            "The loop ends only when all rows say stop in the same step, and until then rows that "
            "have stopped talk on. Remember for each row whether it has stopped.",
        ),
        WrongAnswer(
            "stops with the first row",
            _greedy_any,
            "The whole batch ends as soon as one row stops. Go on until all rows have.",
        ),
        WrongAnswer(
            "logits of the first position",
            _greedy_first_position,
            "The next token is read off the first position. The prediction of what comes next "
            "stands at the last one: [:, -1].",
        ),
        WrongAnswer(
            "a stop token in the prompt counts",
            _greedy_prompt_stops,
            "A stop token in the prompt ends the row at once. Only generated tokens count.",
        ),
        WrongAnswer(
            "last stop token missing",
            _greedy_stop_not_appended,
            "The loop ends before the stop token is appended. It belongs to the result, so that "
            "the reader sees that the text is finished.",
        ),
        WrongAnswer(
            "prompt left out",
            _greedy_new_only,
            "Only the new tokens are returned; the result starts with the prompt.",
        ),
    ),
    alternatives=(_greedy_in_place,),
    examples=((torch.nn.functional.one_hot, torch.tensor([[0, 2, 1]]), 2, 0),),
)

EXERCISES = (
    WINDOWS,
    CROSS_ENTROPY,
    DOCUMENTS,
    SCORES,
    SCHEDULE,
    CLIP,
    TOP_K,
    TOP_P,
    MIN_P,
    REPETITION,
    GREEDY,
)
