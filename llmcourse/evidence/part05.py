"""Evidence for Part 5: what a mixture of experts needs to work, and what it is worth.

Taught in Part 5. Small models, of the village tales under `balance` and of four kinds of text
elsewhere (`part05_world`), three seeds each. For each seed all arms see the same batches in the
same order, and all routers begin as the config says by default. The result is the held-out loss in
nats per byte, over all text and for each corpus.

    balance      a mixture without any balancing, and with each cure: loads, entropy, losses
    sizes        dense against sparse at equal active parameters, at equal total parameters, and
                 with the seconds that a mixture takes spent on a dense model
    capacity     what a limit on an expert's tokens drops, and costs
    grain        fine-grained and shared experts at equal arithmetic per token
    stacks       sparse layers among dense ones, and a dense branch beside the experts
    z_loss       the size of the router's logits with and without
    rates        dense and sparse at lower and higher learning rates
    upcycling    a dense model that goes on as itself, as a mixture of copies, or from scratch

The runs with the load-balancing loss also say which expert takes which class of tokens, against
chance ("specialists"), and with expert choice what a look ahead was worth ("prefixes").

A difference between two arms is judged seed by seed, as in Part 3: an arm wins or loses when the
95% interval of its mean paired difference leaves out zero.

What pilot runs of one or two seeds said, and these do not: on the four texts, where each expert
sees few tokens in so short a run, balancing has a price (selection bias 1%, noisy top-k 4% of the
loss); on the village alone a feed-forward network of 16 times the width gains 1 to 2%, so that
dense and sparse models are nearly level there; and with 8 experts fewer starve, and less surely.

Runs are kept as they finish, so that a measurement that was stopped goes on (`resumable`).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from llmcourse.data import tales
from llmcourse.evidence import part05_runs as runs
from llmcourse.evidence import part05_world as world
from llmcourse.evidence.part03 import compare
from llmcourse.evidence.part05_arms import (
    BALANCED,
    DENSE,
    EXPERT_CHOICE,
    RATES,
    SECTIONS,
    SEEDS,
    SETTINGS,
    WEIGHT,
    Arm,
    config_of,
    distinct_arms,
    facts,
    name_of,
    same,
)
from llmcourse.evidence.resumable import Finished
from llmcourse.train import StepRecord

STARVING = 0.02  # share of the assignments: an expert below it starves
KEEP_EVERY = 200  # updates between the later points of a router's history in the file
FACTOR = 2.0  # loads are even when all are within this factor of uniform
SECONDS = "dense, equal seconds"  # as many updates as fit into the mixture's seconds
UPCYCLING: dict[str, Any] = {"before": 300, "after": 300, "experts": WEIGHT}


def recipe() -> dict[str, Any]:
    """Everything the numbers hang on, apart from the machine and the Python release."""
    return {
        "seeds": list(SEEDS),
        "settings": {name: setting.recipe() for name, setting in SETTINGS.items()},
        "sections": {
            section: {name: list(arm) for name, arm in arms.items()}
            for section, arms in SECTIONS.items()
        },
        "thresholds": [STARVING, FACTOR],
        "watched": [list(runs.EARLY), runs.EVERY, runs.PREFIXES],
        "specialists": [runs.FEWEST, runs.SAMPLES],
        "village": tales.fingerprint(),
        "upcycling": UPCYCLING,
    }


def measure(say: Callable[[str], None], finished: Finished | None = None) -> dict[str, Any]:
    """Everything; about 25 minutes on two cores. What is in `finished` is not made again."""
    from llmcourse.evidence.store import recipe_fingerprint

    finished = finished or Finished("part05", recipe_fingerprint("part05"))
    speeds = _kept(finished, "seconds per step", measure_speeds)
    results = perform(jobs(steps_in_equal_seconds(speeds)), finished, say)
    found = assemble(results, speeds)
    finished.clear()
    return found


def arms_of(evidence: dict[str, Any], section: str) -> dict[str, dict[str, Any]]:
    """The arms of a section of a loaded evidence file: label -> costs, and "runs", one per seed."""
    return {label: evidence["arms"][name] for label, name in evidence[section]["arms"].items()}


def progress(arm: dict[str, Any], seconds_per_step: float) -> list[dict[str, list[float]]]:
    """What a figure of losses needs of an arm's runs: at each point that was looked into, the
    held-out "loss", and the "updates", "flops" and "seconds" that it took."""
    found = []
    for run in arm["runs"]:
        steps = run["steps"]
        flops = arm["training_flops_per_token"] * run["tokens"] / steps[-1]  # of an update
        found.append(
            {
                "loss": run["validation"],
                "updates": steps,
                "flops": [step * flops for step in steps],
                "seconds": [step * seconds_per_step for step in steps],
            }
        )
    return found


def jobs(longer: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """All runs by name.

    Args:
        longer: updates of the dense model that has the mixture's seconds.
    """
    found: dict[str, Callable[[], dict[str, Any]]] = {
        f"{name}, seed {seed}": partial(run_arm, arm, seed)
        for name, arm in distinct_arms().items()
        for seed in SEEDS[: arm.seeds]
    }
    found |= {f"{SECONDS}, seed {s}": partial(run_dense_longer, s, longer) for s in SEEDS}
    return found | {f"upcycling, seed {s}": partial(run_upcycling, s) for s in SEEDS}


def perform(
    jobs: dict[str, Callable[[], dict[str, Any]]],
    finished: Finished,
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Every job's result: kept ones as they are, the others two at a time with one thread each."""
    results = {name: finished.get(name) for name in jobs}
    # Models this small gain little from a second thread; two of them side by side gain nearly all.
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_one_thread) as workers:
        futures = {
            name: workers.submit(_kept, finished, name, job)
            for name, job in jobs.items()
            if results[name] is None
        }
        for name, future in futures.items():
            results[name] = future.result()
            say(f"{name}: {_headline(results[name])}")
    return results


