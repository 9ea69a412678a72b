"""Pictures from files, as a viewer shows them, and as a model takes them."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(picture: Any, size: int) -> Tensor:
    """A PIL picture -> 3×size×size in [0, 1]: shorter side resized (bicubic), middle cut out, as CLIP."""
    picture = picture.convert("RGB")
    scale = size / min(picture.size)
    picture = picture.resize([max(size, round(s * scale)) for s in picture.size], Image.Resampling.BICUBIC)
    left, top = ((s - size) // 2 for s in picture.size)
    pixels = np.array(picture.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
