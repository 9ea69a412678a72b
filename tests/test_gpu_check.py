"""The check of a GPU, rehearsed on a CPU: every part runs, what fails is told, and nothing stops the rest."""

import time

import nbformat
import pytest
import torch
from torch import nn

import gpu_check
import on_device
from clipnotes import records
from fake_gpu import AVAILABLE, fake_gpu
from notebooks import ROOT

# ---------------------------------------------------------------- the library and the models


def test_every_chapter_of_the_course_has_a_file():
    files = {path.stem for path in gpu_check.FOLDER.glob("*.py")}
    assert files == {path.stem for path in gpu_check.chapters()} | {"00_library"}


def test_how_far_tensors_are_apart():
    ones = torch.ones(4)
    assert gpu_check.apart(ones, ones) == 0
    assert gpu_check.apart(ones, ones * 1.01) == pytest.approx(0.01, rel=1e-4)
    assert gpu_check.apart(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.25
    assert gpu_check.apart(ones, ones[:3]) == gpu_check.apart(ones, ones.double()) == float("inf")
    assert gpu_check.apart(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan])) == 0
    assert gpu_check.apart(ones, torch.full((4,), torch.nan)) == float("inf")


def test_a_function_that_gives_something_else_on_the_device_fails():
    calls = []

    def other_each_time(device, small):
        """Something."""
        calls.append(device)
        return [torch.full((3,), float(len(calls)))]

    item = gpu_check.library_item(gpu_check.same(other_each_time), "cpu", True)
    assert not item["ok"] and item["difference"] == pytest.approx(1) and item["what"] == "Something."
    assert gpu_check.library_item(gpu_check.same(other_each_time, bound=2.0), "cpu", True)["ok"]


class Two(nn.Module):
    """A linear layer; `off` makes it another one."""

    def __init__(self, off: float = 0.0):
        super().__init__()
        self.linear, self.off = nn.Linear(16, 16), off

    def forward(self, x):
        return self.linear(x) + self.off


def case(theirs_off=0.0, bounds=None, run=None):
    ours, theirs = Two(), Two(theirs_off)
    theirs.load_state_dict(ours.state_dict())
    run = run or (lambda module, x: module(x))
    return gpu_check.Model(ours, (torch.randn(8, 16),), run, "eight rows", theirs, run, "nobody's", bounds or {})


def test_a_model_is_compared_in_each_precision_and_with_the_public_class():
    def linear(small):
        """A layer."""
        return case()

    item = gpu_check.model_item(linear, "cpu", True, 1)
    assert item["ok"] and item["weights"] == 272 and item["public_difference"] == 0
    assert item["precisions"]["fp32"]["difference"] == 0
    assert 0 < item["precisions"]["bf16"]["difference"] < 0.05 and item["precisions"]["bf16"]["cosine"] > 0.98
    assert all(row["ms"] > 0 and row["public_ms"] > 0 for row in item["precisions"].values())


def test_fp16_is_compared_too_and_a_loss_that_overflows_is_made_smaller():
    plain = case()
    out, found = gpu_check.in_precision(plain, "fp16")
    exact = gpu_check.in_precision(plain, "fp32")
    assert 0 < gpu_check.apart(exact[0], out) < 0.01 and gpu_check.cosine(exact[1], found) > 0.999
    loud = case(run=lambda module, x: 1e5 * module(x).float())  # gradients above 65,504, which fp16 does not know
    assert all(part.isfinite().all() for part in gpu_check.in_precision(loud, "fp16")[1])


@pytest.mark.parametrize("broken", [
    lambda: case(theirs_off=0.1),  # the public class gives something else
    lambda: case(bounds={"bf16": (1e-6, 0.98)}),  # an output too far from fp32
    lambda: case(bounds={"bf16": (0.05, 1.1)}),  # gradients too far from fp32
], ids=["public class", "output", "gradient"])
def test_a_model_out_of_bounds_fails(broken):
    assert not gpu_check.model_item(lambda small: broken(), "cpu", True, 1)["ok"]


