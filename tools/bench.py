"""Time ours against a reference, interleaved in one run, on one thread.

    python tools/bench.py                      everything, a few minutes
    python tools/bench.py clip tokenizer       only these
    python tools/bench.py --out bench.json     also write the figures as JSON

Both sides take turns, so a busy machine slows both; the ratio is the median over the turns.
Ends with 1 where a ratio is above its bar or a rate below it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402  the number of threads has to be set first

from clipnotes import grammar, toyworld  # noqa: E402
from clipnotes.clip import load_clip  # noqa: E402
from clipnotes.tokenizer import Tokenizer  # noqa: E402

Result = dict[str, float | str]


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def median(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).median().item()


def versus(
    ours: Callable[[], object], reference: Callable[[], object], turns: int, bar: float | None
) -> Result:
    """Seconds of each and the median ratio ours/reference, one warm-up turn not counted."""
    pairs = [(seconds(ours), seconds(reference)) for _ in range(turns + 1)][1:]
    result = {
        "ours_s": median([a for a, _ in pairs]),
        "reference_s": median([b for _, b in pairs]),
        "ratio": median([a / b for a, b in pairs]),
    }
    return result | ({"at_most": bar} if bar else {})


def clip(batch: int = 4, turns: int = 7) -> dict[str, Result]:
    """ViT-B/32 against open_clip with the same random weights: image and text towers together."""
    import open_clip  # after clipnotes, which repairs torchvision

    theirs = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).float().eval()
    ours = load_clip("ViT-B-32", pretrained=None).float().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(batch, 3, 224, 224)
    texts = open_clip.SimpleTokenizer()([f"a photo of {i} dogs" for i in range(batch)])
    plain = ours.standardise(images)
    with torch.no_grad():
        assert torch.allclose(ours.visual(plain), theirs.encode_image(plain), atol=1e-4), (
            "the image towers differ"
        )
        assert torch.allclose(ours.encode_ids(texts), theirs.encode_text(texts), atol=1e-4), (
            "the text towers differ"
        )

    def forward_ours() -> torch.Tensor:
        return ours.visual(plain).sum() + ours.encode_ids(texts).sum()

    def forward_theirs() -> torch.Tensor:
        return theirs.encode_image(plain).sum() + theirs.encode_text(texts).sum()

    with torch.no_grad():
        forward = versus(forward_ours, forward_theirs, turns, 1.1)
    both = versus(lambda: forward_ours().backward(), lambda: forward_theirs().backward(), turns, 1.1)
    return {"ViT-B/32 forward": forward, "ViT-B/32 forward and backward": both}


def tokenizer(count: int = 2000) -> dict[str, Result]:
    """Captions of the toy world, one in four with odd spellings. Both sides remember words they have seen."""
    from open_clip import SimpleTokenizer

    names, templates = [grammar.article(c.name) for c in grammar.concepts()], grammar.TEMPLATES
    texts = [templates[i % len(templates)].format(names[i % len(names)]) for i in range(count)]
    texts = [text if i % 4 else f"{text} n°{i} Café-{i}!" for i, text in enumerate(texts)]
    ours, theirs = Tokenizer(), SimpleTokenizer()
    assert [ours.encode(t) for t in texts[:50]] == [theirs.encode(t) for t in texts[:50]], "the tokens differ"
    return {
        f"tokenizer, {count} captions": versus(
            lambda: [ours.encode(t) for t in texts], lambda: [theirs.encode(t) for t in texts], 5, None
        )
    }


def generator(turns: int = 5) -> dict[str, Result]:
    """Pictures a second of one core's time: processor time, so that other programs do not count."""
    found = {}
    for name, make, count, bar in (
        ("singles", toyworld.singles, 512, 1000),
        ("scenes", toyworld.scenes, 256, 400),
    ):
        rates = []
        for turn in range(turns + 1):
            started = time.process_time()
            make(count, seed=turn)
            rates.append(count / (time.process_time() - started))
        found[f"toyworld.{name}"] = {"per_second": median(rates[1:]), "at_least": bar}
    return found


