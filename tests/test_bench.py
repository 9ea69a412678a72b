"""The benchmark measures what it says; no figure is asserted here, since machines and their load differ."""

import json
import time

import pytest

import bench
from clipnotes import records

TINY = {  # the file and the benchmark, its sizes, how many results it gives
    "00_library:tokenizer": (dict(count=40), 1),
    "00_library:generator": (dict(turns=1, share=0.02), 2),
    "07_clipasso:strokes": (dict(sides=(16, 24), numbers=(2, 3), turns=1), 6),
    "07_clipasso:steps": (dict(names=("tiny-rn",), count=2, turns=1), 1),
    "02_lseg:lseg": (dict(channels=8, side=64, turns=1), 1),
    "04_vild:parts": (dict(count=50, turns=1), 2),
    "04_vild:detector": (dict(pictures=2, turns=1), 3),
    "08_clip4clip:heads": (dict(batch=2, turns=1), 3 * 4 + 2),
    "09_actionclip:modules": (dict(batch=2, turns=1), 3 * 7),
    "12_pointclip:projections": (dict(numbers=(16, 64), clouds=2, turns=1), 1 + 2 * 2 + 1 + 1),
    "13_depthclip:head": (dict(batch=2, turns=1), 4),
}


def test_a_ratio_is_the_median_over_turns():
    order = []

    def wait(name, pause):
        order.append(name)
        time.sleep(pause)

    result = bench.versus(lambda: wait("ours", 0.02), lambda: wait("theirs", 0.01), 3, 1.1)
    assert order == ["ours", "theirs"] * 4
    assert result["ratio"] == pytest.approx(2, rel=0.4)
    assert result["at_most"] == 1.1


def test_a_rate_counts_what_a_turn_does():
    assert bench.rate(lambda: time.sleep(0.01), 5, "films", 3) == {
        "per_second": pytest.approx(500, rel=0.3), "unit": "films"}


@pytest.mark.parametrize(
    ("result", "words", "good"),
    [
        ({"ours_s": 1.0, "reference_s": 1.0, "ratio": 1.0, "at_most": 1.1}, "ratio 1.00 (at most 1.1)", True),
        ({"ours_s": 1.2, "reference_s": 1.0, "ratio": 1.2, "at_most": 1.1}, "MISSED", False),
        ({"ours_s": 1.2, "reference_s": 1.0, "ratio": 1.2}, "ratio 1.20", True),
        ({"per_second": 900.0, "unit": "films", "at_least": 1000}, "900 films a second (at least 1000)  MISSED", False),
        ({"per_second": 1900.0, "unit": "pictures", "at_least": 1000}, "1900 pictures", True),
    ],
)
def test_lines_and_bars(result, words, good):
    text, met = bench.line("x", result)
    assert words in text and met == good
    assert ("**missed**" in bench.row("x", result)) == (not good)


@pytest.mark.parametrize("name", TINY)
def test_each_benchmark_runs(name):
    sizes, count = TINY[name]
    ((_, _, run),) = bench.wanted([name])
    found = run(**sizes)
    assert len(found) == count
    for result in found.values():
        assert min(result[k] for k in ("per_second", "ours_s", "reference_s") if k in result) > 0


def test_every_chapter_of_the_course_has_its_file_and_no_central_list_names_it(monkeypatch, tmp_path):
    (tmp_path / "77_new.py").write_text(
        '"""New."""\nfrom bench import benchmark, rate\n\n@benchmark\ndef quick():\n    """Nothing, quickly."""\n'
        '    return {"nothing": rate(lambda: sum(range(99)), 1, "nothings", 1)}\n\n'
        '@benchmark(slow=True)\ndef long():\n    raise AssertionError\n', "utf-8")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench.py"])
    assert [(file, name) for file, name, _ in bench.wanted([])] == [("77_new", "quick")]
    assert [name for _, name, _ in bench.wanted(["77_new:long"])] == ["long"]
    assert bench.main() == 0


def test_what_is_slow_runs_only_by_name():
    assert "scale" not in [name for _, name, _ in bench.wanted(["08_clip4clip"])]
    assert bench.wanted(["08_clip4clip:scale"])[0][2].slow


@pytest.mark.parametrize(("word", "told"), [
    ("gpu", "no file 'gpu' in recordings/bench; write some of: 00_library, 01_clip"),
    ("08_clip4clip:x", "no benchmark '08_clip4clip:x'; 08_clip4clip has heads, scale"),
])
def test_an_unknown_name_is_refused(monkeypatch, capsys, word, told):
    monkeypatch.setattr("sys.argv", ["bench.py", word])
    with pytest.raises(SystemExit):
        bench.main()
    assert told in capsys.readouterr().err


def test_figures_are_written_and_a_missed_bar_ends_with_one(monkeypatch, tmp_path):
    def slow():
        """Too slow."""
        return {"slow": {"per_second": 123.456, "unit": "pictures", "at_least": 200.0}}

    monkeypatch.setattr(bench, "wanted", lambda names: [("00_library", "generator", slow)])
    monkeypatch.setattr(bench, "RECORD", tmp_path / "results.json")
    monkeypatch.setattr(bench, "PAGE", tmp_path / "bench.md")
    monkeypatch.setattr("sys.argv", ["bench.py", "--out", str(tmp_path / "bench.json"), "--record"])
    assert bench.main() == 1
    out = json.loads((tmp_path / "bench.json").read_text("utf-8"))
    assert out["results"] == {"00_library": {"generator": slow()}} and "torch" in out["machine"]
    stored = records.read(tmp_path / "results.json")["files"]["00_library"]["generator"]
    assert stored["results"]["slow"]["per_second"] == 123.5 and stored["machine"] == out["machine"]
    assert "| 124 pictures a second | at least 200 **missed** |" in (tmp_path / "bench.md").read_text("utf-8")


def test_storing_one_benchmark_keeps_the_others_and_drops_what_is_gone(monkeypatch, tmp_path):
    result = {"x": {"per_second": 1.0, "unit": "films"}}
    monkeypatch.setattr(bench, "RECORD", tmp_path / "results.json")
    monkeypatch.setattr(bench, "PAGE", tmp_path / "bench.md")
    records.write(bench.RECORD, {"files": {"08_clip4clip": {"heads": {"old": True}, "gone": {}}, "77_gone": {}}})
    monkeypatch.setattr(bench, "page", lambda content: "")
    bench.store({"08_clip4clip": {"scale": result}})
    files = records.read(bench.RECORD)["files"]
    assert list(files) == ["08_clip4clip"] and list(files["08_clip4clip"]) == ["heads", "scale"]
    assert files["08_clip4clip"]["heads"] == {"old": True}


def test_the_page_is_made_from_the_record():
    content = records.read(bench.RECORD)
    assert bench.PAGE.read_text("utf-8") == bench.page(content)