def test_what_no_t4_takes_fails(monkeypatch):
    monkeypatch.setattr(gpu_check, "peak", lambda device, work: 20_000.0)
    assert not gpu_check.model_item(lambda small: case(), "cpu", True, 1)["ok"]


# ---------------------------------------------------------------- chapters

REGISTER = '[half]\nkind = "exact"\nlow = 0.4\nhigh = 0.6\nnote = "a half"\n'


def write_chapter(folder, *cells, claim=None):
    """A small chapter; `claim` is what its last cell has stored."""
    (folder / "77_small.toml").write_text(REGISTER, "utf-8")
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell(text, id=f"cell-{number}") for number, text in enumerate(cells)])
    if claim:
        notebook.cells[-1].outputs = [nbformat.v4.new_output(
            "display_data", {"text/plain": "a claim"}, metadata={"clipnotes": {"claim": claim}})]
    nbformat.write(notebook, folder / "77_small.ipynb")
    return folder / "77_small.ipynb"


def test_a_chapter_is_run_to_its_end_what_fails_is_told_and_claims_are_compared_with_the_page(tmp_path):
    path = write_chapter(
        tmp_path, "import torch\nfrom clipnotes import check", "torch.ones(2) + torch.ones(3)",
        "check.claim('77.half', 0.9)", "check.claim('77.half', 0.5)",
        claim=dict(id="77.half", value=0.52, baseline=None, interval=None, n=None, holds=True))
    item = gpu_check.run_chapter(path, None, time.monotonic() + 120)
    assert item["done"] == item["cells"] == 4 and item["reached"] and not item["ok"]
    assert [f["cell"] for f in item["failed"]] == ["cell-1", "cell-2"] and "RuntimeError" in item["failed"][0]["error"]
    assert item["claims"] == 2 and item["claims_failed"] == ["77.half"]
    assert item["farthest_claim"] == ("77.half", pytest.approx(0.38 / 0.6))  # relative to its scale
    assert item["differ"] and any("77.half" in text for text in item["first_that_differ"])
    assert "cell-1: RuntimeError" in gpu_check.line(item | {"part": "chapters", "name": "77"})


def test_a_chapter_that_takes_too_long_is_not_reached(tmp_path):
    path = write_chapter(tmp_path, "import time", "time.sleep(60)", "1")
    item = gpu_check.run_chapter(path, None, time.monotonic() + 6)
    assert not item["ok"] and not item["reached"] and item["done"] < item["cells"] and item["seconds"] < 40


# ---------------------------------------------------------------- all on the device


@pytest.fixture
def moving():
    """All computing of a test on a pretended GPU."""
    if not AVAILABLE:
        pytest.skip("this torch cannot pretend to have a GPU")
    with fake_gpu() as gpu, on_device.EverythingOn(gpu):
        yield


def test_new_tensors_lie_on_the_device_and_bring_others_there(moving):
    with torch._C.DisableTorchFunction():
        plain = torch.ones(3)
    assert torch.zeros(3).device.type == nn.Linear(3, 2)(plain).device.type == "gpu"
    assert (plain + torch.tensor([1.0, 2, 3])).device.type == "gpu"
    leaf = torch.ones(3, requires_grad=True)
    (leaf * plain).sum().backward()
    assert leaf.is_leaf and leaf.grad.device.type == "gpu"
    assert (plain + 1).device.type == torch.zeros(3, device="cpu").device.type == "cpu"
    plain[0] = torch.tensor(5.0)  # what lies on the CPU stays there
    plain[1:] = torch.zeros(2)
    assert plain.device.type == "cpu" and plain.tolist() == [5, 0, 0]
    assert torch.ones(2).numpy().sum() == 2


def test_an_lstm_keeps_its_lengths_on_the_cpu(moving):
    packed = nn.utils.rnn.pack_padded_sequence(torch.rand(2, 3, 4), torch.tensor([3, 2]), batch_first=True)
    assert packed.batch_sizes.device.type == "cpu"
    assert nn.LSTM(4, 4, batch_first=True)(packed)[0].data.device.type == "gpu"


