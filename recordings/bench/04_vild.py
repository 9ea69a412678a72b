"""Chapter 4: suppression and RoIAlign against loops and torchvision, the detector, and what crops cost."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from bench import ROOT, Results, benchmark, rate, versus
from clipnotes import boxes
from clipnotes.clip import load_clip
from clipnotes.toyworld import detection
from notebooks import defined


def random_boxes(count: int, size: int = 128) -> torch.Tensor:
    corner = torch.rand(count, 2) * size * 0.7
    return torch.cat([corner, corner + 4 + torch.rand(count, 2) * size * 0.25], 1)


@benchmark
def parts(count: int = 300, turns: int = 5) -> Results:
    """Suppression of 300 boxes and RoIAlign of 6 regions: ours against the slow loops, and torchvision's kernels."""
    chapter = defined(ROOT / "chapters" / "04_vild.ipynb")
    torch.manual_seed(0)
    many, scores = random_boxes(count), torch.rand(count)
    features, few = torch.rand(1, 16, 32, 32), random_boxes(max(count // 50, 1))[None]
    found = {
        f"nms of {count} boxes against the loop": versus(
            lambda: boxes.nms(many, scores, 0.5), lambda: chapter.nms_naive(many, scores, 0.5), turns, 0.5),
        f"RoIAlign of {few.shape[1]} regions against loops": versus(
            lambda: boxes.roi_align(features, few, 7, 0.25),
            lambda: [chapter.roi_align_naive(features[0], box / 4, 7) for box in few[0]], turns, 0.1),
    }
    try:
        from torchvision.ops import nms

        nms(many, scores, 0.5)
    except (RuntimeError, NotImplementedError, ImportError):  # beside a torch for CPUs alone it has no kernel
        return found
    return found | {f"nms of {count} boxes against torchvision": versus(
        lambda: boxes.nms(many, scores, 0.5), lambda: nms(many, scores, 0.5), turns)}


@benchmark
def detector(pictures: int = 16, turns: int = 5) -> Results:
    """The detector's pictures a second, training and test, and CLIP on crops of its proposals against its own head."""
    chapter = defined(ROOT / "chapters" / "04_vild.ipynb")
    torch.manual_seed(0)
    scenes, model = detection.scenes(pictures, 1), chapter.Detector()
    names = F.normalize(torch.randn(120, 128), dim=1)
    batch = dict(images=scenes["images"], boxes=scenes["boxes"].float(), categories=scenes["categories"],
                 object_map=scenes["object_map"], real=scenes["categories"] >= 0)

    def train() -> None:
        model.train()
        sum(chapter.detector_losses(model, batch, names).values()).backward()

    def test(teacher: object = None) -> Callable[[], object]:
        return lambda: chapter.detect(model.eval(), scenes["images"], names, "image", teacher=teacher)

    return {
        "ViLD, training": rate(train, pictures, "pictures", turns),
        "ViLD, test": rate(test(), pictures, "pictures", turns),
        "ViLD against CLIP on crops, a picture": versus(test(), test(load_clip("tiny")), max(turns // 2, 1), 0.5),
    }