def lseg(batch: int = 1, turns: int = 7) -> dict[str, Result]:
    """The released decoder's fusion at 480 pixels, 256 channels, against DPT's blocks in transformers."""
    from transformers import DPTConfig
    from transformers.models.dpt.modeling_dpt import DPTFeatureFusionStage

    from clipnotes.lseg import Decoder, official_config

    torch.manual_seed(0)
    ours = Decoder(official_config(channels=(256,) * 4)).eval()
    config = DPTConfig(fusion_hidden_size=256, use_batch_norm_in_fusion_residual=True,
                       use_bias_in_fusion_residual=False)
    theirs = DPTFeatureFusionStage(config).eval()
    for i, layer in enumerate(theirs.layers):
        block = getattr(ours, f"refinenet{4 - i}")
        layer.projection.load_state_dict(block.out_conv.state_dict())
        for mine, other in ((block.resConfUnit1, layer.residual_layer1), (block.resConfUnit2, layer.residual_layer2)):
            torch.nn.init.ones_(mine.bn2.weight)  # zero at the start: half of the block would do nothing
            for a, b in (("conv1", "convolution1"), ("conv2", "convolution2"), ("bn1", "batch_norm1"),
                         ("bn2", "batch_norm2")):
                getattr(other, b).load_state_dict(getattr(mine, a).state_dict())
    maps = [torch.rand(batch, 256, side, side) for side in (120, 60, 30, 15)]
    convolutions = [getattr(ours, f"layer{i}_rn") for i in (1, 2, 3, 4)]

    def reference() -> torch.Tensor:
        return theirs([c(m) for c, m in zip(convolutions, maps, strict=True)])[-1]

    with torch.no_grad():
        assert torch.allclose(ours.fuse(maps), reference(), atol=1e-3), "the decoders differ"
        return {"LSeg's decoder, official size, forward": versus(lambda: ours.fuse(maps), reference, turns, 1.1)}


def imports(turns: int = 3) -> dict[str, Result]:
    """A fresh Python that imports clipnotes, against one that imports torch and torchvision."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}

    def fresh(module: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], env=environment, check=True)

    return {"import clipnotes against torch": versus(fresh("clipnotes"), fresh("torch"), turns, None)}


def groupvit(batch: int = 2, turns: int = 5) -> dict[str, Result]:
    """Chapter 3's encoder at the official size against transformers, with the same random weights."""
    from transformers import GroupViTVisionConfig, GroupViTVisionModel

    from notebooks import ROOT, defined

    chapter = defined(ROOT / "chapters" / "03_groupvit.ipynb")
    torch.manual_seed(0)
    theirs = GroupViTVisionModel(GroupViTVisionConfig(num_output_groups=[64, 8, 0], initializer_range=0.1)).eval()
    ours = chapter.GroupViT(chapter.official()).eval()
    ours.load_state_dict(chapter.from_transformers(theirs.state_dict()))
    images = torch.randn(batch, 3, 224, 224)
    with torch.no_grad():
        mine, other = ours(images)[0], theirs(images).last_hidden_state
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max(), "the encoders differ"
        forward = versus(lambda: ours(images), lambda: theirs(images), turns, 1.1)
    both = versus(lambda: ours(images)[0].sum().backward(),
                  lambda: theirs(images).last_hidden_state.sum().backward(), turns, 1.1)
    return {"GroupViT, official size, forward": forward, "GroupViT, official size, forward and backward": both}


def clip4clip(batch: int = 32, turns: int = 5) -> dict[str, Result]:
    """Chapter 8: films a second from pixels, of each head on frame vectors, and how the cost grows with frames.

    The tight head makes one number for each pair, so its films are pairs of a film and one text.
    """
    from clipnotes.temporal import encode_films
    from notebooks import ROOT, defined

    chapter = defined(ROOT / "chapters" / "08_clip4clip.ipynb")
    torch.manual_seed(0)
    heads = {"mean": chapter.MeanHead(), "LSTM": chapter.LSTMHead(128),
             "transformer": chapter.TransformerHead(128, 2, 2, 65), "tight": chapter.TightHead(128, 2, 2, 65)}
    tiny, found, text = load_clip("tiny").eval(), {}, torch.randn(1, 128)

    def rate(function: Callable[[], object]) -> Result:
        return {"per_second": batch / median([seconds(function) for _ in range(turns + 1)][1:]), "unit": "films"}

    with torch.no_grad():
        for count in (8, 16, 64):
            frames, mask = torch.randn(batch, count, 128), torch.ones(batch, count, dtype=torch.long)
            for name, head in heads.items():
                found[f"CLIP4Clip, {name}, {count} frames"] = rate(lambda: head.eval()(text, frames, mask))  # noqa: B023
            if count <= 16:
                pixels = torch.rand(batch, count, 3, 64, 64)
                found[f"CLIP4Clip, encoding {count} frames"] = rate(lambda: encode_films(tiny, pixels, mask))  # noqa: B023
    return found


