"""Finding, loading, building and refusing stages, on a stage that trains in a moment."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from llmcourse import stages
from llmcourse.errors import CheckpointError
from llmcourse.model import ModelConfig, Transformer
from llmcourse.stages import Run, StaleStage, making, store
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer
from llmcourse.train import StepRecord


class Measured:
    def __init__(self, stage):
        self.mean = next(stage.model.parameters()).mean().item()

    def to_dict(self):
        return {"mean": self.mean}

    def __str__(self):
        return f"mean {self.mean:.3f}"


class Toy:
    """What a module of the package is to the store; its recipe can be changed."""

    TITLE, PART, BUILT_ON = "a toy", 4, None

    def __init__(self, built_on=None, n_updates=100):
        self.width, self.BUILT_ON, self.n_updates = 8, built_on, n_updates
        self.started = 0

    def recipe(self):
        return {"width": self.width}

    def start(self):
        self.started += 1
        tokenizer = ByteTokenizer((END_OF_TEXT,))
        config = ModelConfig(tokenizer.vocab_size, 8, 1, 1, self.width)
        model = Transformer(config, generator=torch.Generator().manual_seed(0))

        def updates():
            for step in range(1, self.n_updates + 1):
                with torch.no_grad():
                    model.embedding.weight += 1 / 512  # bfloat16 cannot hold all of it
                validation = 2.0 if step == 77 else None
                yield StepRecord(step, 1 / 3, 1e-3, 1.0, 10 * step, 0.1 * step, validation)

        facts = {"parameters": model.n_parameters()}
        return Run(model, tokenizer, updates(), self.n_updates, facts)

    def report(self, stage):
        return Measured(stage)


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """Two stages, `second` built on `first`; nothing shipped, nothing built."""
    modules = {"first": Toy(), "second": Toy(built_on="first")}
    monkeypatch.setattr(store, "NAMES", tuple(modules))
    real = store.module_of

    def module(name):
        return modules[name] if name in modules else real(name)

    monkeypatch.setattr(store, "module_of", module)
    monkeypatch.setattr(store, "course_root", lambda: tmp_path / "course")
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(store, "shipped_folder", lambda name: shipped / name)
    return SimpleNamespace(**modules, shipped=shipped, own=tmp_path / "course/runs/stages")


def build(name, out=None):
    return stages.build(name, out, progress=False)


class TestLoad:
    def test_what_was_built_comes_back_in_float32(self, toys):
        built = build("first", toys.shipped / "first")
        stage = stages.load("first")
        for one, two in zip(stage.model.parameters(), built.model.parameters(), strict=True):
            assert one.dtype == torch.float32
            assert torch.equal(one, two)
            assert torch.equal(one, one.bfloat16().float())  # as it was kept
        assert not stage.model.training
        assert (stage.name, stage.own, stage.folder) == ("first", False, toys.shipped / "first")
        assert stage.tokenizer == ByteTokenizer((END_OF_TEXT,))
        assert stage.notes["report"] == {"mean": pytest.approx(Measured(stage).mean)}
        assert stage.notes["recipe"] == stages.recipe("first")
        assert {"python", "torch", "numpy"} == stage.notes["versions"].keys()
        half = stages.load("first", dtype=torch.bfloat16)
        assert half.model.embedding.weight.dtype == torch.bfloat16

    def test_the_learners_own_wins_while_its_recipe_is_todays(self, toys):
        build("first", toys.shipped / "first")
        own = build("first")
        assert own.folder == toys.own / "first"
        assert stages.load("first").own
        # Another recipe: one's own is passed over, and the shipped one refused.
        toys.first.width = 16
        with pytest.raises(StaleStage, match="llmcourse stages build first"):
            stages.load("first")
        build("first", toys.shipped / "first")
        assert stages.load("first").own is False

    def test_without_a_course_folder_there_is_only_the_shipped_one(self, toys, monkeypatch):
        build("first", toys.shipped / "first")
        build("first")
        monkeypatch.setattr(store, "course_root", lambda: None)
        assert stages.load("first").own is False
        with pytest.raises(ValueError, match="name one with out"):
            build("first")

    def test_a_missing_stage_says_what_makes_it(self, toys):
        with pytest.raises(StaleStage, match=r"there is no stage 'first'.*stages build first"):
            stages.load("first")

    def test_an_unknown_name_is_answered_with_the_nearest(self, toys):
        for call in (stages.load, stages.recipe, stages.start, build):
            with pytest.raises(ValueError, match="did you mean 'first'"):
                call("frist")

    @pytest.mark.parametrize("own", [True, False])
    def test_damage_is_found_and_named(self, toys, own):
        folder = build("first", None if own else toys.shipped / "first").folder
        build("first", toys.shipped / "first")
        [weights] = folder.glob("weights-*")
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged") as error:
            stages.load("first")
        assert weights.name in str(error.value)
        assert "llmcourse stages build first" in str(error.value)
        assert ("or remove" in str(error.value)) == own

    @pytest.mark.parametrize("own", [True, False])
    def test_a_manifest_beyond_reading_is_damage_and_not_another_recipe(self, toys, own):
        build("first", toys.shipped / "first")
        folder = build("first", None if own else toys.shipped / "first").folder
        (folder / "checkpoint.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"damaged.*stages build first"):
            stages.load("first")
        [entry] = [entry for entry in stages.overview() if entry.name == "first"]
        assert entry.state == "damaged"

    def test_a_forged_fingerprint_is_found(self, toys):
        folder = build("first", toys.shipped / "first").folder
        toys.first.width = 16
        manifest = json.loads((folder / "checkpoint.json").read_text())
        manifest["notes"]["recipe_fingerprint"] = stages.fingerprint("first")
        (folder / "checkpoint.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError):
            stages.load("first")


class TestRecipe:
    def test_a_stage_is_stale_when_the_one_below_has_changed(self, toys):
        before = stages.fingerprint("second")
        assert stages.recipe("second")["built_on"] == {"first": stages.fingerprint("first")}
        toys.first.width = 16
        assert stages.fingerprint("second") != before

    def test_the_fingerprint_is_of_the_recipe_and_nothing_else(self, toys):
        before = stages.fingerprint("first")
        toys.first.n_updates = 7  # not in this toy's recipe
        assert stages.fingerprint("first") == before
        toys.first.width = 16
        assert stages.fingerprint("first") != before
        assert stages.fingerprint("first") != stages.fingerprint("second")


class TestBuild:
    def test_the_history_keeps_the_beginning_a_sample_and_what_was_validated(self, toys):
        history = build("first").history
        first = list(range(1, making.KEEP_FIRST + 1))
        assert history.steps == [*first, 77, 80, 100]
        assert history.validation == [(77, 2.0)]
        assert history.losses[0] == 0.3333  # rounded: it is for a curve

    def test_it_measures_what_it_saved(self, toys):
        stage = build("first")
        assert stage.report.mean == Measured(stages.load("first")).mean
        assert str(stage.report) == f"mean {stage.report.mean:.3f}"

    def test_stopped_by_hand_it_writes_nothing(self, toys, monkeypatch):
        def stopped(run):
            def updates():
                yield next(run.updates)
                raise KeyboardInterrupt

            return Run(run.model, run.tokenizer, updates(), run.n_updates)

        real = toys.first.start
        monkeypatch.setattr(toys.first, "start", lambda: stopped(real()))
        with pytest.raises(KeyboardInterrupt):
            build("first")
        assert not (toys.own / "first").exists()

    def test_a_file_in_the_way_is_named_before_the_training(self, toys, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="is a file"):
            build("first", tmp_path / "file")
        assert toys.first.started == 0


class TestSteps:
    def test_they_are_the_beginning_of_the_run(self, toys):
        built = build("first")
        found = list(stages.steps("first", 5))
        assert [record.step for record in found] == [1, 2, 3, 4, 5]
        expected = [record.learning_rate for record in built.history.records[:5]]
        assert [record.learning_rate for record in found] == expected

    def test_none_is_refused(self, toys):
        with pytest.raises(ValueError, match="n=0 must be at least 1"):
            stages.steps("first", 0)

    def test_a_started_run_gives_the_model_too(self, toys):
        run = stages.start("first")
        before = run.model.embedding.weight.mean().item()
        next(run.updates)
        assert run.model.embedding.weight.mean().item() == pytest.approx(before + 1 / 512)


class TestOverview:
    def test_every_stage_is_listed_in_every_state(self, toys):
        assert [entry.state for entry in stages.overview()] == ["missing", "missing"]
        build("first", toys.shipped / "first")
        build("second")
        first, second = stages.overview()
        assert (first.name, first.own, first.state, first.part) == ("first", False, "current", 4)
        assert (second.own, second.state) == (True, "current")
        files = list((toys.own / "second").iterdir())
        assert second.bytes == sum(len(file.read_bytes()) for file in files)
        assert second.parameters == toys.second.start().model.n_parameters()
        toys.first.width = 16
        assert [entry.state for entry in stages.overview()] == ["stale", "stale"]

    def test_a_current_shipped_stage_is_listed_before_a_stale_one_of_ones_own(self, toys):
        build("first")
        toys.first.width = 16
        build("first", toys.shipped / "first")
        entry = stages.overview()[0]
        assert (entry.own, entry.state) == (False, "current")
