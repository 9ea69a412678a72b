"""On a pretended GPU the library and the chapters' models give what they give on a CPU, and mix no devices."""

import contextlib

import pytest
import torch
import torch.nn.functional as F

import gpu_check
from fake_gpu import AVAILABLE, fake_gpu

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this torch cannot pretend to have a GPU")
LIBRARY, MODELS = gpu_check.marked("library"), gpu_check.marked("models")


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_gives_on_a_gpu_what_it_gives_on_a_cpu(name):
    with fake_gpu() as gpu:
        item = gpu_check.library_item(LIBRARY[name], gpu, True)
    assert item["ok"], item


@pytest.mark.parametrize("name", MODELS)
def test_the_models_give_on_a_gpu_what_they_give_on_a_cpu(name):
    torch.manual_seed(0)
    case = MODELS[name](True)
    out, gradients = gpu_check.in_precision(case, "fp32")
    with fake_gpu() as gpu:
        case.ours.to(gpu)
        case.inputs = gpu_check.placed(case.inputs, gpu)
        there, gradients_there = gpu_check.in_precision(case, "fp32")
        assert there.device.type == gpu
        assert gpu_check.apart(out, there.cpu()) <= 1e-5
    assert len(gradients) == len(gradients_there)
    assert not gradients or gpu_check.cosine(gradients, gradients_there) >= 0.9999


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
