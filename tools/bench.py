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
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402  the number of threads has to be set first

from clipnotes import grammar, toyworld  # noqa: E402
from clipnotes.clip import load_clip  # noqa: E402
from clipnotes.tokenizer import Tokenizer  # noqa: E402

Result = dict[str, float]


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


def line(name: str, result: Result) -> tuple[str, bool]:
    """What to print, and whether the bar is met."""
    if "per_second" in result:
        good = result["per_second"] >= result["at_least"]
        text = f"{name}: {result['per_second']:.0f} pictures a second (at least {result['at_least']:.0f})"
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
             "lseg": lseg, "groupvit": groupvit}
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