def scale(millions: float = 1.0, queries: int = 500) -> dict[str, Result]:
    """Retrieval at scale: exact search and faiss's inverted lists, recall of the ten nearest against queries a second.

    Real films: all that tools/ch08_clip4clip.py keeps in build/ch08 (it encodes what is missing), by the mean head.
    Larger collections are a mixture: the real ones, then pairs of them blended with random weights from 0.2 to 0.8.
    Queries are captions of films that are in the collection. Writes clipnotes/data/ch08_scale.json.
    """
    import faiss
    import torch.nn.functional as F

    import ch08_clip4clip as chapter8
    from notebooks import ROOT, write_json

    faiss.omp_set_num_threads(1)
    seeds = [(chapter8.POOL, 560)] + [(chapter8.TRAIN + i, 500) for i in range(32)]
    seeds += [(chapter8.TEST + i, 500) for i in range(6)] + [(88_200_000 + i, 500) for i in range(4)]
    real = chapter8.blocks(seeds)
    film_emb = chapter8.chapter.MeanHead().video(real["frames"], real["mask"])
    with torch.no_grad():
        text_emb = load_clip("tiny").encode_text(real["captions"][:queries]).numpy()
    g, found, rows = torch.Generator().manual_seed(0), {}, []
    for count in (len(film_emb), 100_000, int(1_000_000 * millions)):
        extra = max(0, count - len(film_emb))
        one, two = torch.randint(len(film_emb), (2, extra), generator=g)
        share = 0.2 + 0.6 * torch.rand(extra, 1, generator=g)
        mixed = F.normalize(share * film_emb[one] + (1 - share) * film_emb[two], dim=-1)
        collection = torch.cat([film_emb, mixed])[:count].numpy()
        exact = faiss.IndexFlatIP(collection.shape[1])
        exact.add(collection)
        best = exact.search(text_emb, 10)[1]
        lists = 4 * round(count**0.5 / 4)
        inverted = faiss.IndexIVFFlat(faiss.IndexFlatIP(collection.shape[1]), collection.shape[1], lists,
                                      faiss.METRIC_INNER_PRODUCT)
        inverted.cp.max_points_per_centroid = 40
        inverted.train(collection)
        inverted.add(collection)
        for index, probes in [(exact, 0)] + [(inverted, p) for p in (1, 4, 16, 64)]:
            if probes:
                index.nprobe = probes
            spent, (_, near) = [], index.search(text_emb, 10)
            for _ in range(3):
                spent.append(seconds(lambda: index.search(text_emb, 10)))  # noqa: B023
            recall = sum(len(set(a) & set(b)) for a, b in zip(near.tolist(), best.tolist(), strict=True)) / best.size
            name = f"{lists} lists, {probes} read" if probes else "exact"
            rows.append(dict(films=count, real=min(count, len(film_emb)), index=name, recall=round(recall, 4),
                             queries_per_second=round(queries / median(spent), 1)))
            found[f"search in {count:,} films, {name}, recall {recall:.3f}"] = {
                "per_second": queries / median(spent), "unit": "queries"}
    write_json(ROOT / "clipnotes" / "data" / "ch08_scale.json", dict(
        command="python tools/bench.py scale", faiss=faiss.__version__, threads=1, queries=queries,
        mixture="real films, then pairs of them blended with weights from 0.2 to 0.8, seed 0", rows=rows))
    return found


