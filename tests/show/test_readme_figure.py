"""The README's picture: made from a history, small, and honest about it."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from llmcourse.parts import PARTS
from llmcourse.show import readme_figure
from llmcourse.train import History, StepRecord


def history(samples: bool) -> History:
    return History(
        [
            StepRecord(
                step=step,
                loss=5.0 / step + 0.6,
                learning_rate=1e-3,
                gradient_norm=1.0,
                tokens=step * 64,
                seconds=0.1 * step,
                validation_loss=5.0 / step + 0.7 if step % 50 == 0 else None,
                sample="The cat\x01 $sleeps$ 漢." if samples and step in (1, 100) else None,
            )
            for step in range(1, 101)
        ]
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("samples", [True, False])
def test_command_writes_a_small_png(tmp_path, samples, capsys):
    source = tmp_path / "history.json"
    source.write_text(history(samples).to_json(), encoding="utf-8")
    target = tmp_path / "images" / "road.png"
    readme_figure.main([str(source), "--floor", "0.55", "--output", str(target)])
    assert target.stat().st_size <= 150 * 1024
    with Image.open(target) as picture:
        assert picture.width > 1000 and picture.width > picture.height
    assert f"{target.stat().st_size} bytes" in capsys.readouterr().out


def test_every_part_and_the_floor_are_on_it():
    figure = readme_figure.draw(history(False), 0.55)
    road, *_, curve = figure.axes
    words = " ".join(text.get_text().replace("\n", " ") for text in road.texts)
    for part in PARTS:
        assert part.title in words and str(part.number) in words
    floors = [one for one in curve.lines if one.get_label() == "entropy floor 0.55"]
    assert set(floors[0].get_ydata()) == {0.55}
    assert "validation ends 0.20 nats per byte (36%) above the floor" in [
        text.get_text() for text in curve.texts
    ]


def test_a_picture_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(readme_figure, "LARGEST", 1000)
    with pytest.raises(ValueError, match="at most 1000"):
        readme_figure.to_png(readme_figure.draw(history(False), 0.55))


def test_png_can_be_opened_and_has_the_right_colours():
    picture = Image.open(io.BytesIO(readme_figure.to_png(readme_figure.draw(history(True), 0.55))))
    colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert (0, 114, 178) in colours and (255, 255, 255) in colours
