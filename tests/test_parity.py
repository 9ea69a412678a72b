"""Parity: the chapters' own code passes on the official numbers and on numbers of other sizes; typical slips do not."""

import functools
import importlib
import json
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.signal.windows import blackmanharris
from torch import nn

import clipnotes.clip as library
from clipnotes import check, lseg, strokes
from clipnotes.check.parity import components, find
from clipnotes.tokenizer import Tokenizer
from notebooks import ROOT, defined

package = sys.modules["clipnotes.check.parity"]
GOLDEN = ROOT / "tests" / "golden"


class Course:
    """What the chapters define, by the number of the chapter, read when asked for: COURSE.ch03.GroupingBlock."""

    def __getattr__(self, chapter: str) -> SimpleNamespace:
        (path,) = (ROOT / "chapters").glob(f"{chapter[2:]}_*.ipynb")
        setattr(self, chapter, defined(path))
        return vars(self)[chapter]


COURSE = Course()
RIGHT = {  # component -> what gives its right candidate: the chapter's own, or the library's
    "clip.vit": lambda: library.VisionTransformer, "clip.resnet": lambda: library.ModifiedResNet,
    "clip.text": lambda: library.TextTransformer, "clip.loss": lambda: library.clip_loss,
    "clip.tokens": lambda: Tokenizer().encode,
    "lseg.decoder_block": lambda: lseg.FeatureFusionBlock, "lseg.head": lambda: lseg.PixelTextHead,
    "lseg.spatial_block_bottleneck": lambda: lseg.BottleneckBlock,
    "lseg.spatial_block_depthwise": lambda: lseg.DepthwiseBlock,
    "groupvit.grouping_block": lambda: COURSE.ch03.GroupingBlock, "groupvit.gumbel": lambda: gumbel,
    "groupvit.encoder": lambda: lambda **sizes: COURSE.ch03.GroupViT(COURSE.ch03.GroupViTConfig(**sizes)),
    "groupvit.contrastive": lambda: library.clip_loss,
    "groupvit.multilabel_loss": lambda: COURSE.ch03.multi_label_loss,
    "groupvit.segment": lambda: COURSE.ch03.segment_released,
    "vild.head": lambda: COURSE.ch04.ViLDHead, "vild.text_head": lambda: COURSE.ch04.ViLDHead,
    "vild.distillation": lambda: COURSE.ch04.distillation_loss,
    "vild.class_loss": lambda: COURSE.ch04.class_loss_released, "vild.ensemble": lambda: COURSE.ch04.ensemble_scores,
    "clipasso.losses": lambda: COURSE.ch07.feature_losses, "clipasso.saliency": lambda: COURSE.ch07.saliency_map,
    "clipasso.xdog": lambda: COURSE.ch07.xdog, "clipasso.sampling": lambda: COURSE.ch07.sampling,
    "clipasso.rasteriser": lambda: fine,
    "clip4clip.meanP": lambda: COURSE.ch08.MeanHead, "clip4clip.seqLSTM": lambda: COURSE.ch08.LSTMHead,
    "clip4clip.seqTransf": lambda: COURSE.ch08.TransformerHead, "clip4clip.tightTransf": lambda: COURSE.ch08.TightHead,
    "clip4clip.loss": lambda: COURSE.ch08.match_loss, "clip4clip.metrics": lambda: COURSE.ch08.ranks_released,
    "actionclip.kl_loss": lambda: COURSE.ch09.kl_loss, "actionclip.shift": lambda: COURSE.ch09.shift_tokens,
    "actionclip.transf": lambda: COURSE.ch09.Transf, "actionclip.lstm": lambda: COURSE.ch09.LSTM,
    "actionclip.conv1d": lambda: COURSE.ch09.Conv1D,
    "actionclip.conv1d_released": lambda: COURSE.ch09.Conv1DReleased,
    "audioclip.loss": lambda: matrices_loss, "audioclip.loss_released": lambda: matrices_loss_released,
    "audioclip.fbsp": lambda: FBSP, "audioclip.frontend": lambda: FrontEnd, "audioclip.attention2d": lambda: Gate,
    "clipvil.resize_pos": lambda: bilinear, "clipvil.grid_features": lambda: Grid,
    "pointclip.views": lambda: COURSE.ch12.views, "pointclip.project": lambda: COURSE.ch12.project,
    "pointclip.fuse": lambda: COURSE.ch12.fuse, "pointclip.adapter": lambda: COURSE.ch12.InterViewAdapter,
    "pointclip.smooth_loss": lambda: COURSE.ch12.smooth_loss, "pointclip.v2_grid": lambda: COURSE.ch12.voxels,
    "pointclip.v2_project": lambda: COURSE.ch12.project_v2,
    "depthclip.head": lambda: COURSE.ch13.depth_head_released, "depthclip.errors": lambda: COURSE.ch13.nyu_errors,
}


def gumbel(logits, noise, tau):
    return COURSE.ch03.hard_one_hot(((logits + noise) / tau).softmax(-2))


def matrices_loss(matrices):
    return torch.stack([F.cross_entropy(m, torch.arange(len(m))) for one in matrices for m in (one, one.T)]).mean()


def matrices_loss_released(matrices):
    return matrices_loss(matrices) * 2 * len(matrices) / math.factorial(len(matrices))


class FBSP(nn.Module):
    def __init__(self, filters, normalised=True):
        super().__init__()
        self.m, self.fb = nn.Parameter(torch.zeros(filters)), nn.Parameter(torch.ones(filters))
        self.fc, self.normalised = nn.Parameter(torch.arange(float(filters))), normalised

    def filters(self, length):
        t = math.pi * torch.linspace(-1, 1, length) + 1e-8
        m, fb, fc = (value[:, None] for value in (self.m, self.fb, self.fc))
        wave = torch.sinc(fb * t / (m + 1e-8) / math.pi)
        window = torch.polar(wave.abs() ** m, math.pi * m * (wave < 0))
        found = fb.sqrt() * window * torch.polar(torch.ones_like(fc * t), -fc * t)
        return found / length**0.5 if self.normalised else found

    def forward(self, frames):
        filters = self.filters(frames.shape[-1])
        return frames.to(filters.dtype) @ filters.T


