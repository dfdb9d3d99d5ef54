"""The evidence of Part 4: complete, foretold before it was made, made again where it is cheap."""

from __future__ import annotations

import math

import pytest

from llmcourse.data import tales
from llmcourse.evaluate.scaling_law import ScalingLaw
from llmcourse.evidence import StaleEvidence, load, part04
from llmcourse.evidence.part04 import Job
from llmcourse.model import Transformer

LAW = ScalingLaw(0.245, 1.1, 0.32, 400.0, 0.74)


@pytest.fixture(scope="module")
def evidence():
    record = load("part04")
    assert "provisional" not in record, "this file is a stand-in; run: llmcourse evidence part04"
    return record["scaling"]


def made_up(jobs, luck=0.004):
    """What `train_all` would give if the law held exactly, but for some luck."""
    found = {}
    for place, job in enumerate(jobs):
        size, tokens = part04.parameter_count(job.width), job.tokens
        loss = LAW.loss(size, tokens) * math.exp(luck * math.sin(1.0 + 17.0 * place + job.seed))
        found[job] = {
            "width": job.width, "parameters": size, "tokens": tokens, "seed": job.seed,
            "learning_rate": part04.learning_rate(job), "nats_per_byte": loss,
            "curve": [], "seconds": 1.0,
        }  # fmt: skip
    return found


def test_it_is_complete(evidence):
    jobs = part04.small_jobs()
    assert len(jobs) >= 20
    assert len({job.width for job in jobs}) >= 5 and len({job.tokens for job in jobs}) >= 4
    for job, run in zip(jobs, evidence["runs"], strict=True):
        assert run["width"] == job.width and run["seed"] == 0
        assert run["tokens"] == pytest.approx(job.tokens, rel=0.02)
        assert run["parameters"] == part04.parameter_count(job.width)
        assert len(run["curve"]) == part04.CURVE_POINTS
    assert [run["seed"] for run in evidence["twins"]] == [0, *part04.TWIN_SEEDS]
    assert len(evidence["large"]) == len(evidence["foretold"]) == len(part04.LARGE)


def test_the_large_runs_are_larger_than_all_others(evidence):
    work = max(run["parameters"] * run["tokens"] for run in evidence["runs"])
    for run in evidence["large"]:
        assert run["parameters"] * run["tokens"] > 1.2 * work
    first = evidence["large"][0]
    assert first["parameters"] * first["tokens"] > 2 * work
    for name in ("parameters", "tokens"):
        assert first[name] > 1.1 * max(run[name] for run in evidence["runs"])


def test_no_model_is_below_the_floor(evidence):
    floor = tales.entropy_floor(part04.stories("held out"))
    assert evidence["floor"] == pytest.approx(floor.nats_per_byte, abs=1e-9)
    every = [*evidence["runs"], *evidence["twins"], *evidence["rates"], *evidence["large"]]
    assert min(run["nats_per_byte"] for run in every) > evidence["floor"]


def test_the_laws_follow_from_the_small_runs(evidence):
    found = part04.fits(evidence["runs"], evidence["floor"])
    for name in ("free", "fixed"):
        law, stored = found[name]["law"], evidence["fits"][name]["law"]
        for point in ((1e4, 3e5), (6e5, 1.5e6)):
            now, then = ScalingLaw(**law).loss(*point), ScalingLaw(**stored).loss(*point)
            assert now == pytest.approx(then, rel=1e-3), name
    assert evidence["fits"]["fixed"]["law"]["floor"] == evidence["floor"]


@pytest.mark.slow
def test_what_was_foretold_follows_from_the_small_runs_alone(evidence):
    """Nobody has looked at the large runs: the predictions come out again without them."""
    for said, (width, tokens) in zip(evidence["foretold"], part04.LARGE, strict=True):
        again = part04.foretell(evidence["runs"], evidence["floor"], width, tokens)
        for name in ("free", "fixed"):
            for end in ("loss", "low", "high"):
                assert said[name][end] == pytest.approx(again[name][end], rel=2e-3)
        assert said["naive"] == again["naive"]
        assert said["parameters"] == again["parameters"] == part04.parameter_count(width)


def test_the_verdicts_follow_from_the_losses(evidence):
    for said, made, found in zip(
        evidence["foretold"], evidence["large"], evidence["verdicts"], strict=True
    ):
        loss = made["nats_per_byte"]
        assert found["measured"] == loss
        assert found["naive_miss"] == pytest.approx(loss - said["naive"], abs=1e-9)
        for name in ("free", "fixed"):
            inside = said[name]["low"] <= loss <= said[name]["high"]
            assert found[name]["held"] == inside
            assert found[name]["miss"] == pytest.approx(loss - said[name]["loss"], abs=1e-9)


def test_the_law_is_worth_having(evidence):
    """The claims of the chapter, for the runs that are recorded."""
    floor, first = evidence["floor"], evidence["verdicts"][0]
    free = evidence["fits"]["free"]["law"]["floor"]
    assert abs(free / floor - 1) < 0.1, "the free fit finds the entropy of the text"
    assert abs(first["fixed"]["miss"]) < 0.05 * first["measured"]
    assert abs(first["fixed"]["miss"]) < abs(first["naive_miss"])
    assert evidence["fits"]["fixed"]["typical_miss"] < 0.03


def test_the_rates_are_neither_half_nor_double_of_what_they_should_be(evidence):
    luck = max(part04.spread(evidence["twins"]), 0.005)
    assert luck < 0.05
    tried = list(evidence["rates"])
    for width, tokens in part04.RATE_CHECKS:
        own = evidence["runs"][part04.small_jobs().index(Job(width, tokens))]
        others = [tried.pop(0) for _ in part04.RATE_FACTORS]
        for factor, other in zip(part04.RATE_FACTORS, others, strict=True):
            assert other["learning_rate"] == pytest.approx(factor * own["learning_rate"])
            assert other["width"] == width and other["tokens"] == own["tokens"]
        best = min(other["nats_per_byte"] for other in others)
        assert math.log(own["nats_per_byte"] / best) < 3 * luck, (width, tokens)
    assert tried == []


