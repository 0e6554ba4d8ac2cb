"""The pretended device counts what it should: known operations, one after the other. Ends with "as expected" or an AssertionError."""

from __future__ import annotations

import sys

import counting
import torch

device = torch.device("cuda")
a = torch.empty(64, 32, device=device)
b = torch.empty(32, 16, device=device)
a @ b  # makes handles


def counted(work) -> counting.Counts:
    counting.begin()
    work()
    return counting.end()


product = counted(lambda: a @ b)
assert product.flops("fp32") == 2 * 64 * 32 * 16 == product.flops(), product.amounts
assert product.launches == 1 and product.waits == 0

half = counted(lambda: a.bfloat16() @ b.bfloat16())
assert half.flops("bf16") == 2 * 64 * 32 * 16 and half.flops("fp32") == 0
assert half.launches == 3  # two conversions and the product

scalar = counted(lambda: a.sum().item())
assert scalar.waits == 1 and scalar.amounts["copy to the host, pinned, bytes"] == 4, scalar.amounts

host = torch.zeros(100)
assert counted(lambda: host.to(device)).waits == 1
pinned = counted(lambda: host.pin_memory().to(device, non_blocking=True))
assert pinned.waits == 0 and pinned.pageable == 0 and pinned.amounts["copy to the device, pinned, bytes"] == 400

with torch.device(device):
    layer, x = torch.nn.Conv2d(3, 8, 3, padding=1), torch.empty(2, 3, 10, 10)
convolution = counted(lambda: layer(x).sum().backward())
assert convolution.flops("tf32") == 2 * (2 * 2 * 8 * 10 * 10 * 3 * 9), convolution.convolutions  # forward and weight gradient
assert layer.weight.grad.shape == layer.weight.shape

try:
    a + host[0:32].reshape(32)
except RuntimeError as error:
    assert "same device" in str(error)
else:
    raise AssertionError("a tensor on another device was used")

graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    static = (a @ b).relu()
replayed = counted(graph.replay)
assert replayed.launches == 0 and replayed.amounts["graph launches"] == 1 and replayed.amounts["graph nodes"] == 2, replayed.amounts
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        a.sum().item()
except RuntimeError as error:
    assert "capturing" in str(error), error
else:
    raise AssertionError("a capture accepted a scalar read")
sys.stdout.write("as expected\n")
