"""The programs that train: they resume, two ranks make the gradient of one, and what they write can be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipnotes import clip, toyworld
from tools import train_clip

ROOT = Path(__file__).parent.parent
SMALL = ["--layers", "1", "--batch", "16", "--names", "8", "--pool-size", "256", "--sizes", "32:0.5,64:1"]


def train(out: Path, images: int, *more: str) -> None:
    train_clip.main(["--out", str(out), "--images", str(images), *SMALL, *more])


@pytest.fixture(autouse=True)
def no_ledger(monkeypatch):
    monkeypatch.setattr(train_clip, "log_run", lambda *args: None)


def test_a_short_run_writes_a_model_that_loads(tmp_path):
    out = tmp_path / "small.safetensors"
    train(out, 48)
    model = clip.load_clip(out)
    assert model.card["images"] == 48 and model.card["generator_hash"] == toyworld.generator_hash()
    images = toyworld.singles(3, seed=1)["images"]
    assert model.encode_image(images).shape == (3, 128)
    assert model.encode_text(["a red dog on the grass"]).shape == (1, 128)
    with pytest.warns(clip.UntrainedTokenWarning, match="zorgle"):
        model.encode_text(["a zorgle"])


def test_every_caption_is_made_of_trained_tokens(tmp_path):
    ids = train_clip.trained_ids()
    texts = train_clip.tokenize(toyworld.pretraining(300, seed=16, size=32)["captions"], train_clip.LENGTH)
    assert torch.isin(texts, torch.cat([ids, torch.tensor([0])])).all()
    assert ids.max() == 49407, "the end token stays the largest id"


def test_a_run_that_was_interrupted_goes_on(tmp_path):
    out = tmp_path / "small.safetensors"
    train(out, 64, "--minutes", "0")
    first = torch.load(out.with_suffix(".state"), weights_only=True)["progress"]
    assert first["seen"] == 0
    train(out, 64)
    assert torch.load(out.with_suffix(".state"), weights_only=True)["progress"]["seen"] == 64
    card = clip.load_clip(out).card
    assert card["images"] == 64 and [seen for seen, _ in card["history"]] == [0]
    train(out, 80)  # longer than planned: the card tells
    assert [seen for seen, _ in clip.load_clip(out).card["history"]] == [0, 64]


def test_a_file_from_another_world_is_refused(tmp_path):
    out = tmp_path / "small.safetensors"
    train(out, 16)
    model = clip.load_clip(out)
    clip.save_clip(model, out, train_clip.trained_ids(), model.card | {"generator_hash": "0123456789ab"})
    with pytest.raises(RuntimeError, match="generator_hash 0123456789ab"):
        clip.load_clip(out)


def test_resnet_trains_too(tmp_path):
    out = tmp_path / "rn.safetensors"
    train_clip.main(["--out", str(out), "--images", "8", "--arch", "rn", "--batch", "4", "--names", "8", "--pool-size",
                     "256", "--sizes", "64:1"])
    model = clip.load_clip(out)
    assert not model.config.is_vit and model.encode_image(torch.rand(1, 3, 128, 128)).shape == (1, 128)


WORKER = """
import os, sys, torch, torch.distributed as dist, torch.nn.functional as F
from tools.train_clip import gathered_loss, share_gradients
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if world > 1:
    dist.init_process_group("gloo")
torch.manual_seed(0)
towers = [torch.nn.Linear(6, 5), torch.nn.Linear(7, 5)]
scale = torch.nn.Parameter(torch.tensor(2.0))
parts = [torch.randn(8, 6).chunk(world)[rank], torch.randn(8, 7).chunk(world)[rank]]
emb = [F.normalize(t(x), dim=-1) for t, x in zip(towers, parts)]
loss = gathered_loss(*emb, scale.exp(), world)
loss.backward()
parameters = [p for t in towers for p in t.parameters()] + [scale]
share_gradients(parameters, world)
if rank == 0:
    torch.save([loss.detach(), *[p.grad for p in parameters]], sys.argv[1])
"""


def test_two_ranks_make_the_gradient_of_one(tmp_path):
    script, results = tmp_path / "worker.py", []
    script.write_text(WORKER)
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    for world in (1, 2):
        out = tmp_path / f"{world}.pt"
        subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}",
                        str(script), str(out)], check=True, env=env, capture_output=True, timeout=120)
        results.append(torch.load(out, weights_only=True))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_learning_rate_warms_up_and_falls_to_zero():
    args = train_clip.parse(["--out", "x", "--images", "100000", "--decay", "0.2"])
    rates = [train_clip.rate(seen, args) for seen in (0, 10_000, 50_000, 79_000, 90_000, 100_000)]
    assert rates[0] < 0.05 and rates[2] == 1 and rates[3] == 1 and rates[4] == pytest.approx(0.5) and rates[5] == 0


def test_sizes_grow():
    args = train_clip.parse(["--out", "x", "--images", "1000", "--sizes", "32:0.5,64:0.9,96:1"])
    assert [train_clip.side_at(s, args) for s in (0, 499, 500, 899, 900, 999)] == [32, 32, 64, 64, 96, 96]


def test_programs_start_with_torch_numpy_pillow_and_safetensors_alone():
    """On a bare machine nothing else is there: no network, no other package is asked for."""
    code = ("import sys\n"
            "class Gate:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name.split('.')[0] in ('open_clip', 'datasets', 'matplotlib', 'ipywidgets', 'transformers',\n"
            "                                  'tqdm', 'ftfy', 'regex', 'torchvision', 'timm'):\n"
            "            raise ImportError(name + ' is not there')\n"
            "sys.meta_path.insert(0, Gate())\n"
            "import tools.train_clip as t\n"
            "from clipnotes import toyworld\n"
            "print(len(t.trained_ids()), toyworld.pretraining(32, 1, 32)['images'].shape)\n")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    assert "torch.Size([32, 3, 32, 32])" in out.stdout


