"""What a sweep takes a machine to be: its own speed and memory, a GPU's where that is the device."""

import pytest
import torch

from probecache.analyze.sweeps import resolved_plan
from probecache.analyze.sweeps.resolved_plan import machine_for

GIB = 2**30


@pytest.mark.parametrize(("limit", "memory"), [(None, 8 * GIB), (3 * GIB, 3 * GIB)])
def test_a_gpus_own_rate_and_four_fifths_of_its_free_memory(monkeypatch, limit, memory):
    monkeypatch.setattr(resolved_plan, "pick_device", lambda device: torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 20 * GIB))
    monkeypatch.setattr(resolved_plan, "product_rate", {"cuda:1": 4e13}.__getitem__)
    machine = machine_for(None, "cuda:1", limit)
    assert (machine.flops, machine.memory, machine.workers, machine.device) == (4e13, memory, 1, "cuda:1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_rate_is_the_devices():
    gpu, cpu = machine_for(None, "cuda", None), machine_for(None, "cpu", None)
    total = torch.cuda.get_device_properties(0).total_memory
    assert 0.2 * total < gpu.memory <= 0.8 * total
    assert gpu.flops > 5e12
    assert gpu.flops > 3 * cpu.flops