def test_random_numbers_are_those_of_the_cpu(moving):
    def numbers():
        torch.manual_seed(0)
        g = torch.Generator().manual_seed(1)
        return [nn.Linear(3, 2).weight, torch.rand(2), torch.empty(3).exponential_(), torch.randn(2, generator=g),
                torch.multinomial(torch.ones(5), 2, generator=g), nn.init.trunc_normal_(torch.zeros(3)),
                torch.bernoulli(torch.full((4,), 0.5))]

    there = numbers()
    with torch._C.DisableTorchFunction():
        plain = numbers()
    for number, (one, other) in enumerate(zip(plain, there, strict=True)):
        assert one.device.type == "cpu" and other.device.type == "gpu"
        assert one.tolist() == other.tolist(), number


# ---------------------------------------------------------------- one after the other


def test_a_rehearsal_goes_through_all_parts_and_continues_after_a_failure(monkeypatch, tmp_path, capsys):
    def fine(device, small):
        """Fine."""
        return [torch.ones(2)]

    def broken(device, small):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(gpu_check, "marked", lambda part: {
        "library": {"00:fine": gpu_check.same(fine), "00:broken": gpu_check.same(broken)},
        "models": {"01:linear": lambda small: case()}}[part])
    path = write_chapter(tmp_path, "from clipnotes import check", "check.claim('77.half', 0.5)")
    monkeypatch.setattr(gpu_check, "chapters", lambda: [path])
    out = tmp_path / "check.json"
    words = ["--device", "cpu", "--small", "--out", str(out), "--minutes", "3"]
    assert gpu_check.main(words) == 1
    content = records.read(out)
    assert [item["name"] for item in content["items"]][:3] == ["00:fine", "00:broken", "01:linear"]
    assert {item["name"]: item["ok"] for item in content["items"]} == {
        "00:fine": True, "00:broken": False, "01:linear": True,
        "77_small, as read": True, "77_small, all on the device": True}
    assert "library · 00:broken: FAILED (RuntimeError: no kernel image)" in capsys.readouterr().out
    text = gpu_check.page(content)
    assert "4 of 5 checks" in text and "- library · 00:broken: FAILED" in text
    assert "| 01:linear | fp32 |" in text and "| 77_small, as read |" in text and "1 of 1 hold" in text
    monkeypatch.setattr(gpu_check, "library_item", None)  # nothing is done twice
    assert gpu_check.main([*words, "--resume"]) == 1
    assert len(records.read(out)["items"]) == 5


def test_what_the_time_does_not_allow_is_listed(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "marked", lambda part: {"00:late": lambda device, small: []})
    out = tmp_path / "check.json"
    words = ["--device", "cpu", "--small", "--out", str(out), "--minutes", "0", "--chapters", "09_actionclip"]
    assert gpu_check.main(words) == 1
    content = records.read(out)
    assert len(content["items"]) == 4 and not any(item["reached"] for item in content["items"])
    assert "Not reached in the time given: library · 00:late" in gpu_check.page(content)


@pytest.mark.parametrize(("words", "told"), [
    ([], "There is no GPU here"),
    (["--device", "cpu", "--small"], "say where it goes"),
    (["--device", "cpu", "--small", "--out", "x", "--chapters", "99_none"], "no chapter '99_none'"),
])
def test_words_that_make_no_sense_are_refused(monkeypatch, capsys, words, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.main(words)
    assert told in capsys.readouterr().err


def test_the_page_is_made_from_the_record_and_says_where_nothing_ran():
    content = records.read(gpu_check.RECORD) if gpu_check.RECORD.exists() else None
    assert gpu_check.PAGE.read_text("utf-8") == gpu_check.page(content)
    assert "Not run here yet" in gpu_check.page(None) and "tools/gpu_check.py" in gpu_check.page(None)
    assert (ROOT / "_toc.yml").read_text("utf-8").count("book/gpu") == 1