def _kept(finished: Finished, name: str, job: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A job's result, kept as soon as it is there, by the process that made it."""
    result = finished.get(name)
    if result is None:
        result = job()
        finished.put(name, result)
    return result


def arm_steps(arm: Arm, seed: int) -> Iterator[StepRecord]:
    """The training of a recorded run, from its first update: for comparing with the record."""
    setting = SETTINGS[arm.setting]
    return setting.steps_of(
        runs.untrained(config_of(arm), seed), seed, setting.schedule(rate=arm.rate)
    )


def run_arm(arm: Arm, seed: int) -> dict[str, Any]:
    """Train one arm with one seed and look into it."""
    setting = SETTINGS[arm.setting]
    model = runs.untrained(config_of(arm), seed)
    found = runs.train_and_watch(setting, model, seed, setting.schedule(rate=arm.rate))
    experts, text = model.config.experts, setting.world
    if arm.setting == "village" and arm.experts in (WEIGHT, EXPERT_CHOICE):
        found["prefixes"] = runs.score_prefixes(text, model)
    if experts is not None and experts.capacity is not None:
        found["dropped_by_position"] = runs.dropped_by_position(text, model)
    if same(arm, SECTIONS["sizes"]["mixture"]):
        found["specialists"] = runs.specialists(text, model)
        fresh = runs.untrained(config_of(arm), seed)
        found["untrained_specialists"] = runs.specialists(text, fresh)
    return found


def run_dense_longer(seed: int, steps: int) -> dict[str, Any]:
    """The dense model of equal active parameters with more updates, its rate's descent as long."""
    arm = SECTIONS["sizes"][DENSE]
    setting = SETTINGS[arm.setting]
    model = runs.untrained(config_of(arm), seed)
    return runs.train_and_watch(setting, model, seed, setting.schedule(steps))


def run_upcycling(seed: int) -> dict[str, Any]:
    before, after, experts = (UPCYCLING[name] for name in ("before", "after", "experts"))
    return runs.upcycling(SETTINGS["texts"], seed, before, after, experts)


def measure_speeds() -> dict[str, float]:
    """Seconds per update of the models of `sizes`, on one core of this machine, measured in turns.

    With one thread, as the runs have: what they compare is then what was measured.
    """
    arms = SECTIONS["sizes"]
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_one_thread) as fresh:
        configs = [config_of(arm) for arm in arms.values()]
        taken = fresh.submit(runs.seconds_per_step, SETTINGS["texts"], configs).result()
    return dict(zip(arms, taken, strict=True))


def steps_in_equal_seconds(speeds: dict[str, float]) -> int:
    """Updates of the dense model in the seconds that the mixture takes for its own."""
    return round(SETTINGS["texts"].steps * speeds["mixture"] / speeds[DENSE])