@pytest.mark.slow
def test_a_run_can_be_made_again(evidence):
    jobs = part04.small_jobs()
    job = Job(16, 240_000)
    recorded = evidence["runs"][jobs.index(job)]
    again = part04.train_one(job)
    assert again["tokens"] == recorded["tokens"]
    assert again["learning_rate"] == recorded["learning_rate"]
    # Rounding on another processor grows until it is like another seed, and no more than that.
    luck = max(part04.spread(evidence["twins"]), 0.005)
    assert math.log(again["nats_per_byte"] / recorded["nats_per_byte"]) == pytest.approx(
        0, abs=4 * luck
    )
    assert again["curve"][:2] == pytest.approx(recorded["curve"][:2], abs=0.1)


@pytest.mark.slow
def test_the_beginning_of_a_wider_run_can_be_made_again(evidence):
    job = Job(48, 240_000)
    recorded = evidence["runs"][part04.small_jobs().index(job)]["curve"]
    _, steps = part04.training_run(job)
    part = round(part04.training_config(job).steps / part04.CURVE_POINTS)
    losses = [next(steps).loss for _ in range(2 * part)]
    found = [sum(losses[:part]) / part, sum(losses[part:]) / part]
    assert found == pytest.approx(recorded[:2], abs=0.1)


@pytest.mark.slow
def test_nothing_large_is_trained_before_it_is_foretold(monkeypatch):
    """Order and independence, with runs that follow a known law."""
    happened = []

    def train(jobs, say):
        happened.append(("train", {(job.width, job.tokens) for job in jobs}))
        return made_up(jobs)

    monkeypatch.setattr(part04, "train_all", train)
    monkeypatch.setattr(part04, "SAMPLES", 20)
    found = part04.measure(lambda text: happened.append(("say", text)))["scaling"]
    assert [kind for kind, _ in happened] == ["train"] + ["say"] * len(part04.LARGE) + ["train"]
    assert happened[0][1].isdisjoint(part04.LARGE)
    assert happened[-1][1] == set(part04.LARGE)
    # The law is found, the floor with it, and the predictions hold what obeys the law.
    assert found["fits"]["free"]["law"]["floor"] == pytest.approx(LAW.floor, rel=0.03)
    assert abs(found["verdicts"][0]["free"]["miss"]) < 0.01
    assert found["foretold"][0]["compute_factor"] > 2
    # Other large runs, same predictions.
    monkeypatch.setattr(
        part04, "train_all", lambda jobs, say: made_up(jobs, 0.004 if len(jobs) > 9 else 0.5)
    )
    other = part04.measure(lambda text: None)["scaling"]
    assert other["verdicts"][0]["measured"] != found["verdicts"][0]["measured"]
    for mine, theirs in zip(found["foretold"], other["foretold"], strict=True):
        for name in ("free", "fixed"):
            assert mine[name]["high"] == pytest.approx(theirs[name]["high"], rel=1e-3)


def test_every_run_reads_stories_of_its_own_once():
    jobs = part04.small_jobs()
    jobs += [Job(*part04.TWINS, seed) for seed in part04.TWIN_SEEDS]
    jobs += [Job(width, tokens) for width, tokens in part04.LARGE]
    assert len({part04.stream_of(job) for job in jobs}) == len(jobs)
    assert min(part04.stream_of(job) for job in jobs) > 1000  # not those held out
    job = Job(16, 12_000)
    _, steps = part04.training_run(job)
    config = part04.training_config(job)
    records = list(steps)
    rows = tales.sample_stories(part04.n_stories(job), seed=part04.stream_of(job))
    assert len(records) == config.steps == len(rows) / part04.BATCH_SIZE
    assert records[-1].tokens == sum(len(part04.words().encode(text)) + 1 for text in rows)
    assert len(set(rows)) == len(rows)


def test_the_rate_follows_the_rule():
    base = Job(16, 240_000)
    assert part04.learning_rate(base) == part04.RATE["value"]
    by_width = part04.learning_rate(base._replace(width=64)) / part04.RATE["value"]
    assert by_width == pytest.approx(4 ** -part04.RATE["width_exponent"])
    by_tokens = part04.learning_rate(base._replace(tokens=960_000)) / part04.RATE["value"]
    assert by_tokens == pytest.approx(4 ** -part04.RATE["tokens_exponent"])
    assert part04.learning_rate(base._replace(factor=2.0)) == 2 * part04.RATE["value"]
    config = part04.training_config(base)
    assert config.min_learning_rate == pytest.approx(0.03 * config.learning_rate)


def test_parameters_are_counted_without_the_embedding():
    model = Transformer(part04.model_config(16))
    table = model.config.vocab_size * 16
    assert part04.parameter_count(16) == sum(p.numel() for p in model.parameters()) - table
    assert model.config.tie_embeddings


def test_a_curve_has_its_points_whatever_the_length():
    assert part04.curve([float(i) for i in range(20)]) == [float(i) for i in range(20)]
    assert part04.curve([1.0, 3.0] * 20) == [2.0] * 20
    assert len(part04.curve([0.0] * 717)) == part04.CURVE_POINTS


def test_a_changed_recipe_makes_it_stale(monkeypatch):
    changed = part04.recipe() | {"widths": [7]}
    monkeypatch.setattr(part04, "recipe", lambda: changed)
    with pytest.raises(StaleEvidence, match=r"another recipe.*llmcourse evidence part04|missing"):
        load("part04")
