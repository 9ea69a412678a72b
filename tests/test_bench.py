"""The benchmark measures what it says; no figure is asserted here, since machines and their load differ."""

import json
import time

import pytest

import bench


def test_a_ratio_is_the_median_over_turns():
    order = []

    def wait(name, pause):
        order.append(name)
        time.sleep(pause)

    result = bench.versus(lambda: wait("ours", 0.02), lambda: wait("theirs", 0.01), 3, 1.1)
    assert order == ["ours", "theirs"] * 4
    assert result["ratio"] == pytest.approx(2, rel=0.4)
    assert result["at_most"] == 1.1


@pytest.mark.parametrize(
    ("result", "words", "good"),
    [
        ({"ours_s": 1.0, "reference_s": 1.0, "ratio": 1.0, "at_most": 1.1}, "ratio 1.00 (at most 1.1)", True),
        ({"ours_s": 1.2, "reference_s": 1.0, "ratio": 1.2, "at_most": 1.1}, "MISSED", False),
        ({"ours_s": 1.2, "reference_s": 1.0, "ratio": 1.2}, "ratio 1.20", True),
        ({"per_second": 900.0, "at_least": 1000}, "900 pictures a second (at least 1000)  MISSED", False),
        ({"per_second": 1900.0, "at_least": 1000}, "1900 pictures", True),
    ],
)
def test_lines_and_bars(result, words, good):
    text, met = bench.line("x", result)
    assert words in text and met == good


def test_the_tokenizers_agree_and_are_timed(monkeypatch):
    (result,) = bench.tokenizer(40).values()
    assert result["ours_s"] > 0 and result["reference_s"] > 0


def test_the_temporal_modules_of_chapter_9_are_timed():
    found = bench.actionclip(2, 1)
    assert len(found) == 3 * 7 and all(r["per_second"] > 0 and r["unit"] == "films" for r in found.values())


def test_the_head_of_chapter_13_is_timed():
    found = bench.depthclip(2, 1)
    assert len(found) == 4 and all(result["ours_s"] > 0 and result["reference_s"] > 0 for result in found.values())


def test_both_rasterisers_are_timed():
    found = bench.strokes(sides=(16, 24), numbers=(2, 3), turns=1)
    assert len(found) == 6 and all(result["ours_s"] > 0 and result["reference_s"] > 0 for result in found.values())
    assert found["3 strokes on 24 px against 16 px, with the same ink"]["at_most"] == 2


def test_the_heads_of_chapter_8_are_timed():
    found = bench.clip4clip(2, 1)
    assert len(found) == 3 * 4 + 2 and all(r["per_second"] > 0 and r["unit"] == "films" for r in found.values())


def test_the_projections_of_chapter_12_are_timed():
    found = bench.pointclip((16, 64), 2, 1)
    assert len(found) == 1 + 2 * 2 + 1 + 1
    assert sum(r.get("unit") == "points" and r["per_second"] > 0 for r in found.values()) == 4
    assert found["PointCLIP, 64 points against a quarter of them"]["at_most"] == 8


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench.py", "gpu"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "no part 'gpu'; write some of: clip, tokenizer, generator, imports" in capsys.readouterr().err


def test_figures_are_written_and_a_missed_bar_ends_with_one(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "generator", lambda: {"slow": {"per_second": 1.0, "at_least": 2.0}})
    monkeypatch.setattr("sys.argv", ["bench.py", "generator", "--out", str(tmp_path / "bench.json")])
    assert bench.main() == 1
    assert json.loads((tmp_path / "bench.json").read_text()) == {"slow": {"per_second": 1.0, "at_least": 2.0}}
