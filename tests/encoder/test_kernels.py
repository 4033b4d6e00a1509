import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bertcompress.encoder import kernels, quantized
from bertcompress.encoder.kernels import Linear

ONEDNN = "mkldnn._linear_pointwise.default"
needs_onednn = pytest.mark.skipif(not kernels.usable(), reason="oneDNN is not faster on this processor")


class Seen(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operators(linear, inputs):
    with Seen() as seen:
        linear(inputs)
    return seen.names


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    bias=st.booleans(),
    strided=st.booleans(),
    gelu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_product_is_torchs_own_up_to_rounding(shape, sizes, bias, strided, gelu, seed):
    torch.manual_seed(seed)
    linear = Linear(*sizes, bias=bias)
    inputs = torch.randn(*shape, sizes[0] * (1 + strided))[..., :: 1 + strided]
    with torch.inference_mode():
        found = linear(inputs, gelu=gelu)
        exact = F.linear(inputs.double(), linear.weight.double(), linear.bias.double() if bias else None)
    exact = F.gelu(exact) if gelu else exact
    assert found.dtype == torch.float32
    assert found.shape == exact.shape
    assert (found - exact).abs().max() < 1e-4


@needs_onednn
def test_inference_takes_the_faster_product_and_training_does_not():
    linear, inputs = Linear(8, 4), torch.randn(3, 8)
    with torch.no_grad():
        assert ONEDNN in operators(linear, inputs)
    assert ONEDNN not in operators(linear, inputs)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert ONEDNN not in operators(linear, inputs)
    with torch.no_grad():
        assert ONEDNN not in operators(linear.double(), inputs.double())


@needs_onednn
def test_changed_weights_count_at_once():
    linear, inputs = Linear(8, 4), torch.randn(3, 8)
    with torch.no_grad():
        linear(inputs)
        linear.weight.data.zero_()
        linear.bias.data.fill_(2)
        assert torch.equal(linear(inputs), torch.full((3, 4), 2.0))


def test_gradients_are_those_of_a_plain_linear_map():
    linear, inputs = Linear(8, 4), torch.randn(3, 8, requires_grad=True)
    linear(inputs).sum().backward()
    plain = nn.Linear(8, 4)
    plain.load_state_dict(linear.state_dict())
    copied = inputs.detach().clone().requires_grad_(True)
    plain(copied).sum().backward()
    assert torch.equal(linear.weight.grad, plain.weight.grad)
    assert torch.equal(inputs.grad, copied.grad)


def test_operations_are_counted_whichever_product_is_taken():
    linear, inputs = Linear(8, 4), torch.randn(2, 3, 8)
    counts = []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), FlopCounterMode(display=False) as counter:
            linear(inputs)
        counts.append(counter.get_total_flops())
    assert counts == [2 * 6 * 8 * 4] * 2


def test_an_exported_graph_has_torchs_own_operators():
    with torch.no_grad():
        exported = torch.export.export(Linear(8, 4).eval(), (torch.randn(3, 8),))
    assert "mkldnn" not in str(exported.graph)
    assert "linear" in str(exported.graph)


@pytest.mark.parametrize("kind", ["no AVX-512", "not built", "gone", "wrong"])
def test_a_product_that_cannot_be_relied_on_is_not_used(kind, monkeypatch):
    kernels.usable.cache_clear()
    if kind == "no AVX-512":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    elif kind == "not built":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    elif kind == "gone":
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    else:
        monkeypatch.setattr(F, "linear", lambda inputs, weight, bias: inputs @ weight.T)
    try:
        assert not kernels.usable()
    finally:
        kernels.usable.cache_clear()


GROWTH = """
import ctypes, torch
from bertcompress.encoder.kernels import product

def resident_mib():
    ctypes.CDLL(None).malloc_trim(0)
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))

weight, bias, inputs = torch.randn(1536, 384), torch.randn(1536), torch.randn(600, 384)
with torch.inference_mode():
    product(inputs[:80], weight, bias)
    before = resident_mib()
    for rows in range(100, 400):
        product(inputs[:rows], weight, bias)
print(resident_mib() - before)
"""


@needs_onednn
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_sizes():
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # without a limit about 190


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 9), sizes=st.tuples(st.integers(2, 1040), st.integers(1, 40)), seed=st.integers(0, 99))
def test_both_products_of_codes_are_the_same(rows, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs, weight = (torch.randn(count, sizes[0], generator=generator) for count in (rows, sizes[1]))
    codes, step = quantized.quantize_rows(weight)
    found = []
    for pays in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(quantized, "int8_pays", lambda pays=pays: pays)
            found.append(quantized.int8_linear(inputs, codes, step, None))
    assert torch.equal(*found)


@pytest.mark.parametrize(("times", "pays"), [((1.0, 1.0), True), ((1.9, 1.0), True), ((10.0, 1.0), False)])
def test_where_nothing_is_known_of_the_processor_both_are_tried(monkeypatch, times, pays):
    left = list(times)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setattr(kernels, "_fastest", lambda run: left.pop(0))
    assert kernels.int8_pays.__wrapped__() is pays
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert kernels.int8_pays.__wrapped__() is True  # nothing is left to try


def test_an_int8_map_is_never_much_slower_than_its_float():
    linear, inputs = nn.Linear(384, 1536), torch.randn(64, 384)
    codes, step = quantized.quantize_rows(linear.weight.detach())
    with torch.no_grad():
        small = kernels._fastest(lambda: quantized.int8_linear(inputs, codes, step, linear.bias))
        whole = kernels._fastest(lambda: linear(inputs))
    assert small < 5 * whole  # it was 25 times where int8 dot products are missing