class FrontEnd(nn.Module):
    def __init__(self, n_fft, hop, win, bands):
        super().__init__()
        self.fbsp, self.hop, self.bands = FBSP(n_fft // 2 + 1), hop, bands
        self.padding = (n_fft - win) // 2, n_fft - win - (n_fft - win) // 2
        self.window = torch.from_numpy(blackmanharris(win, sym=False)).float()

    def forward(self, wave):
        x, win = (wave + 32768) / 65535 * 2 - 1, len(self.window)
        missing = -(x.shape[1] - win) % self.hop
        x = F.pad(x, (missing // 2, missing - missing // 2))
        power = self.fbsp(F.pad(x.unfold(1, win, self.hop) * self.window, self.padding)).abs() ** 2
        power = power.mT[:, : power.shape[2] // self.bands * self.bands].unflatten(1, (self.bands, -1))
        return 10 * torch.where(power > 0, power, 1e-18).log10()


class Gate(nn.Module):
    def __init__(self, channels, out_channels, kernels, kernel_size, padding):
        super().__init__()
        self.conv_depth = nn.Conv2d(channels, channels * kernels, kernel_size, padding=padding, groups=channels)
        self.conv_point, self.bn = nn.Conv2d(channels * kernels, out_channels, 1), nn.BatchNorm2d(out_channels)

    def forward(self, x, size):
        return self.bn(self.conv_point(self.conv_depth(F.adaptive_max_pool2d(x, size)))).sigmoid()


def bilinear(positions, places, **options):
    """Positions 1×(1+g²)×D -> 1×(1+places)×D; the class token's stays."""
    old, new = math.isqrt(positions.shape[1] - 1), math.isqrt(places)
    grid = positions[:, 1:].mT.unflatten(2, (old, old))
    grid = F.interpolate(grid, size=(new, new), **dict(mode="bilinear", align_corners=False) | options)
    return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)


class Grid(library.ModifiedResNet):
    """The last map, and what the attention pool makes of it."""

    def forward(self, x):
        grid = self.layers(x)["layer4"]
        return grid, self.attnpool(grid)


def fine(points, width, size):
    """The picture at three times the size, averaged."""
    height, across = (size, size) if isinstance(size, int) else size
    return F.avg_pool2d(strokes.render(3 * points, 3 * width, (3 * height, 3 * across), "area"), 3)


# ---------------------------------------------------------------- a second golden file of other sizes for each


def lively(module: nn.Module) -> nn.Module:
    """Random weights and statistics everywhere, so that no part is idle."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(value, nn.Parameter) or "running" in name:
            noise = 0.1 * torch.randn_like(value)
            value.data += noise.abs() if "var" in name else noise
    return module.eval()


def weights(module: nn.Module, prefix: str = "weights/") -> dict:
    state = module.state_dict().items()
    return {prefix + key: value.clone() for key, value in state if not key.endswith("num_batches_tracked")}


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(shape), dim=-1)


def clip_vit():
    config = dict(input_resolution=48, patch_size=12, width=40, layers=3, heads=5, output_dim=20)
    tower, image = lively(library.VisionTransformer(48, 12, 40, 3, 5, 20)), torch.randn(3, 3, 48, 48)
    return {"in/image": image, "out/image_features": tower(image), **weights(tower, "weights/visual.")}, config


def clip_resnet():
    config = dict(layers=[1, 2, 1, 2], output_dim=18, heads=6, input_resolution=96, width=6)
    tower, image = lively(library.ModifiedResNet(96, (1, 2, 1, 2), 6, 6, 18)), torch.randn(3, 3, 96, 96)
    return {"in/image": image, "out/image_features": tower(image), **weights(tower, "weights/visual.")}, config


def clip_text():
    names = dict(context_length=9, vocab_size=50, transformer_width=40, transformer_heads=5, transformer_layers=3)
    shape = library.CLIPConfig(20, 32, 1, 64, 32, 9, 50, 40, 3, text_heads=5)
    tower, ids = lively(library.TextTransformer(shape)), torch.randint(1, 48, (5, 9))
    ids[:, 0], ids[torch.arange(5), torch.tensor([2, 3, 5, 7, 8])] = 48, 49
    kept = {k: v for k, v in weights(tower).items() if "visual." not in k and "logit_scale" not in k}
    return {"in/text": ids, "out/text_features": tower.encode_ids(ids), **kept}, names | dict(embed_dim=20)


def clip_loss():
    tensors = {"in/image_features": torch.randn(7, 24), "in/text_features": torch.randn(7, 24)}
    emb = [F.normalize(value, dim=-1) for value in tensors.values()]
    for case, scale in zip("abc", (0.5, 2.0, 4.0), strict=True):
        scale = torch.tensor(scale)
        tensors |= {f"in/logit_scale_{case}": scale, f"out/loss_{case}": library.clip_loss(*emb, scale.exp())}
    return tensors, {}


def clip_tokens():
    strings = ["a cat", "THREE  red Buses &amp; a café", ""]
    found = [[49406, *Tokenizer().encode(text), 49407] for text in strings]
    ids = torch.tensor([[*row, *[0] * (20 - len(row))] for row in found])
    return {"out/ids": ids, "out/length": torch.tensor([len(row) for row in found])}, {"strings": strings}


def lseg_decoder_block():
    block, path, skip = lively(lseg.FeatureFusionBlock(12)), torch.randn(3, 12, 5, 7), torch.randn(3, 12, 5, 7)
    out = {"out/one_input": block(path), "out/two_inputs": block(path, skip)}
    return {"in/path": path, "in/skip": skip, **out, **weights(block)}, {}


def spatial_block(kind):
    x, tensors = torch.randn(3, 7, 4, 6), {}
    state = lively(kind()).state_dict()
    for name, activation in (("relu", F.relu), ("tanh", torch.tanh)):
        block = kind(activation)
        block.load_state_dict(state)
        tensors |= {f"out/{name}_depth{depth}": lseg.regularise(block, x, depth) for depth in (1, 3)}
    return {"in/x": x, **tensors, **weights(block)}, {"depths": [1, 3]}


def lseg_head():
    plain, deep = lseg.PixelTextHead(10, 18), lively(lseg.PixelTextHead(10, 18, "depthwise", 3))
    plain.load_state_dict({k: v for k, v in deep.state_dict().items() if "head_block" not in k})
    inputs = torch.randn(3, 10, 5, 7), torch.randn(6, 18)
    tensors = {"in/path_1": inputs[0], "in/text_features": inputs[1], "out/logits": plain.eval()(*inputs),
               "out/logits_depthwise_depth3": deep(*inputs), "out/logits_half_product": torch.zeros(1)}
    return tensors | weights(deep, "weights/scratch."), {"temperature": 0.07}


def groupvit_grouping_block():
    block, x, tokens = lively(COURSE.ch03.GroupingBlock(24, 3, 7, 5)), torch.randn(3, 11, 24), torch.randn(3, 7, 24)
    new, soft = block(x, tokens)
    tensors = {"in/x": x, "in/group_tokens": tokens, "out/new_x": new, "out/assign_soft": soft[:, None],
               "out/assign_hard": F.one_hot(soft.argmax(-2), 5).mT[:, None].float(), **weights(block)}
    logits, noise, upstream = torch.randn(3, 3, 1, 5, 8)
    tensors |= {"in/gumbel_logits": logits, "in/gumbel_noise": noise, "in/gumbel_upstream_grad": upstream}
    for tau in (0.3, 2.0):
        with torch.enable_grad():
            leaf = logits.clone().requires_grad_()
            soft = ((leaf + noise) / tau).softmax(-2)
            gradient = torch.autograd.grad((soft * upstream).sum(), leaf)[0]
        hard = torch.zeros_like(soft).scatter_(-2, soft.argmax(-2, keepdim=True), 1.0)
        tensors |= {f"out/gumbel_hard_tau{tau:g}": hard, f"out/gumbel_hard_tau{tau:g}_grad": gradient}
    return tensors, {"heads": 3}


def groupvit_encoder():
    config = dict(img_size=24, patch_size=6, embed_dim=24, depths=[2, 1], num_heads=[3, 3], num_group_tokens=[5, 0],
                  num_output_groups=[4, 0])
    model = COURSE.ch03.GroupViT(COURSE.ch03.GroupViTConfig(24, 6, 24, (2, 1), 3, (5, 0), (4,)))
    image = torch.randn(3, 3, 24, 24)
    tokens, (soft,) = lively(model)(image)
    out = {"out/feat": tokens, "out/x": tokens.mean(1), "out/assign_soft_1": soft[:, None],
           "out/assign_hard_1": F.one_hot(soft.argmax(-2), 4).mT[:, None].float()}
    return {"in/image": image, **out, **weights(model)}, config


def groupvit_multilabel_loss():
    image, text, multi = unit(5, 12), unit(5, 12), unit(5, 2, 12)
    tensors = {"in/image": image, "in/text": text, "in/text_multi": multi}
    for case, scale in (("a", 20.0), ("b", 400.0), ("c", 1.0)):
        factor = min(scale, 50.0)
        tensors |= {f"in/scale_{case}": torch.tensor(scale),
                    f"out/contrastive_{case}": library.clip_loss(image, text, factor),
                    f"out/multilabel_{case}": COURSE.ch03.multi_label_loss(image, multi, factor)}
    return tensors, {"clamp_max": 50}


def groupvit_segment():
    class Projector(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear_hidden = nn.Sequential(nn.Conv1d(12, 20, 1), nn.BatchNorm1d(20), nn.ReLU())
            self.linear_out = nn.Conv1d(20, 10, 1)

        def forward(self, x):
            rows = x.reshape(-1, x.shape[-1], 1)
            return self.linear_out(self.linear_hidden(rows)).view(*x.shape[:-1], -1)

    projector, maps = lively(Projector()), [torch.randn(1, 7, 15).softmax(1), torch.randn(1, 4, 7).softmax(1)]
    tokens, text_emb = torch.randn(1, 4, 12), unit(6, 10)
    tensors = {"in/assign_soft_1": maps[0][:, None], "in/assign_soft_2": maps[1][:, None], "in/feat": tokens,
               "in/logit_scale": torch.tensor(3.0), "in/text_embedding": text_emb,
               "in/image_size": torch.tensor([27, 40]), **weights(projector, "weights/img_projector.")}
    inputs = tokens, maps, projector, text_emb, torch.tensor(3.0).exp().item(), (3, 5), (27, 40)
    for case, threshold in (("nobg", None), ("bg05", 0.05), ("bg60", 0.6)):
        tensors[f"out/pred_{case}"] = COURSE.ch03.segment_released(*inputs, threshold, top_k=3)
    return tensors, {"top_k": 3, "grid": [3, 5]}


def vild_head(separate):
    head = lively(COURSE.ch04.ViLDHead(6, 3, 2, 20, 10, separate))
    roi, text_emb = torch.randn(3, 5, 6, 3, 3), torch.randn(4, 10)
    logits, boxes, emb = (value.unflatten(0, (3, 5)) for value in head(roi.flatten(0, 1), text_emb))
    out = dict(test_class_outputs=logits, test_box_outputs=boxes, train_class_outputs=logits[:, :3],
               train_box_outputs=boxes[:, :3], train_distill_feat=emb[:, 3:])
    out |= dict(test_distill_feat=emb) if separate else {}
    scope = "weights/frcnn_layer_0/fast_rcnn_head/"
    tensors = {f"{scope}class-predict/kernel": text_emb.T,
               f"{scope}background-class-predict/kernel": head.background[:, None]}
    for key, value in list(head.state_dict().items())[1:]:  # the background comes first
        *tower, layer, kind = key.replace("convs.", "conv_").replace("project", "project-to-clip").split(".")
        layer = "box-predict" if layer == "box" else layer
        if tower == ["image_tower"]:
            layer = ("distill-" if "project" in layer else "distill_") + layer
        if kind == "weight" and value.ndim == 4:
            value = value.permute(2, 3, 1, 0)
        elif kind == "weight":
            value = value.view(20, 6, 3, 3).permute(2, 3, 1, 0).flatten(0, 2) if layer.endswith("fc6") else value.T
        tensors[f"{scope}{layer}/{'kernel' if kind == 'weight' else kind}"] = value
    out = {f"out/{key}": value for key, value in out.items()}
    return {"in/roi": roi.permute(0, 1, 3, 4, 2), **tensors, **out}, dict(num_convs=2, max_distill_rois=2)


def vild_distillation():
    student, teacher, boxes = unit(3, 6, 20), torch.randn(3, 6, 20), torch.rand(3, 6, 4)
    boxes[0, 2:] = 0
    logits, labels, mask = torch.randn(3, 7, 9), torch.randint(0, 9, (3, 7)), (torch.arange(9) < 6).float()
    flat = logits.flatten(0, 1), labels.flatten()
    return {"in/student": student, "in/teacher": teacher, "in/roi_boxes": boxes, "in/class_logits": logits,
            "in/class_targets": labels, "in/base_mask_with_bg": mask,
            "out/loss": COURSE.ch04.distillation_loss(student, teacher, boxes),
            "out/class_loss_masked": COURSE.ch04.class_loss_released(*flat, mask),
            "out/class_loss_unmasked": F.cross_entropy(*flat)}, {}


def vild_ensemble():
    text, image, base = torch.randn(3, 4, 6), torch.randn(3, 4, 5), torch.tensor([1.0, 1, 0, 1, 0])
    return {"in/text_logits_with_bg": text, "in/image_logits": image, "in/base_mask": base,
            "out/scores": COURSE.ch04.ensemble_scores(text, image, base)}, {}


def clipasso_losses():
    config = dict(conv_layer_weights=[0.5, 0, 1.0, 0, 2.0], fc_weight=0.3, layers=[1, 1, 2, 1], heads=4)
    tower = lively(library.ModifiedResNet(96, (1, 1, 2, 1), 4, 4, 20))
    mean, std = (torch.tensor(v)[:, None, None] for v in (library.IMAGE_MEAN, library.IMAGE_STD))
    scales = {"stem": 0.5, "layer2": 1.0, "layer4": 2.0, "fc": 0.3}

    def maps(images):
        found = tower.layers((images - mean) / std)
        return found | {"fc": tower.attnpool(found["layer4"])}

    sketch, target = torch.rand(2, 2, 3, 96, 96)
    tensors = {"in/sketch": sketch, "in/target": target, **weights(tower, "weights/visual.")}
    for norm in ("L2", "L1"):
        with torch.enable_grad():
            leaf = sketch.clone().requires_grad_()
            parts = COURSE.ch07.feature_losses(maps(leaf), maps(target), scales, norm)
            total = sum(parts.values()).mean()
            gradient = torch.autograd.grad(total, leaf)[0]
        names = {"stem": "clip_conv_loss_layer0", "layer2": "clip_conv_loss_layer2", "layer4": "clip_conv_loss_layer4"}
        tensors |= {f"out/{norm}_{names.get(key, key)}": part.mean().detach() for key, part in parts.items()}
        tensors |= {f"out/{norm}_total": total.detach(), f"out/{norm}_grad_sketch": gradient}
    return tensors, config


def clipasso_saliency_init():
    attention, image, saliency = torch.randn(2, 3, 37, 37).softmax(-1), torch.rand(40, 56, 3), torch.rand(40, 56)
    image = F.avg_pool2d(image.permute(2, 0, 1), 5, 1, 2).permute(1, 2, 0)
    edges = COURSE.ch07.xdog(image.permute(2, 0, 1))
    with_edges, without = (COURSE.ch07.sampling(saliency, e, 0.7) for e in (edges, None))
    tensors = {"in/attn_probs": attention, "out/saliency": COURSE.ch07.saliency_map(attention, 90),
               "in/image": image, "out/xdog": edges, "in/saliency_small": saliency,
               "out/sampling_prob_x1000": 1000 * with_edges, "out/sampling_prob_no_xdog_x1000": 1000 * without}
    return tensors, dict(softmax_temperature=0.7, sigma=0.8, k=10, gamma=0.98, phi=200, eps=-0.1)


def rasteriser():
    config = dict(width=40, height=24, fd_step=0.3, fd_width=1.2)
    points = torch.tensor([[[4.0, 5], [15, 22], [25, 2], [36, 18]], [[6.0, 20], [12, 12], [30, 21], [37, 4]]])
    target = fine(points[None] + 1.5, 2.0, (24, 40))[0, 0]

    def loss(strokes_):
        return (fine(strokes_, 1.2, (24, 40))[:, 0] - target).square().mean((1, 2))

    with torch.enable_grad():
        leaf = points.clone().requires_grad_()
        gradient = torch.autograd.grad(loss(leaf[None]).sum(), leaf)[0]
    step = 0.3 * torch.eye(points.numel()).view(-1, *points.shape)
    differences = ((loss(points + step) - loss(points - step)) / 0.6).view_as(points)
    tensors = {"in/strokes": points, "in/target": target, "in/widths": torch.tensor([1.2, 2.5]),
               "out/loss": loss(points[None])[0], "out/grad_fd_x1000": 1000 * differences,
               "out/grad_reverse_x1000": 1000 * gradient}
    for width in (1.2, 2.5):
        tensors |= {f"out/image_all_w{width:g}": fine(points[None], width, (24, 40))[0, 0],
                    f"out/image_each_w{width:g}": fine(points[:, None], width, (24, 40))[:, 0]}
    return tensors, config


def clip4clip(build, scaled):
    head, mask = lively(build()), torch.ones(5, 4, dtype=torch.long)
    mask[1, 2:], mask[3, 3:] = 0, 0
    text, frames, factor = torch.randn(4, 24), torch.randn(5, 4, 24), torch.tensor(1.5)
    logits = head(text, frames, mask, factor.exp())
    tensors = {"in/text": text[:, None], "in/frames": frames, "in/video_mask": mask, "out/logits": logits,
               "out/loss": COURSE.ch08.match_loss(logits[:, :4]), **weights(head)}
    return tensors | ({"in/logit_scale": factor} if scaled else {}), dict(heads=3, layers=1)


def clip4clip_metrics():
    tensors = {"in/sim_plain": torch.randn(9, 9), "in/sim_coarse": torch.randn(9, 9).round()}
    for case in ("plain", "coarse"):
        ranks = COURSE.ch08.ranks_released(tensors[f"in/sim_{case}"])
        tensors |= {f"out/{case}_ranks0": ranks, f"out/{case}_R3": 100 * (ranks < 3).double().mean().float(),
                    f"out/{case}_MedianR": ranks.double().quantile(0.5).float() + 1,
                    f"out/{case}_MeanR": ranks.double().mean().float() + 1}
    return tensors, {}


def actionclip_kl_loss():
    film, text, labels = unit(7, 10), unit(7, 10), torch.tensor([3, 0, 3, 1, 1, 3, 2])
    tensors = {"in/video": film, "in/text": text, "in/labels": labels}
    for case, scale in (("a", 4.0), ("b", 30.0), ("c", 90.0)):
        loss = COURSE.ch09.kl_loss(film, text, labels, torch.tensor(scale))
        tensors |= {f"in/scale_{case}": torch.tensor(scale), f"out/loss_{case}": loss}
    return tensors, {"label_sharpness": 10}


def actionclip_shift():
    maps, tokens = torch.randn(6, 10, 2, 5), torch.randn(6, 11, 10)  # two films of three frames
    tensors = {"in/maps": maps, "in/tokens": tokens.transpose(0, 1), "in/n_segment": torch.tensor(3),
               "out/tokens_one_frame_div2": COURSE.ch09.shift_tokens(tokens, 1, 2, 1).transpose(0, 1)}
    for div in (2, 5):
        moved = COURSE.ch09.shift_tokens(maps.flatten(2).mT, 3, div, 0).mT.unflatten(2, (2, 5))
        tensors |= {f"out/tokens_div{div}": COURSE.ch09.shift_tokens(tokens, 3, div, 1).transpose(0, 1),
                    f"out/maps_div{div}": moved}
    return tensors, {"n_segment": 3}


def actionclip(build):
    head, frames = lively(build()), torch.randn(4, 5, 24)
    return {"in/frames": frames, "out/video_feature": head(frames), **weights(head)}, dict(heads=3, layers=2)


def actionclip_conv1d():
    head, released, frames = lively(COURSE.ch09.Conv1D(24)), COURSE.ch09.Conv1DReleased(24), torch.randn(4, 5, 24)
    released.load_state_dict(head.state_dict())
    out = {"out/video_feature_permuted": head(frames), "out/video_feature_released": released(frames)}
    return {"in/frames": frames, **out, **weights(head)}, {}


def clipvil_resize_pos():
    tensors = {}
    for case, old, new in (("up", 3, 7), ("down", 8, 5)):
        positions = torch.randn(1, 1 + old**2, 10)
        tensors |= {f"in/pos_{case}": positions, f"in/tokens_{case}": torch.tensor(new**2),
                    f"out/resized_{case}": bilinear(positions, new**2)}
    return tensors, {}


def clipvil_grid_features():
    tower, image = lively(Grid(96, (1, 2, 1, 1), 6, 3, 18)), torch.randn(3, 3, 96, 96)
    grid, pooled = tower(image)
    out = {"out/grid": grid, "out/caption_grid": grid.clone(), "out/caption_pooled": pooled}
    return {"in/image": image, **out, **weights(tower, "weights/visual.")}, {"layers": [1, 2, 1, 1], "heads": 3}


def audioclip_loss():
    tensors = {f"in/{name}": torch.randn(7, 7) for name in ("audio_image", "audio_text", "image_text")}
    matrices = list(tensors.values())
    for case, given in (("three", matrices), ("audio_image", matrices[:1]), ("audio_text_image_text", matrices[1:])):
        tensors[f"out/loss_{case}"] = matrices_loss_released(given)
    return tensors, {}


def random_filters(count):
    """Filters whose windows are negative in places, and a bias that is empty, as in the release."""
    filters = FBSP(count)
    filters.m.data, filters.fb.data = 0.3 + torch.rand(count), 1 + 2 * torch.rand(count)
    return filters


def audioclip_fbsp():
    filters, frames = random_filters(9), torch.randn(3, 2, 24)
    complex_frames = torch.randn(3, 2, 24, dtype=torch.complex64)
    tensors = {"in/frames": frames, "in/frames_complex": torch.view_as_real(complex_frames),
               "weights/fbsp.bias": torch.zeros(0), **weights(filters, "weights/fbsp.")}
    for case in ("normalized", "plain"):
        filters.normalised = case == "normalized"
        found = {"filters": filters.filters(24), "spectrum": filters(frames),
                 "spectrum_complex_input": filters(complex_frames)}
        tensors |= {f"out/{name}_{case}": torch.view_as_real(value) for name, value in found.items()}
    return tensors, {}


def audioclip_frontend():
    config = dict(n_fft=46, hop=11, win=39, bands=5)
    module, wave = FrontEnd(**config), torch.randn(3, 399) * 9000
    module.fbsp = random_filters(24)
    return {"in/wave": wave, "weights/fbsp.bias": torch.zeros(0), "out/spec_db": module(wave)[:, None],
            **weights(module)}, config


def audioclip_attention2d():
    tensors = {}
    for case, kernel, kernels, size in (("a", (5, 1), 1, (3, 4)), ("b", (3, 3), 3, (2, 5))):
        padding, x = tuple(side // 2 for side in kernel), torch.randn(3, 6, 7, 10)
        gate = lively(Gate(6, 10, kernels, kernel, padding))
        tensors |= {f"in/x_{case}": x, f"in/size_{case}": torch.tensor(size), f"out/gate_{case}": gate(x, size),
                    f"in/padding_{case}": torch.tensor(padding), **weights(gate, f"weights/{case}.")}
    return tensors, {}


def pointclip_project():
    tensors = {}
    for kind, count, distance, size in (("zs", 6, 2.0, 20), ("fs", 10, 1.9, 36)):
        points, view = torch.rand(3, 50, 3) - 0.5, COURSE.ch12.views(count, distance)
        tensors |= {f"in/points_{kind}": points, f"out/rotation_{kind}": view[0], f"out/translation_{kind}": view[1],
                    f"out/depth_{kind}": COURSE.ch12.project(points, *view, size)}
    return tensors, {"zs_trans": -2.0, "fs_trans": -1.9}


def pointclip_adapter():
    adapter, views = lively(COURSE.ch12.InterViewAdapter(4, 8, 0.3)), torch.randn(12, 8)
    config = dict(views=4, channels=8, residual_ratio=0.3)
    return {"in/view_features": views, "out/adapted": adapter(views), **weights(adapter)}, config


def pointclip_fuse():
    given, share = (torch.randn(3, 5, 9), torch.randn(4, 9), torch.tensor(2.0).exp()), torch.rand(5)
    tensors = {"in/view_features": given[0], "in/text_features": given[1], "in/logit_scale": torch.tensor(2.0),
               "in/view_weights": share}
    for case, own, together in (("zero_shot", None, False), ("view_weighted", share, False), ("few_shot", None, True)):
        tensors[f"out/logits_{case}"] = COURSE.ch12.fuse(*given, own, together)
    return tensors, {}


def pointclip_smooth_loss():
    logits, labels = torch.randn(4, 5), torch.tensor([4, 0, 2, 2])
    each = torch.stack([COURSE.ch12.smooth_loss(logits[i : i + 1], labels[i : i + 1], 0.1) for i in range(4)])
    out = {"out/loss": each.mean(), "out/loss_per_sample": each}
    return {"in/logits": logits, "in/labels": labels, **out}, {"eps": 0.1}


def pointclip_v2_project():
    config = dict(resolution=30, depth=6, maxpoolxy=7, maxpoolpadxy=2, convxy=3, convpadxy=1, convsigmaxy=1.5,
                  depth_bias=0.1, obj_ratio=0.7)
    points, first = torch.rand(1, 90, 3), COURSE.ch12.views(6)[0]
    second = COURSE.ch12.views(10)[0][4:10]
    images = COURSE.ch12.project_v2(points, first @ second, 30, 6, 7, 1.5, 0.7, 0.1)[0]
    grid = COURSE.ch12.voxels(points, (first @ second)[0], 30, 6, 0.7, 0.1)[0]
    return {"in/points": points, "out/rotation_1": first, "out/rotation_2": second, "out/images": images,
            "out/grid_first_view": grid}, config


def depthclip_head():
    layer4, text = torch.randn(3, 20, 5, 3), unit(5, 10)
    tensors = {"in/layer4": layer4.flatten(2).permute(2, 0, 1).contiguous(), "in/text": text.T.contiguous()}
    for case, temperature in (("near", 0.3), ("far", 2.0)):
        bins = 5 * torch.rand(5)
        depth = COURSE.ch13.depth_head_released(layer4, text, bins, temperature)
        tensors |= {f"in/bins_{case}": bins, f"in/temperature_{case}": torch.tensor(temperature),
                    f"out/depth_{case}": depth[:, None]}
    return tensors, {"grid": [5, 3], "factor": 100}


def depthclip_errors():
    true, predicted = 11 * torch.rand(2, 1, 30, 40), 1 + 4 * torch.rand(2, 1, 26, 34)
    large = [F.interpolate(x, scale_factor=16, mode="nearest")[:, 0] for x in (predicted, true)]
    found = {f"out/{key}": torch.tensor(value) for key, value in COURSE.ch13.nyu_errors(*large).items()}
    return {"in/gt_div16": true, "in/pred_div16": predicted, **found}, {}


SECOND = {  # golden file -> what makes another one of its kind
    "lseg_spatial_block_bottleneck": functools.partial(spatial_block, lseg.BottleneckBlock),
    "lseg_spatial_block_depthwise": functools.partial(spatial_block, lseg.DepthwiseBlock),
    "vild_head": functools.partial(vild_head, True), "vild_text_head": functools.partial(vild_head, False),
    "clip4clip_meanP": functools.partial(clip4clip, lambda: COURSE.ch08.MeanHead(), True),
    "clip4clip_seqLSTM": functools.partial(clip4clip, lambda: COURSE.ch08.LSTMHead(24), True),
    "clip4clip_seqTransf": functools.partial(clip4clip, lambda: COURSE.ch08.TransformerHead(24, 1, 3, 9), True),
    "clip4clip_tightTransf": functools.partial(clip4clip, lambda: COURSE.ch08.TightHead(24, 1, 3, 9), False),
    "actionclip_transf": functools.partial(actionclip, lambda: COURSE.ch09.Transf(24, 2, 3, 11)),
    "actionclip_lstm": functools.partial(actionclip, lambda: COURSE.ch09.LSTM(24)),
} | {make.__name__: make for make in (
    clip_vit, clip_resnet, clip_text, clip_loss, clip_tokens, lseg_decoder_block, lseg_head, groupvit_grouping_block,
    groupvit_encoder, groupvit_multilabel_loss, groupvit_segment, vild_distillation, vild_ensemble, clipasso_losses,
    clipasso_saliency_init, rasteriser,
    clip4clip_metrics, actionclip_kl_loss, actionclip_shift, actionclip_conv1d, audioclip_loss, audioclip_fbsp,
    clipvil_resize_pos, clipvil_grid_features,
    audioclip_frontend, audioclip_attention2d, pointclip_project, pointclip_adapter,
    pointclip_fuse, pointclip_smooth_loss, pointclip_v2_project, depthclip_head, depthclip_errors)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("second")


@pytest.fixture
def second(folder, monkeypatch):
    """Parity reads its numbers from files of other sizes, made by our own code when they are first asked for."""

    def shared(name):
        path = folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            torch.manual_seed(1)
            with torch.no_grad():
                tensors, config = SECOND[path.stem]()
            tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
            save_file(tensors, path, {"config": json.dumps(config)})
        return path

    monkeypatch.setattr(package, "shared", shared)


NAMES = components()


def test_there_are_two_files_for_each_component_and_no_file_without_one():
    files = {find(name).file for name in NAMES}
    assert files == set(SECOND) == {path.stem for path in GOLDEN.glob("*.safetensors")}


@pytest.mark.parametrize("name", NAMES)
def test_our_code_equals_the_release(name, capsys):
    assert check.parity(name, RIGHT[name]()) is not None
    bound = r"at most 1e-5|at most 1e-4|at most 0\.05|exactly"
    assert re.fullmatch(rf"{name}: equal to the release \(({bound})\)\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_constants_come_from_the_file(name, second):
    official, (tensors, _) = load_file(GOLDEN / f"{find(name).file}.safetensors"), check.golden(name)
    assert any(key not in official or official[key].shape != value.shape for key, value in tensors.items())
    assert check.parity(name, RIGHT[name]()) is not None


# ---------------------------------------------------------------- typical slips


def one_sided(image_emb, text_emb, scale):
    logits = scale * image_emb @ text_emb.T
    return F.cross_entropy(logits, torch.arange(len(logits)))


def doubled(image_emb, text_emb, scale):
    return 2 * library.clip_loss(image_emb, text_emb, scale)


class GELU(nn.Module):
    def forward(self, x):
        return F.gelu(x)


def wide_gelu(**config):
    tower = library.VisionTransformer(**config)
    for block in tower.transformer.resblocks:
        block.mlp.gelu = GELU()
    return tower


def mirrored(**config):
    """Gives each place another place's position."""
    tower = library.ModifiedResNet(**config)
    tower.attnpool.forward = lambda x: library.AttentionPool2d.forward(tower.attnpool, x.flip(-1))
    return tower


class LateNorm(library.VisionTransformer):
    """Forgets ln_pre."""

    def embed(self, x):
        norm, self.ln_pre = self.ln_pre, nn.Identity()
        try:
            return super().embed(x)
        finally:
            self.ln_pre = norm


class NoMask(library.TextTransformer):
    def token_states(self, ids):
        self.causal_mask.zero_()
        return super().token_states(ids)


class NoSkip(lseg.FeatureFusionBlock):
    def forward(self, path, skip=None):
        return super().forward(path)


class Warm(lseg.PixelTextHead):
    """Divides by a tenth, not by 0.07."""

    def product(self, path_1, text_emb):
        return 0.7 * super().product(path_1, text_emb)


def slips_of_clip() -> list[tuple]:
    return [("vit", wide_gelu), ("vit", LateNorm), ("resnet", mirrored), ("text", NoMask), ("loss", one_sided),
            ("loss", lambda u, v, scale: library.clip_loss(u, v, 1.0)), ("loss", doubled),
            ("tokens", lambda text: [7 * i for i in Tokenizer().encode(text)])]


def slips_of_lseg() -> list[tuple]:
    return [("decoder_block", NoSkip), ("head", Warm), ("spatial_block_bottleneck", lseg.DepthwiseBlock),
            ("spatial_block_depthwise", lseg.BottleneckBlock)]


def slips_of_groupvit() -> list[tuple]:
    ch03 = COURSE.ch03

    class OtherAxis(ch03.GroupingBlock):
        def forward(self, segments, group_tokens):
            new, soft = super().forward(segments, group_tokens)
            return new, soft.softmax(-1)

    class UnitTokens(ch03.GroupViT):
        def __init__(self, **sizes):
            super().__init__(ch03.GroupViTConfig(**sizes))

        def forward(self, x):
            tokens, maps = super().forward(x)
            return F.normalize(tokens, dim=-1), maps

    return [("grouping_block", OtherAxis), ("gumbel", lambda *given: gumbel(*given).detach()),
            ("gumbel", lambda logits, noise, tau: gumbel(logits, noise / tau, 1.0)), ("encoder", UnitTokens),
            ("contrastive", one_sided), ("multilabel_loss", lambda *given: 2 * ch03.multi_label_loss(*given)),
            ("segment", lambda *given: ch03.segment_released(*given, top_k=1))]


def slips_of_vild() -> list[tuple]:
    ch04 = COURSE.ch04

    class BackgroundLast(ch04.ViLDHead):
        def forward(self, regions, text_emb):
            logits, boxes, image_emb = super().forward(regions, text_emb)
            return logits.roll(-1, 1), boxes, image_emb

    class OneTower(ch04.ViLDHead):
        def forward(self, regions, text_emb):
            return *super().forward(regions, text_emb)[:2], self.tower(regions)[1]

    def absent(logits, labels, mask):
        return F.cross_entropy(logits.masked_fill(mask == 0, -1e4), labels)

    return [("head", OneTower), ("text_head", BackgroundLast), ("class_loss", absent),
            ("distillation", lambda student, teacher, boxes: (student - F.normalize(teacher, dim=-1)).abs().mean()),
            ("ensemble", lambda text, image, base: ch04.ensemble_scores(text, image, 1 - base))]


def slips_of_clipasso() -> list[tuple]:
    ch07 = COURSE.ch07

    def summed(sketch, target, scales, norm):
        parts = ch07.feature_losses(sketch, target, scales, norm)
        return {k: v if k == "fc" else v * sketch[k][0].numel() for k, v in parts.items()}

    return [("losses", summed), ("losses", lambda s, t, scales, norm: ch07.feature_losses(s, t, scales, "L2")),
            ("saliency", lambda attention, size: ch07.saliency_map(attention[-1:], size)),
            ("xdog", lambda image: 1 - ch07.xdog(image)),
            ("sampling", lambda saliency, edges: ch07.sampling(saliency, edges, 1.0)),
            ("rasteriser", lambda points, width, size: fine(points, width / 2, size)),
            ("rasteriser", lambda points, width, size: fine(points - 0.5, width, size))]


def slips_of_clip4clip() -> list[tuple]:
    ch08 = COURSE.ch08

    class PlainMean(ch08.MeanHead):
        def video(self, frames, mask):
            return F.normalize((frames * mask[..., None]).sum(1), dim=-1)

    class NoResidual(ch08.LSTMHead):
        def refine(self, frames, mask):
            return super().refine(frames, mask) - frames

    class SeesPadding(ch08.TransformerHead):
        def refine(self, frames, mask):
            return super().refine(frames, torch.ones_like(mask))

    class TightScaled(ch08.TightHead):
        def forward(self, text, frames, mask, factor=1.0):
            return super().forward(F.normalize(text, dim=-1), frames, mask)

    return [("meanP", PlainMean), ("seqLSTM", NoResidual), ("seqTransf", SeesPadding), ("tightTransf", TightScaled),
            ("loss", lambda logits: F.cross_entropy(logits, torch.arange(len(logits)))),
            ("metrics", lambda similarity: (similarity > similarity.diagonal()[:, None]).sum(1))]


def slips_of_actionclip() -> list[tuple]:
    ch09 = COURSE.ch09

    def uniform(video_emb, text_emb, labels, scale):
        target = (labels[:, None] == labels).float()
        target = target / target.sum(1, keepdim=True)
        logits = scale * video_emb @ text_emb.T
        return sum(F.kl_div(t.log_softmax(1), target, reduction="batchmean") for t in (logits, logits.T)) / 2

    def no_shortcut(kind):
        class Refined(kind):
            def forward(self, x):
                return super().forward(x) - x.mean(1)

        return Refined

    return [("kl_loss", uniform), ("shift", lambda tokens, count, div, skip: ch09.shift_tokens(tokens, count, div, 0)),
            ("transf", no_shortcut(ch09.Transf)), ("lstm", no_shortcut(ch09.LSTM)), ("conv1d", ch09.Conv1DReleased),
            ("conv1d_released", ch09.Conv1D)]


def slips_of_audioclip() -> list[tuple]:
    class Conjugated(FBSP):
        def filters(self, length):
            return super().filters(length).conj()

    class PaddedRight(FrontEnd):
        def forward(self, wave):
            return super().forward(F.pad(wave, (0, -(wave.shape[1] - len(self.window)) % self.hop), value=-0.5))

    class Averaged(Gate):
        def forward(self, x, size):
            return super().forward(F.adaptive_avg_pool2d(x, size), size)

    def rows_only(matrices):
        return torch.stack([F.cross_entropy(matrix, torch.arange(len(matrix))) for matrix in matrices]).mean()

    return [("loss", rows_only), ("loss_released", matrices_loss), ("fbsp", Conjugated),
            ("frontend", PaddedRight), ("attention2d", Averaged)]


def slips_of_clipvil() -> list[tuple]:
    class UnitPlaces(Grid):
        def forward(self, x):
            grid, pooled = super().forward(x)
            return F.normalize(grid, dim=1), pooled

    class MeanPooled(Grid):
        def forward(self, x):
            grid, pooled = super().forward(x)
            return grid, self.attnpool.c_proj(grid.mean((2, 3)))

    def left_at_zero(positions, places):  # the release's own slip
        return torch.zeros_like(bilinear(positions, places))

    return [("resize_pos", left_at_zero), ("resize_pos", functools.partial(bilinear, mode="bicubic")),
            ("resize_pos", functools.partial(bilinear, align_corners=True)),
            ("grid_features", UnitPlaces), ("grid_features", MeanPooled)]


def slips_of_pointclip() -> list[tuple]:
    ch12 = COURSE.ch12

    class NoSecondReLU(ch12.InterViewAdapter):
        def forward(self, x):
            x = x.reshape(-1, self.views, x.shape[-1])
            correction = self.view_f[:3](self.global_f(x * self.fusion_ratio[:, None]))
            return self.ratio * correction + (1 - self.ratio) * x.flatten(1)

    return [("views", lambda count: (ch12.views(count)[0].mT, ch12.views(count)[1])),
            ("project", lambda *given: ch12.project(*given).mT), ("adapter", NoSecondReLU),
            ("fuse", lambda x, *given: ch12.fuse(x, *given) * x.shape[1] ** 0.5),
            ("smooth_loss", lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.2)),
            ("v2_grid", lambda p, r, size, depth, ratio, bias: ch12.voxels(p, r, size, depth, 1.0, bias)),
            ("v2_project", lambda *given: 1 - ch12.project_v2(*given))]


def slips_of_depthclip() -> list[tuple]:
    ch13 = COURSE.ch13

    def every_channel_twice(layer4, *given):
        return ch13.depth_head_released(F.normalize(layer4[:, ::2], dim=1).repeat_interleave(2, 1), *given)

    return [("head", every_channel_twice),
            ("errors", lambda predicted, true: ch13.nyu_errors(predicted.roll(8, 2), true))]


SLIPS = {  # method -> its components, each with a candidate that has a typical slip
    "clip": slips_of_clip, "lseg": slips_of_lseg, "groupvit": slips_of_groupvit,
    "vild": slips_of_vild, "clipasso": slips_of_clipasso,
    "clip4clip": slips_of_clip4clip, "actionclip": slips_of_actionclip, "audioclip": slips_of_audioclip,
    "clipvil": slips_of_clipvil,
    "pointclip": slips_of_pointclip, "depthclip": slips_of_depthclip,
}


@pytest.mark.parametrize("file", ["official", "second"])
@pytest.mark.parametrize("method", SLIPS)
def test_a_slip_is_refused_on_both_files(method, file, request):
    if file == "second":
        request.getfixturevalue("second")
    slips = SLIPS[method]()
    assert {f"{method}.{part}" for part, _ in slips} == {name for name in NAMES if name.startswith(f"{method}.")}
    for part, candidate in slips:
        name = f"{method}.{part}"
        with pytest.raises(AssertionError, match=f"^{name} (differs from the release|could not be compared)") as told:
            check.parity(name, candidate)
        assert f"\nUsual causes: {find(name).mistakes}" in str(told.value)


class RenamedWeight(library.VisionTransformer):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.projection = self.proj
        del self.proj


def half_a_width(image_size, patch_size, width, layers, heads, embed_dim):
    return library.VisionTransformer(image_size, patch_size, width // 2, layers, heads, embed_dim)


@pytest.mark.parametrize(
    ("name", "wrong", "reason"),
    [
        ("clip.vit", RenamedWeight, "other names.*Only there: proj; only in yours: projection"),
        ("clip.vit", half_a_width, "another shape"),
        ("clip.loss", lambda i, t, s: s * i @ t.T, r"shape is \(5, 5\), the release's is \(\)"),
        ("clip.loss", lambda i, t, s: torch.tensor(float("nan")), "differs from the release by inf"),
        ("clip.tokens", lambda text: Tokenizer().encode(text)[1:], "shape"),
        ("clip.tokens", lambda text: 1 / 0, "could not be compared. division by zero"),
        ("clip.loss", lambda i, t, s: torch.arange(3).softmax(0), "not implemented for 'Long'"),
    ],
)
def test_what_cannot_be_compared_says_why(name, wrong, reason):
    with pytest.raises(AssertionError, match=f"(?s)^{name}(?=.*Usual causes: .).*{reason}"):
        check.parity(name, wrong)


# ---------------------------------------------------------------- what a candidate may be


def test_other_parameter_names_instances_and_framed_tokens():
    assert check.parity("clip.tokens", lambda text: [49406, *Tokenizer().encode(text), 49407]) == 0

    def build(size, patch, dim, depth, n_heads, out):
        return library.VisionTransformer(size, patch, dim, depth, n_heads, out)

    assert check.parity("clip.vit", build) <= 1e-5
    assert check.parity("clip.vit", build(64, 16, 48, 2, 3, 32)) <= 1e-5


class OwnText(nn.Module):
    """A reader's text tower that is called on ids."""

    def __init__(self, embed_dim, context_length, vocab_size, text_width, text_layers, text_heads):
        super().__init__()
        shape = dict(context_length=context_length, vocab_size=vocab_size, text_width=text_width)
        config = library.CLIPConfig(embed_dim, 32, 1, 64, 32, **shape, text_layers=text_layers, text_heads=text_heads)
        tower = library.TextTransformer(config)
        for name, child in tower.named_children():
            self.add_module(name, child)
        self.positional_embedding, self.text_projection = tower.positional_embedding, tower.text_projection
        self.tower = [tower]

    def forward(self, ids):
        return self.tower[0].encode_ids(ids)


def test_a_text_tower_without_a_config_object():
    assert check.parity("clip.text", OwnText) <= 1e-5


# ---------------------------------------------------------------- stubs


def stub(*given):
    raise NotImplementedError


class StubModule(nn.Module):
    def __init__(self, features):
        super().__init__()

    def forward(self, path, skip=None):
        raise NotImplementedError


STUBS = [("clip.loss", None), ("clip.loss", stub), ("clip.loss", lambda *given: stub(*given)),
         ("clip.vit", functools.partial(stub)), ("clip.vit", torch.no_grad()(stub))]


@pytest.mark.parametrize(("name", "candidate"), STUBS)
def test_a_stub_is_not_attempted(name, candidate, capsys):
    assert check.parity(name, candidate) is None
    assert capsys.readouterr().out == f"{name}: not attempted\n"


def test_a_stub_in_a_method_is_not_attempted(capsys, monkeypatch):
    monkeypatch.setattr(package, "load", lambda module, *given: module)
    monkeypatch.setattr(importlib.import_module("clipnotes.check.parity.lseg"), "load", lambda module, *given: module)
    assert check.parity("lseg.decoder_block", StubModule) is None
    assert capsys.readouterr().out == "lseg.decoder_block: not attempted\n"


@pytest.mark.parametrize(("name", "candidate"), STUBS)
def test_a_stub_earns_nothing_where_nbgrader_grades(name, candidate, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(AssertionError, match=f"{name}: not attempted"):
        check.parity(name, candidate)


def todo(*given):
    raise NotImplementedError("later")


def helped(*given):
    return stub(*given) + 1


@pytest.mark.parametrize("candidate", [todo, helped])
def test_others_errors_are_no_stubs(candidate):
    with pytest.raises(AssertionError, match="clip.loss could not be compared"):
        check.parity("clip.loss", candidate)


# ---------------------------------------------------------------- names, releases, what is stored


def test_an_unknown_name_lists_what_exists():
    for name in ("clip.sound", "sound.vit", "clip", "clip.RELEASE", "os.path", "..clip.vit", ""):
        with pytest.raises(ValueError, match=f"no official numbers for '{re.escape(name)}'.*clip.vit.*lseg.head"):
            check.parity(name, None)
        with pytest.raises(ValueError, match="no official numbers"):
            check.golden(name)


def test_a_new_method_is_a_new_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "newest.py").write_text(
        "from clipnotes.check.parity import component\n"
        "RELEASE = 'a/b at 0123456'\n"
        "@component(release='c/d at 0123456', note='n')\n"
        "def twice(candidate, tensors, config):\n"
        "    'x -> twice x. Usual mistakes: adding\\n one.'\n"
        "    yield candidate(tensors['in/x']), tensors['out/y'], config['bar']\n", "utf-8")
    (tmp_path / "golden").mkdir()
    save_file({"in/x": torch.ones(2), "out/y": 2 * torch.ones(2)}, tmp_path / "golden" / "newest_twice.safetensors",
              {"config": '{"bar": 0.01}'})
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(package, "shared", lambda name: tmp_path / name)
    try:
        assert "newest.twice" in components()
        check.parity("newest.twice", lambda x: 2.001 * x)
        assert capsys.readouterr().out == "newest.twice: equal to the release (at most 0.01)\n"
        with pytest.raises(AssertionError, match="differs.*\nUsual causes: adding one."):
            check.parity("newest.twice", lambda x: x + 2)
    finally:
        sys.modules.pop("clipnotes.check.parity.newest", None)


def test_each_component_says_what_it_takes_its_mistakes_and_its_release():
    origin = (GOLDEN / "ORIGIN.md").read_text("utf-8")
    origins = dict(re.findall(r"^\| [^|]+ \| ([\w/-]+) \| `([0-9a-f]{40})`", origin, re.M))
    for name in NAMES:
        part = find(name)
        assert part.mistakes and "->" in part.compare.__doc__, name
        repository, commit = part.oracle.split(" at ")
        assert len(commit) == 7 and origins[repository].startswith(commit), name


@pytest.fixture
def kernel():
    """A shell that believes it has a kernel; what it displays is captured."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance().kernel = object()
    with capture_output() as captured:
        yield captured
    InteractiveShell.clear_instance()


def test_what_is_stored_is_the_same_on_every_machine(kernel):
    check.parity("clip.loss", library.clip_loss)
    check.parity("clip.tokens", Tokenizer().encode)
    check.no_oracle("clip.training", "the release has no training code")
    texts = [output.data["text/plain"] for output in kernel.outputs]
    entries = [output.metadata["clipnotes"]["parity"] for output in kernel.outputs]
    assert texts == ["clip.loss: equal to the release (at most 1e-5)", "clip.tokens: equal to the release (exactly)",
                     "clip.training: no oracle exists (the release has no training code)"]
    oracle = "openai/CLIP at d05afc4"
    assert entries == [dict(id="clip.loss", oracle=oracle, tolerance=1e-5, note=""),
                       dict(id="clip.tokens", oracle=oracle, tolerance=0.0, note=""),
                       dict(id="clip.training", oracle=None, tolerance=None, note="the release has no training code")]


def test_v2_names_its_own_release(kernel):
    check.parity("pointclip.v2_grid", COURSE.ch12.voxels)
    (output,) = kernel.outputs
    assert output.metadata["clipnotes"]["parity"]["oracle"] == "yangyangyang127/PointCLIP_V2 at 0b5aee8"
