"""Exercise 5.9 Does a router look into the future?"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading import routes
from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer
from llmcourse.grading.routes import Route

MUCH = 1e-6  # more than rounding


def _leak_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:
        return routes.tokens_choose(1, rounding=1e-9), draw.normal(2, 2)
    if size == 1:  # both experts like a later token better than the first
        logits = torch.tensor([[0.0, 2.0], [0.0, 4.0], [3.0, 0.0]], dtype=torch.float64)
        route: Route = routes.experts_choose(1)
    elif size == 2:  # an expert that everybody wants, and whose room grows with the text
        logits, route = torch.zeros(8, 2, dtype=torch.float64), routes.in_line(1, 1.0)
        logits[:, 0] = 4.0
    elif size == 3:
        logits, route = draw.normal(6, 3), routes.in_line(2, 2)
    elif size == 4:
        logits, route = torch.zeros(4, 3, dtype=torch.float64), routes.over_tokens()
    else:  # expert 0: second choice of the early tokens, first choice of the late ones
        early, late = [2.0, 4.0, 0.0], [4.0, 0.0, 2.0]
        logits = torch.tensor([early] * 3 + [late] * 4, dtype=torch.float64)
        route = routes.first_choices_first(2)
    logits = logits + draw.uniform(-0.3, 0.3, *logits.shape)
    return route, logits[:, draw.distinct(logits.shape[1], 0, logits.shape[1] - 1)]


def _leak_oracle(route: Route, logits: Tensor) -> Tensor:
    whole = route(logits).tolist()
    found = []
    for t in range(len(whole)):
        so_far = route(logits[: t + 1]).tolist()
        found.append(max(abs(a - b) for a, b in zip(so_far[t], whole[t])) > MUCH)
    return torch.tensor(found)


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() > MUCH).any())


def _leak_any_before(route: Route, logits: Tensor) -> Tensor:
    whole = route(logits)
    each = range(1, len(logits) + 1)
    return torch.tensor([_differ(route(logits[:t]), whole[:t]) for t in each])


def _leak_past_cut(route: Route, logits: Tensor) -> Tensor:
    whole = route(logits)
    each = range(len(logits))
    return torch.tensor([_differ(route(logits[t:])[0], whole[t]) for t in each])


def _leak_alone(route: Route, logits: Tensor) -> Tensor:
    whole = route(logits)
    each = range(len(logits))
    return torch.tensor([_differ(route(logits[t : t + 1])[0], whole[t]) for t in each])


def _leak_next_only(route: Route, logits: Tensor) -> Tensor:
    each = range(len(logits))
    return torch.tensor(
        [_differ(route(logits[: t + 1])[t], route(logits[: t + 2])[t]) for t in each]
    )


def _leak_future_changed(route: Route, logits: Tensor) -> Tensor:
    whole, found = route(logits), []
    for t in range(len(logits)):
        hidden = logits.clone()
        hidden[t + 1 :] = -logits[t + 1 :]
        found.append(_differ(route(hidden)[t], whole[t]))
    return torch.tensor(found)


def _leak_last_only(route: Route, logits: Tensor) -> Tensor:
    whole, shorter = route(logits), route(logits[:-1])
    found = [_differ(a, b) for a, b in zip(shorter, whole)]
    return torch.tensor([*found, False])


def _leak_who_only(route: Route, logits: Tensor) -> Tensor:
    whole = route(logits) > 0
    each = range(len(logits))
    return torch.tensor([not torch.equal(route(logits[: t + 1])[t] > 0, whole[t]) for t in each])


def _leak_bit_for_bit(route: Route, logits: Tensor) -> Tensor:
    whole = route(logits)
    each = range(len(logits))
    return torch.tensor([not torch.equal(route(logits[: t + 1])[t], whole[t]) for t in each])


def _leak_without_itself(route: Route, logits: Tensor) -> Tensor:
    whole, found = route(logits), [False]
    for t in range(1, len(logits)):
        found.append(_differ(route(logits[:t])[-1], whole[t]))
    return torch.tensor(found)


def _leak_shifted(route: Route, logits: Tensor) -> Tensor:
    # The token before the last one of each beginning.
    whole, found = route(logits), []
    for t in range(1, len(logits)):
        found.append(_differ(route(logits[: t + 1])[t - 1], whole[t - 1]))
    return torch.tensor([*found, False])


def _leak_inverted(route: Route, logits: Tensor) -> Tensor:
    return ~_leak_by_padding(route, logits)


def _leak_one_verdict(route: Route, logits: Tensor) -> Tensor:
    return _leak_by_padding(route, logits).any()


def _leak_verdict_for_all(route: Route, logits: Tensor) -> Tensor:
    found = _leak_by_padding(route, logits)
    return found.any().expand_as(found).clone()


def _leak_by_padding(route: Route, logits: Tensor) -> Tensor:
    # The last rows of all beginnings, put together into what a model sees as it writes.
    seen = torch.stack([route(logits[:n])[-1] for n in range(1, len(logits) + 1)])
    return (seen - route(logits)).abs().amax(dim=-1) > MUCH


def _last_never_leaks(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    if bool(got[-1]):
        return "nothing comes after the last token, so it cannot look ahead; it is marked True"
    return None


def _rounding_is_no_leak(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    route, logits = arguments
    far = (
        route(logits) - torch.cat([route(logits[: t + 1])[-1:] for t in range(len(logits))])
    ).abs()
    for t, largest in enumerate(far.amax(-1).tolist()):
        if bool(got[t]) and largest < MUCH:
            return (
                f"token {t} is marked True, and its weights differ by {largest:.1g} at most from "
                "those it gets when nothing follows"
            )
    return None


LEAK = Exercise(
    id="5.9",
    title="who looks ahead",
    name="looks_ahead",
    signature="looks_ahead(route, logits: Tensor) -> Tensor",
    taught="Part 5, let the experts choose",
    difficulty=3,
    minutes=15,
    make_inputs=_leak_inputs,
    oracle=_leak_oracle,
    statement="True for each token whose weights are others when nothing follows it",
    properties=(
        Property("the last token cannot look ahead", _last_never_leaks),
        Property("what differs by rounding is the same", _rounding_is_no_leak),
    ),
    wrong_answers=(
        WrongAnswer(
            "any token before",
            _leak_any_before,
            "A token is marked when any token up to it changes. Only its own weights matter: row t "
            "of the beginning that ends with token t.",
        ),
        WrongAnswer(
            "past cut off",
            _leak_past_cut,
            "The tokens before are taken away. They are the past, which a token may know: take "
            "away those after it, logits[: t + 1].",
        ),
        WrongAnswer(
            "all alone",
            _leak_alone,
            "Each token is routed alone, without its past. A token may know what came before it; "
            "take away only what comes after.",
        ),
        WrongAnswer(
            "the next token only",
            _leak_next_only,
            "Only the next token is added and taken away. A later one can change the weights too: "
            "compare with the whole text.",
        ),
        WrongAnswer(
            "future changed",
            _leak_future_changed,
            "The later logits are changed and the tokens are still there. A router that counts its "
            "tokens, as a capacity does, gives itself away only when they are gone: cut them off.",
        ),
        WrongAnswer(
            "the last token only",
            _leak_last_only,
            "Only the last token is taken away, once for all. Each token must be asked with "
            "nothing behind it.",
        ),
        WrongAnswer(
            "who, not how much",
            _leak_who_only,
            "Only which experts are chosen is compared. Weights that change with the future look "
            "ahead too.",
        ),
        WrongAnswer(
            "bit for bit",
            _leak_bit_for_bit,
            "The weights are compared bit for bit. Rounding changes with the number of tokens, as "
            "in every real kernel: let differences up to 1e-6 pass.",
        ),
        WrongAnswer(
            "without itself",
            _leak_without_itself,
            "The beginning stops before the token itself, so its row is another token's: "
            "logits[: t + 1] ends with token t.",
        ),
        WrongAnswer(
            "one token left",
            _leak_shifted,
            "The row before the last is compared: one later token is still there. With nothing "
            "after it, token t is the last row of logits[: t + 1].",
        ),
        WrongAnswer(
            "inverted",
            _leak_inverted,
            "The marks are inverted: True is for tokens whose weights change.",
        ),
        WrongAnswer(
            "one verdict",
            _leak_one_verdict,
            "This is one verdict for the text. Asked for is one for each token, (T,).",
        ),
        WrongAnswer(
            "one verdict for all",
            _leak_verdict_for_all,
            "All tokens are marked as soon as one looks ahead. Each has a verdict of its own.",
        ),
    ),
    alternatives=(_leak_by_padding,),
    examples=((routes.in_line(1, 1.0), torch.tensor([[2.0, 0.0]] * 4, dtype=torch.float64)),),
)
