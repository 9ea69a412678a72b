"""The library follows its inputs: on a pretended GPU it gives what it gives on a CPU, and mixes no devices."""

import contextlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils import backend_registration

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch cannot pretend to have a GPU", allow_module_level=True)

from clipnotes import draw, hub, metrics, prompts, strokes, temporal
from clipnotes.clip import clip_loss, load_clip, save_clip
from clipnotes.lseg import LSeg, LSegConfig, load_lseg, start_from_clip
from clipnotes.tokenizer import tokenize
from fake_gpu import fake_gpu

FILM_MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def towers(device):
    """Both image towers, words, patches, layers and the loss with its gradients."""
    found = []
    for name, side, layer in (("tiny", 64, 0), ("tiny-rn", 128, "layer1")):
        model, images = load_clip(name, device=device), torch.rand(2, 3, side, side).to(device)
        loss = clip_loss(model.encode_image(images), model.encode_text(["a dog", "a cat"]), model.logit_scale.exp())
        loss.backward()
        found += [loss, model.logit_scale.grad, model(images, "a dog")[0], model.patch_features(images),
                  model.features(images, [layer])[layer], *model.text_tokens(["a dog", "two cats"]),
                  model.encode_image(torch.rand(1, 3, 2 * side, 2 * side).to(device)),
                  prompts.class_embeddings(model, ["dog", "cat"], ["a photo of {}", "{}"])]
    return found


