"""Recorded runs: known by their recipe, kept by a digest, told stale by what their code does."""

import json

import pytest
import torch

from clipnotes import metrics, records
from notebooks import ROOT
from recordings.runner import Recorder, identity


def recorder(path, steps=3, version=1, rate=0.1):
    """A tiny chapter: a line is fitted by gradient steps, by two variants, under two seeds."""
    made = Recorder("77_test", path / "runs.json")

    def fit(slope: float, seed: int) -> list[float]:
        x = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        w = 0.0
        for _ in range(steps):
            w -= rate * (2 * x * (w * x - slope * x)).mean().item()
        return ((w - slope) * x).abs().tolist()

    @made.study(variants=("one", "two"), seeds={"one": 2, "two": 1}, recipe=dict(steps=steps), version=version)
    def heads(variant, seed):
        errors = fit(1.0 if variant == "one" else 2.0, seed)
        return dict(error=sum(errors), hits="".join(str(int(e < 0.5)) for e in errors), deep={"a": [1, 2]})

    @made.extra
    def figure():
        return [1, (2, 3)]

    @made.probe
    def probe():
        return {"heads.error": sum(fit(1.0, 0))}

    return made


def test_runs_are_recorded_in_order_and_read_again(tmp_path):
    made = recorder(tmp_path)
    assert [(r["variant"], r["seed"]) for r in made.declared()] == [("one", 0), ("two", 0), ("one", 1)]
    made.main(["heads:one:1"])
    assert len(made.missing()) == 2
    made.main([])
    assert made.missing() == []
    runs = records.Runs(records.read(made.path))
    assert runs.variants("heads") == ["one", "two"] and runs.seeds("heads", "one") == [0, 1]
    assert len(runs.values("heads", "one", "error")) == 2 and runs.values("heads", "two", "deep", "a", 1) == [2]
    assert runs.mean("heads", "one", "error") == pytest.approx(sum(runs.values("heads", "one", "error")) / 2)
    assert runs["figure"] == [1, [2, 3]]
    gap, (low, high) = runs.paired("heads", "one", "two", "hits")
    a, b = ([int(h) for h in runs.one("heads", v)["hits"]] for v in ("one", "two"))
    assert gap == pytest.approx(sum(a) / 8 - sum(b) / 8)
    assert (low, high) == metrics.bootstrap([x - y for x, y in zip(a, b, strict=True)])
    with pytest.raises(KeyError, match="no run heads:three; variants of 'heads'"):
        runs.values("heads", "three", "error")
    with pytest.raises(KeyError, match="studies"):
        runs.values("tails", "one", "error")


def test_another_recipe_makes_these_runs_missing_and_no_others(tmp_path):
    recorder(tmp_path).main([])
    changed = recorder(tmp_path, steps=4)
    assert len(changed.missing()) == 3
    again = recorder(tmp_path, version=2)
    assert len(again.missing()) == 3
    same = recorder(tmp_path)
    assert same.missing() == []
    assert identity(same.declared()[0]) != identity(changed.declared()[0])


def test_a_variant_of_another_recipe_is_missing_alone(tmp_path):
    made = recorder(tmp_path)
    made.main([])
    made.study(variants=("one", "two"), seeds=2, recipe=lambda variant: dict(steps=3 if variant == "one" else 4))(heads)
    assert [(run["variant"], run["seed"]) for run in made.missing()] == [("two", 0), ("two", 1)]


def heads(variant, seed):
    return {}


def test_the_probe_tells_what_code_does(tmp_path):
    recorder(tmp_path).main([])
    assert recorder(tmp_path).moved() == []
    (moved,) = recorder(tmp_path, rate=0.2).moved()
    assert moved.startswith("heads.error was ") and "record.py --again heads" in moved
    assert recorder(tmp_path, rate=0.2).main(["--probe"]) == 1


def test_a_probe_that_breaks_names_what_to_record_again(tmp_path):
    made = recorder(tmp_path)
    made.main([])
    made.probe(lambda: [][0])
    with pytest.raises(RuntimeError, match="ends with IndexError.*python recordings/77_test/record.py --again"):
        made.moved()


def test_a_probe_is_in_single_precision_and_leaves_no_trace(tmp_path):
    made, ones = recorder(tmp_path), torch.ones(2, 2)

    @made.probe
    def probe():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return {"heads.autocast": (ones @ ones).dtype == torch.float32,
                    "heads.asked": ones.bfloat16().dtype == torch.float32}

    assert made.probed() == {"heads.autocast": 1.0, "heads.asked": 1.0}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (ones @ ones).dtype == torch.bfloat16
    assert ones.bfloat16().dtype == torch.bfloat16


def test_an_unknown_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        recorder(tmp_path).main(["heads:three"])
    assert "There is no run 'heads:three'" in capsys.readouterr().err


def test_a_figure_that_was_changed_by_hand_is_refused(tmp_path):
    recorder(tmp_path).main([])
    path = tmp_path / "runs.json"
    content = json.loads(path.read_text("utf-8"))
    content["runs"][0]["values"]["error"] = 0.0
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(RuntimeError, match="runs.json.*changed by hand"):
        records.read(path)
    path.write_text("{", "utf-8")
    with pytest.raises(RuntimeError, match="damaged"):
        records.read(path)


def test_a_chapter_without_records_is_named():
    with pytest.raises(FileNotFoundError, match="Nothing is recorded for '77_test'"):
        records.load("77_test")


def test_every_recorded_file_carries_its_digest():
    files = sorted((ROOT / "recordings").rglob("*.json"))
    assert len(files) >= 10
    for path in files:
        records.read(path)