def clipasso(count: int = 16, turns: int = 5) -> dict[str, Result]:
    """Where a step of chapter 7 spends its time: drawing (ours) against CLIP (reference), forward and backward."""
    from notebooks import ROOT, defined

    chapter, found = defined(ROOT / "chapters" / "07_clipasso.ipynb"), {}
    for name, recipe in (("tiny-rn", chapter.Recipe()), ("RN101", chapter.released())):
        model = load_clip(name, pretrained=None).requires_grad_(False)
        image = torch.rand(1, 3, recipe.canvas, recipe.canvas)
        points = chapter.starts_anywhere(1, count, recipe.canvas).requires_grad_()
        grids = chapter.warp_grids(recipe.views, recipe.view, torch.Generator().manual_seed(0))
        with torch.no_grad():
            target = chapter.read_image(model, chapter.seen(image, grids, recipe.view))

        def drawing(points=points, recipe=recipe) -> None:
            chapter.render(points, recipe.width, recipe.canvas, "gaussian", recipe.sigma[1]).square().sum().backward()

        def reading(model=model, image=image, grids=grids, target=target, recipe=recipe) -> None:
            sketch = image.clone().requires_grad_()
            read = chapter.read_image(model, chapter.seen(sketch, grids, recipe.view))
            sum(chapter.feature_losses(read, target, recipe.weights, views=1 + recipe.views).values()).sum().backward()

        found[f"CLIPasso, a step at {recipe.canvas} px: {count} strokes against {name}"] = versus(
            drawing, reading, turns, None)
    return found


def actionclip(batch: int = 16, turns: int = 3) -> dict[str, Result]:
    """Chapter 9: films a second, forward, of each temporal module, and how the cost grows with frames.

    Towers read pixels (32×32, the tiny CLIP); heads read the frame vectors.
    """
    from notebooks import ROOT, defined

    chapter = defined(ROOT / "chapters" / "09_actionclip.ipynb")
    torch.manual_seed(0)
    tiny, found = load_clip("tiny").eval(), {}
    heads = {name: chapter.make_head(name).eval() for name in ("mean", "conv1d", "lstm", "transf")}
    joint = chapter.JointTower(tiny.visual, 32).eval()
    for count in (4, 8, 32):
        pixels, vectors = torch.randn(batch, count, 3, 32, 32), torch.randn(batch, count, 128)
        runs = {"no shift": lambda x=pixels: chapter.frame_vectors(tiny.visual, x, 0),
                "shift": lambda x=pixels: chapter.frame_vectors(tiny.visual, x, 8),
                "joint tokens": lambda x=pixels: joint(x)}
        runs |= {f"{name} head": lambda x=vectors, head=head: head(x) for name, head in heads.items()}
        with torch.no_grad():
            for name, run in runs.items():
                taken = median([seconds(run) for _ in range(turns + 1)][1:])
                found[f"ActionCLIP, {name}, {count} frames"] = {"per_second": batch / taken, "unit": "films"}
    return found


def depthclip(batch: int = 16, turns: int = 5) -> dict[str, Result]:
    """Chapter 13: the head on given vectors against the image tower, and how it grows with the number of bins."""
    from notebooks import ROOT, defined

    chapter = defined(ROOT / "chapters" / "13_depthclip.ipynb")
    torch.manual_seed(0)
    rn, images, found = load_clip("tiny-rn").eval(), torch.rand(batch, 3, 128, 128), {}
    vectors = chapter.patch_vectors(rn, images)

    def head(count: int) -> Callable[[], torch.Tensor]:
        text_emb, bins = torch.randn(count, vectors.shape[-1]), torch.linspace(1, 20, count)
        return lambda: chapter.to_pixels(chapter.shares(vectors, text_emb, 100) @ bins, (128, 128))

    for count in (7, 64, 512):
        found[f"DepthCLIP, head with {count} bins against tower"] = versus(
            head(count), lambda: chapter.patch_vectors(rn, images), turns, 0.5 if count == 7 else None)
    found["DepthCLIP, 512 bins against 64"] = versus(head(512), head(64), turns, 16)
    return found


