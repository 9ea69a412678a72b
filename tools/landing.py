"""Measure the figure of the landing page and write it to book/_static/landing-data.js.

    python tools/landing.py           write the file
    python tools/landing.py --check   say whether it is what the shipped model gives

Six pictures in the held-out style, six names, their cosines by the shipped CLIP. The page takes the softmax.
"""

import base64
import io
import json
import sys

import torch
from PIL import Image

from clipnotes import clip, toyworld
from clipnotes.draw import hash_distance, picture_hash
from clipnotes.files import atomic_write
from compare import BITS
from notebooks import ROOT

FILE = ROOT / "book" / "_static" / "landing-data.js"
NAMES = ["dog", "guitar", "pizza", "rocket", "rose", "owl"]


def webp(image: torch.Tensor) -> str:
    """A picture 3xHxW in [0, 1] as a data address."""
    buffer = io.BytesIO()
    pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


@torch.no_grad()
def measure() -> dict:
    """The pictures, the names, the table of cosines (rows are pictures), the learned factor."""
    model = clip.load_clip("tiny")
    batches = [
        toyworld.singles(1, seed=i, size=64, styles=["emojitwo"], names=[n]) for i, n in enumerate(NAMES)
    ]
    images = torch.cat([batch["images"] for batch in batches])
    texts = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in NAMES]
    table = model.encode_image(images) @ model.encode_text(texts).T
    return {
        "names": texts,
        "images": [webp(image) for image in images],
        "cosines": [[round(x, 3) for x in row] for row in table.tolist()],
        "factor": round(model.logit_scale.exp().item(), 1),
    }


def stored() -> dict:
    return json.loads(FILE.read_text("utf-8").partition("=")[2].strip().rstrip(";")) if FILE.exists() else {}


def current() -> bool:
    """Are the stored pictures those of the toy world, and the table what the shipped model gives (within 0.01)?"""
    old, new = stored(), measure()
    if old.get("names") != new["names"] or abs(old["factor"] - new["factor"]) > 0.1:
        return False
    for pair in zip(old["images"], new["images"], strict=True):
        hashes = [picture_hash(base64.b64decode(picture.partition(",")[2])) for picture in pair]
        if hash_distance(*hashes) > BITS:
            return False
    return torch.allclose(torch.tensor(old["cosines"]), torch.tensor(new["cosines"]), atol=0.01)


def main() -> int:
    if "--check" in sys.argv:
        print("the landing page is up to date" if current() else "run: python tools/landing.py")
        return int(not current())
    atomic_write(FILE, f"window.clipnotesLanding = {json.dumps(measure())};\n")
    print(f"{FILE.relative_to(ROOT)} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