def inputs_of_the_cpu(device):
    """Images, ids and words reach a model on a GPU from the CPU."""
    model = load_clip("tiny", device=device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unknown = model.encode_text("a zygomorphic xylophonist")
    assert any("never saw these words" in str(w.message) for w in caught)
    return model.encode_image(torch.rand(2, 3, 64, 64)), model.encode_text(tokenize(["a dog"], 40)), unknown


def segmenters(device):
    """LSeg around a CLIP of the device, trained a step, and the one that ships."""
    clip, images = load_clip("tiny", device=device), torch.rand(1, 3, 64, 64).to(device)
    model = start_from_clip(LSeg(LSegConfig(block="bottleneck", depth=2), clip)).to(device)
    logits = model.train()(images, ["dog", "cat"])
    logits.square().mean().backward()
    return logits, model.scratch.head1.weight.grad, model.eval().segment(images, ["dog", "cat"]), \
        load_lseg("02_lseg/lseg", clip)(images, ["dog", "cat"])


def films(device):
    """Frame vectors, backwards, means, and a transformer over frames; the mask may lie on either device."""
    clip, frames = load_clip("tiny", device=device), torch.rand(2, 3, 3, 64, 64).to(device)
    transformer, table = temporal.frame_transformer(128, 2, 2).to(device), torch.nn.Embedding(4, 128).to(device)
    temporal.start_from_text(clip, transformer, table)
    found = []
    for mask in (FILM_MASK, FILM_MASK.to(device)):
        x = temporal.encode_films(clip, frames, mask)
        found += [x, temporal.backwards(x, mask), temporal.mean_over_frames(x, mask)]
    shown = temporal.padding_mask(FILM_MASK.to(device))
    return *found, transformer(x + temporal.frame_positions(table, x), shown)


def drawings(device):
    """Strokes in each coverage, with and without colours, with their gradients; both rasterisers."""
    found = []
    colours, widths = torch.rand(2, 4, 3).to(device), (0.5 + torch.rand(4)).to(device)
    for coverage in ("ramp", "gaussian", "area"):
        points = (8 + 16 * torch.rand(2, 4, 4, 2)).to(device).requires_grad_()
        plain = strokes.render(points, 1.5, (24, 32), coverage)
        painted = strokes.render(points, widths, (24, 32), coverage, opacity=widths / 2, colour=colours)
        (plain.square().mean() + painted.square().mean()).backward()
        found += [plain, painted, points.grad]
    assert strokes.to_svg(points[0], widths, 32, colour=colours[0]).count("<path") == 4
    return *found, strokes.render_naive(points, 1.5, 16, colour=colours)


def measures(device):
    """Every measure takes tensors of the device; labels may be its own, or of the CPU where they are lists."""
    scores, labels = torch.rand(12, 5).to(device), (torch.arange(12) % 5).to(device)
    square, maps = torch.rand(6, 6).to(device), torch.randint(3, (2, 8, 8)).to(device)
    table = metrics.confusion(maps, maps.flip(0), 3)
    pictures = torch.rand(12, 3, 32, 32).to(device)
    numbers = [metrics.topk_accuracy(scores, labels), metrics.recall_at_k(square, 2), metrics.median_rank(square),
               metrics.spearman(scores[:, 0], scores[:, 1]), metrics.majority(labels),
               *metrics.bootstrap(scores[:, 0])]
    return torch.tensor(numbers, device=device), metrics.iou(table), metrics.patch_ceiling(maps, 4), \
        metrics.pixel_neighbour(pictures, labels, pictures.flip(0)), \
        metrics.linear_probe(scores, labels, scores.flip(0))


CASES = (towers, inputs_of_the_cpu, segmenters, films, drawings, measures)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_library_gives_on_a_gpu_what_it_gives_on_a_cpu(case):
    torch.manual_seed(0)
    plain = case("cpu")
    torch.manual_seed(0)
    with fake_gpu() as gpu:
        found = case(gpu)
        for number, (here, there) in enumerate(zip(plain, found, strict=True)):
            assert there.device.type == gpu, f"result {number} of {case.__name__} came back to the CPU"
            there = there.detach().cpu()
            assert torch.allclose(here.detach(), there, rtol=1e-4, atol=1e-5, equal_nan=True), number


def test_pictures_and_files_come_from_a_gpu(tmp_path):
    with fake_gpu() as gpu:
        images = torch.rand(2, 3, 32, 32).to(gpu)
        draw.images(images)
        draw.matrix(images[0, 0], ["row"] * 32, ["column"] * 32)
        save_clip(load_clip("tiny", device=gpu), tmp_path / "x.safetensors", torch.tensor([5, 7], device=gpu), {})
        assert hub.photo("cat", 64).to(images).device.type == gpu
    assert load_clip(tmp_path / "x.safetensors").trained_tokens.sum() == 2


# ---------------------------------------------------------------- the pretended GPU refuses what a GPU refuses


MIXED = {
    "a sum": lambda gpu: torch.ones(3, device=gpu) + torch.ones(3),
    "a mask made on the CPU": lambda gpu: torch.ones(2, 2, device=gpu).masked_fill(torch.eye(2).bool(), 0),
    "labels on the CPU": lambda gpu: F.cross_entropy(torch.ones(2, 3, device=gpu), torch.tensor([0, 1])),
    "an index of the GPU": lambda gpu: torch.ones(3)[torch.tensor([0], device=gpu)],
    "a model on the CPU": lambda gpu: torch.nn.Linear(3, 3)(torch.ones(3, device=gpu)),
    "numpy": lambda gpu: torch.ones(3, device=gpu).numpy(),
    "a generator of the CPU": lambda gpu: torch.rand(3, generator=torch.Generator(), device=gpu),
    "lengths of sequences on the GPU": lambda gpu: torch.nn.utils.rnn.pack_padded_sequence(
        torch.ones(2, 3, 1, device=gpu), torch.tensor([3, 2], device=gpu), batch_first=True),
}


@pytest.mark.parametrize("mixed", MIXED.values(), ids=MIXED)
def test_mixed_devices_are_refused(mixed):
    with fake_gpu() as gpu, pytest.raises((RuntimeError, NotImplementedError)):
        mixed(gpu)


def test_numbers_and_an_index_of_the_cpu_may_meet_a_gpu():
    with fake_gpu() as gpu:
        x = torch.arange(3.0, device=gpu)
        assert (x[torch.tensor([2, 0])] * torch.tensor(2.0)).tolist() == [4, 0]
        model = torch.nn.LSTM(2, 2, batch_first=True).to(gpu)
        packed = torch.nn.utils.rnn.pack_padded_sequence(torch.ones(2, 3, 2, device=gpu), torch.tensor([3, 2]), True)
        with torch.autocast(gpu, dtype=torch.bfloat16), contextlib.suppress(UserWarning):
            model(packed)[0].data.sum().backward()
        assert model.weight_ih_l0.grad.device.type == gpu
