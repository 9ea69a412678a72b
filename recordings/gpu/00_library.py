"""The library follows its inputs: it gives on a GPU what it gives on a CPU, and mixes no devices."""

import tempfile
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from clipnotes import draw, hub, metrics, prompts, strokes, temporal
from clipnotes.clip import clip_loss, load_clip, save_clip
from clipnotes.lseg import LSeg, LSegConfig, load_lseg, start_from_clip
from clipnotes.tokenizer import tokenize
from gpu_check import same

FILM_MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


@same
def towers(device: str, small: bool) -> list[Tensor]:
    """The models that ship: pictures, words, patches, layers, class vectors; the loss and its gradient."""
    found = []
    for name, side, layer in (("tiny", 64, 0), ("tiny-rn", 128, "layer1")):
        model, images = load_clip(name, device=device), torch.rand(2, 3, side, side).to(device)
        loss = clip_loss(model.encode_image(images), model.encode_text(["a dog", "a cat"]), model.logit_scale.exp())
        loss.backward()
        found += [loss, model.logit_scale.grad, model(images, "a dog")[0], model.patch_features(images),
                  model.features(images, [layer])[layer], *model.text_tokens(["a dog", "two cats"]),
                  model.encode_image(torch.rand(1, 3, side, side + 32).to(device)),
                  prompts.class_embeddings(model, ["dog", "cat"], ["a photo of {}", "{}"])]
    return found


@same
def inputs_of_the_cpu(device: str, small: bool) -> list[Tensor]:
    """Pictures, ids and words of the CPU reach a model on the device."""
    model = load_clip("tiny", device=device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unknown = model.encode_text("a zygomorphic xylophonist")
    assert any("never saw these words" in str(w.message) for w in caught)
    return [model.encode_image(torch.rand(2, 3, 64, 64)), model.encode_text(tokenize(["a dog"], 40)), unknown]


@same
def segmenters(device: str, small: bool) -> list[Tensor]:
    """LSeg around a CLIP of the device, trained a step; and the one that ships."""
    clip, images = load_clip("tiny", device=device), torch.rand(1, 3, 64, 64).to(device)
    model = start_from_clip(LSeg(LSegConfig(block="bottleneck", depth=2), clip)).to(device)
    logits = model.train()(images, ["dog", "cat"])
    logits.square().mean().backward()
    shipped = load_lseg("02_lseg/lseg", clip)
    return [logits, model.scratch.head1.weight.grad, model.eval().segment(images, ["dog", "cat"]),
            shipped(images, ["dog", "cat"])]


@same
def films(device: str, small: bool) -> list[Tensor]:
    """Frame vectors, backwards, means, a transformer over frames; the mask may lie on either device."""
    clip, frames = load_clip("tiny", device=device), torch.rand(2, 3, 3, 64, 64).to(device)
    transformer, table = temporal.frame_transformer(128, 2, 2).to(device), torch.nn.Embedding(4, 128).to(device)
    temporal.start_from_text(clip, transformer, table)
    found = []
    for mask in (FILM_MASK, FILM_MASK.to(device)):
        x = temporal.encode_films(clip, frames, mask)
        found += [x, temporal.backwards(x, mask), temporal.mean_over_frames(x, mask)]
    shown = temporal.padding_mask(FILM_MASK.to(device))
    return [*found, transformer(x + temporal.frame_positions(table, x), shown)]


@same
def drawings(device: str, small: bool) -> list[Tensor]:
    """Strokes on a canvas that is not square, in each coverage; an SVG of them."""
    colours, widths = torch.rand(2, 4, 3).to(device), (0.5 + torch.rand(4)).to(device)
    points = (8 + 16 * torch.rand(2, 4, 4, 2)).to(device)
    assert strokes.to_svg(points[0], widths, 32, colour=colours[0]).count("<path") == 4
    return [strokes.render(points, widths, (24, 32), coverage, opacity=widths / 2, colour=colours)
            for coverage in ("ramp", "gaussian", "area")]


@same
def measures(device: str, small: bool) -> list[Tensor]:
    """Every measure takes tensors of the device."""
    scores, labels = torch.rand(12, 5).to(device), (torch.arange(12) % 5).to(device)
    square, maps = torch.rand(6, 6).to(device), torch.randint(3, (2, 8, 8)).to(device)
    pictures = torch.rand(12, 3, 32, 32).to(device)
    numbers = [metrics.topk_accuracy(scores, labels), metrics.recall_at_k(square, 2), metrics.median_rank(square),
               metrics.spearman(scores[:, 0], scores[:, 1]), metrics.majority(labels),
               *metrics.bootstrap(scores[:, 0])]
    return [torch.tensor(numbers, device=device), metrics.iou(metrics.confusion(maps, maps.flip(0), 3)),
            metrics.patch_ceiling(maps, 4), metrics.pixel_neighbour(pictures, labels, pictures.flip(0)),
            metrics.linear_probe(scores, labels, scores.flip(0))]


@same
def pictures_and_files(device: str, small: bool) -> list[Tensor]:
    """Figures of tensors of the device; a model that is saved from there; a photograph that follows a tensor."""
    images = torch.rand(2, 3, 32, 32).to(device)
    draw.images(images)
    draw.matrix(images[0, 0], ["row"] * 32, ["column"] * 32)
    with tempfile.TemporaryDirectory() as folder:
        save_clip(load_clip("tiny", device=device), f"{folder}/x.safetensors", torch.tensor([5, 7], device=device), {})
        again = load_clip(f"{folder}/x.safetensors")
    return [hub.photo("cat", 64).to(images), again.trained_tokens]


@same(bound=0.05)
def half_weights(device: str, small: bool) -> list[Tensor]:
    """The tiny CLIP with its weights in bf16 and in fp16: `load_clip(dtype=...)`."""
    images, found = torch.rand(2, 3, 64, 64), []
    for dtype in (torch.bfloat16, torch.float16):
        model = load_clip("tiny", device=device, dtype=dtype)
        found += [model.encode_image(images), model.encode_text(["a dog", "two cats"])]
    return found


@same(bound=0.02)
def autocast_training(device: str, small: bool) -> list[Tensor]:
    """Ten steps of the tiny CLIP under autocast, bf16, with the device's own name; the loss falls."""
    model = load_clip("tiny", device=device).requires_grad_(True)
    images, texts = torch.rand(8, 3, 64, 64).to(device), [f"{n} dogs" for n in ("two", "three")] * 4
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-4), []
    for _ in range(3 if small else 10):
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            image_emb, text_emb = model.encode_image(images), model.encode_text(texts)
            loss = F.mse_loss(image_emb.float(), text_emb.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert losses[-1] < losses[0]
    return [torch.stack(losses)]