def assemble(results: dict[str, dict[str, Any]], speeds: dict[str, float]) -> dict[str, Any]:
    """The evidence from the runs' results."""
    found: dict[str, Any] = {
        "worlds": {
            name: {
                "floor_of_tales": round(world.floor_of_tales(setting.world), 5),
                "fingerprints": {
                    corpus: one.fingerprint for corpus, one in world.corpora(setting.world).items()
                },
                "steps": setting.steps,
            }
            for name, setting in SETTINGS.items()
        }
    }
    kept: dict[str, Any] = {}
    for name, arm in distinct_arms().items():
        own = [results[f"{name}, seed {seed}"] for seed in SEEDS[: arm.seeds]]
        kept[name] = {
            "setting": arm.setting,
            **facts(arm),
            "runs": [_thinned(run, arm.setting == "village") for run in own],
        }
    dense = SECTIONS["sizes"][DENSE]
    longer = [_thinned(results[f"{SECONDS}, seed {seed}"], False) for seed in SEEDS]
    kept[SECONDS] = {"setting": dense.setting, **facts(dense), "runs": longer}
    found["arms"] = kept
    for section, arms in SECTIONS.items():
        found[section] = {"arms": {label: name_of(arm) for label, arm in arms.items()}}
    sizes = found["sizes"]
    sizes["arms"][SECONDS] = SECONDS
    sizes["seconds_per_step"] = speeds | {SECONDS: speeds[DENSE]}
    for section in SECTIONS:
        if section != "rates":
            found[section]["comparisons"] = comparisons(arms_of(found, section))
    tried = arms_of(found, "rates")
    found["rates"]["comparisons"] = {
        f"mixture against dense, rate x {rate}": compare_runs(
            tried[f"mixture, rate x {rate}"]["runs"], tried[f"dense, rate x {rate}"]["runs"]
        )
        for rate, seeds in RATES.items()
        if seeds > 1
    }
    made = arms_of(found, "sizes")
    for other in (SECONDS, "dense, equal total"):
        compared = compare_runs(made["mixture"]["runs"], made[other]["runs"])
        sizes["comparisons"][f"mixture against {other}"] = compared
    balance = arms_of(found, "balance")
    found["balance"]["verdicts"] = {
        label: verdict(arm["runs"]) for label, arm in balance.items() if label != DENSE
    }
    found["balance"]["comparisons"]["load-balancing loss against dense"] = compare_runs(
        balance[BALANCED]["runs"], balance[DENSE]["runs"]
    )
    upcycled = [results[f"upcycling, seed {seed}"] for seed in SEEDS]
    upcycled = [
        run | {way: _thinned(run[way], False) for way in ("dense", "upcycled", "from scratch")}
        for run in upcycled
    ]
    found["upcycling"] = {
        "runs": upcycled,
        "comparisons": {
            f"upcycled against {other}": compare_runs(
                [run["upcycled"] for run in upcycled], [run[other] for run in upcycled]
            )
            for other in ("dense", "from scratch")
        },
    }
    return found


def _thinned(run: dict[str, Any], with_routers: bool) -> dict[str, Any]:
    """A result as the file keeps it: fewer points, and of most runs not every router's history."""
    places = [
        place
        for place, step in enumerate(run["steps"])
        if not with_routers or step in (*runs.EARLY, 100) or step % KEEP_EVERY == 0
    ]
    series = ("load", "entropy", "token_entropy", "confidence", "log_sum_exp")
    found = {name: value for name, value in run.items() if with_routers or name not in series}
    for name in ("steps", "validation", *series):
        if name in found:
            found[name] = [run[name][place] for place in places]
    if "untrained_specialists" in found:
        found["untrained_specialists"] = {
            name: {key: value for key, value in table.items() if key != "shares"}
            for name, table in run["untrained_specialists"].items()
        }
    return found


def comparisons(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every arm against the first, over the seeds that both have."""
    base, *_ = arms.values()
    return {
        label: compare_runs(arm["runs"], base["runs"][: len(arm["runs"])])
        for label, arm in list(arms.items())[1:]
    }


def compare_runs(own: Sequence[dict], base: Sequence[dict]) -> dict[str, Any]:
    """Nats per byte of some runs against others, seed by seed."""
    found = compare([r["nats_per_byte"] for r in own], [r["nats_per_byte"] for r in base])
    return dataclasses.asdict(found)


def verdict(own: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the loads of an arm say: on held-out stories, every seed, layer and expert."""
    shares = [share for run in own for share in itertools.chain.from_iterable(run["final"]["load"])]
    return {
        "starving": [runs.starving(run["final"], STARVING) for run in own],  # experts, per seed
        "even": all(runs.within(run["final"], FACTOR) for run in own),
        "lowest": min(shares),
        "highest": max(shares),
    }


def _one_thread() -> None:
    torch.set_num_threads(1)


def _headline(result: dict[str, Any]) -> str:
    if "nats_per_byte" in result:
        said = f"{result['nats_per_byte']:.4f} nats per byte, {result['seconds']} s"
        load = result["final"].get("load")
        if load:
            said += f", loads {min(map(min, load)):.3f} to {max(map(max, load)):.3f}"
        return said
    if "upcycled" in result:
        ends = (f"{way} {result[way]['nats_per_byte']:.4f}" for way in ("dense", "upcycled"))
        return f"start {result['start']:.4f}, " + ", ".join(ends)
    raise ValueError("a result that says nothing")