def pointclip(numbers: Sequence[int] = (256, 1024, 4096, 65536), clouds: int = 4, turns: int = 3) -> dict[str, Result]:
    """Chapter 12: points a second of both projections, six or ten views, against the loop, and what views cost.

    The loop is timed on the fewest points. The cost of a view is that of projecting and of the tiny CLIP together.
    """
    from notebooks import ROOT, defined

    chapter = defined(ROOT / "chapters" / "12_pointclip.ipynb")
    g, six, found = torch.Generator().manual_seed(0), chapter.views(6), {}
    ball = torch.randn(clouds, max(numbers), 3, generator=g)
    ball = ball / ball.norm(dim=2, keepdim=True).clamp(min=1)

    def loop(points: torch.Tensor) -> None:
        for cloud in points:
            for rotation, translation in zip(*six, strict=True):
                chapter.project_naive(cloud, rotation, translation, 37)

    few = ball[:, : min(numbers)]
    found[f"PointCLIP, {min(numbers)} points in six views, at once against the loop"] = versus(
        lambda: chapter.project(few, *six, 37), lambda: loop(few), turns, 0.25)
    for n in numbers:
        points = ball[:, :n]
        for name, run in (("projection", lambda p=points: chapter.project(p, *six, 37)),
                          ("V2's projection", lambda p=points: chapter.project_v2(p, chapter.views_v2()))):
            taken = median([seconds(run) for _ in range(turns + 1)][1:])
            found[f"PointCLIP, {name}, clouds of {n}"] = {"per_second": clouds * n / taken, "unit": "points"}
    most, least = ball, ball[:, : max(numbers) // 4]
    found[f"PointCLIP, {max(numbers)} points against a quarter of them"] = versus(
        lambda: chapter.project(most, *six, 37), lambda: chapter.project(least, *six, 37), turns, 8)
    tiny = load_clip("tiny")

    def whole(count: int) -> Callable[[], object]:
        recipe = chapter.Recipe(count)
        return lambda: chapter.see(tiny, recipe(few))

    found["PointCLIP, from points to vectors, ten views against six"] = versus(whole(10), whole(6), turns, 2.5)
    return found


def strokes(sides: Sequence[int] = (64, 112, 224), numbers: Sequence[int] = (4, 16, 64), turns: int = 3,
            pieces: int = 8) -> dict[str, Result]:
    """The sparse rasteriser against the dense one, forward and backward; and that it costs as much as there is ink.

    The dense one gets few pieces a curve, which is too coarse to draw with: at 224 pixels it takes gigabytes even so.
    """
    from clipnotes.strokes import render, render_naive

    torch.manual_seed(0)
    start = torch.rand(1, max(numbers), 1, 2)
    unit = (start + (0.15 * torch.randn(1, max(numbers), 4, 2)).cumsum(2)).clamp(0.05, 0.95)

    def both_ways(draw: Callable[..., torch.Tensor], number: int, side: int, canvas: int, **extra: int):
        points = (side * unit[:, :number]).requires_grad_()
        return lambda: draw(points, 1.5, canvas, **extra).square().mean().backward()

    found = {}
    for side in sides:
        for number in numbers:
            ours = both_ways(render, number, side, side)
            dense = both_ways(render_naive, number, side, side, pieces=pieces)
            bar = 0.25 if number * side >= 16 * 112 else None  # below that, calling torch takes the time
            found[f"{number} strokes at {side} px, sparse against dense"] = versus(ours, dense, turns, bar)
    few, many, small, large = min(numbers), max(numbers), min(sides), max(sides)
    found[f"{many} strokes on {large} px against {small} px, with the same ink"] = versus(
        both_ways(render, many, small, large), both_ways(render, many, small, small), turns, 2)
    found[f"{many} strokes against {few}"] = versus(
        both_ways(render, many, small, small), both_ways(render, few, small, small), turns, 1.5 * many / few)
    return found


def line(name: str, result: Result) -> tuple[str, bool]:
    """What to print, and whether the bar is met."""
    if "per_second" in result:
        good = result["per_second"] >= result.get("at_least", 0)
        bar = f" (at least {result['at_least']:.0f})" if "at_least" in result else ""
        text = f"{name}: {result['per_second']:.0f} {result.get('unit', 'pictures')} a second{bar}"
    else:
        good = "at_most" not in result or result["ratio"] <= result["at_most"]
        allowed = f" (at most {result['at_most']})" if "at_most" in result else ""
        text = (
            f"{name}: {result['ours_s']:.3f} s, reference {result['reference_s']:.3f} s, "
            f"ratio {result['ratio']:.2f}{allowed}"
        )
    return text + ("" if good else "  MISSED"), good


def main() -> int:
    parts = {"clip": clip, "tokenizer": tokenizer, "generator": generator, "imports": imports,
             "lseg": lseg, "groupvit": groupvit, "clipasso": clipasso, "clip4clip": clip4clip, "scale": scale,
             "actionclip": actionclip, "depthclip": depthclip, "pointclip": pointclip,
             "strokes": strokes}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; all, if none is named"
    )
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {unknown.pop()!r}; write some of: {', '.join(parts)}")
    torch.set_num_threads(1)
    found: dict[str, Result] = {}
    good = True
    for part in options.parts or parts:
        for name, result in parts[part]().items():
            found[name] = result
            text, met = line(name, result)
            print(text, flush=True)
            good &= met
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
