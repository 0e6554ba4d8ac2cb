"""Which micro-batches fit a device's memory."""

import gc

import pytest
import torch

from svgbench.config.choices import MEMORY_SHARE
from svgbench.machine import memory
from svgbench.machine.memory import PROBES, Memory, counted, planned
from svgbench.machine.runtime import Runtime

H200 = 139 << 30


def test_the_plan_fits_what_two_counted_peaks_say_and_the_state_to_come():
    base, image, parameters = 7_000_000_000, 350_000_000, 676_000_000
    found = planned([base + image * images for images in PROBES], H200, memory.STATE_BYTES * parameters)
    assert found.image == image
    needed = base + image * found.fits + memory.STATE_BYTES * parameters
    assert needed <= MEMORY_SHARE * H200 < needed + image
    assert found.fits > 256 and found.limit(256) is None  # SiT-XL's batch in one pass


def test_a_device_too_small_for_anything_gets_one_image():
    assert planned([10**9 + 10**8 * images for images in PROBES], 10**9, 10**8).fits == 1


@pytest.mark.parametrize(
    ("count", "most", "limit"), [(200, None, None), (201, None, 101), (512, None, 171), (512, 64, 64), (200, 64, None), (201, 64, 51)]
)
def test_a_batch_that_does_not_fit_is_cut_into_equal_pieces(count, most, limit):
    assert Memory(fits=200, image=1, room=200).limit(count, most) == limit


def test_as_many_pieces_keep_their_activations_as_fit_beside_one_that_is_computed():
    found = Memory(fits=200, image=10, room=2000)
    assert [found.held(size) for size in (64, 100, 101, 200)] == [2, 1, 0, 0]
    assert found.held(None) == Memory(micro_batch=4).held(4) == 0


def test_a_chosen_micro_batch_is_kept_and_nothing_is_counted_without_a_gpu():
    def never(images):
        raise AssertionError

    for micro_batch in (None, 3):
        found = counted(Runtime(device="cpu", micro_batch=micro_batch), never, [])
        assert found == Memory(micro_batch=micro_batch) and found.limit(512, 64) == micro_batch


def test_counting_runs_two_probes_after_one_that_compiles_without_the_networks_of_earlier_stages(monkeypatch):
    network, seen = torch.nn.Linear(4, 4), []
    monkeypatch.setattr(gc, "collect", lambda: seen.append("collected"))
    monkeypatch.setattr(Runtime, "torch_device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 500 + 100 * seen[-1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Device", (), {"total_memory": 20_000}))
    found = counted(Runtime(device="cuda"), seen.append, [network, torch.nn.Linear(2, 2).requires_grad_(False)])
    assert seen == ["collected", 28, 28, 36]
    assert found.image == 100 and found.room == int(0.9 * 20_000) - 500 - 16 * 20


def test_networks_are_compiled_on_cuda_unless_told_otherwise(monkeypatch):
    assert [Runtime(device="cpu", compile=choice).compiles for choice in (None, False, True)] == [False, False, True]
    monkeypatch.setattr(Runtime, "torch_device", property(lambda self: torch.device("cuda")))
    assert [Runtime(device="cuda", compile=choice).compiles for choice in (None, False, True)] == [True, False, True]
