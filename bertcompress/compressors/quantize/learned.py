"""A network whose weights and activations are rounded as it trains, with step sizes that are learned.

The float weights stay; what they are multiplied with, and they themselves, pass through LSQ's quantizer. Such a network
is made from a float one and the quantization that is wanted (`prepare`), and ends as the state of the network that
stores codes (`quantized_state`), which computes the same but for the rounding of float sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertcompress.compressors.quantize.initialization import SMALLEST
from bertcompress.compressors.quantize.steps import LearnedStep, TrackedStep, multiplied
from bertcompress.compressors.quantize.weights import method_for, quantized_names, stored_codes
from bertcompress.encoder.bits import WHOLE, code_range
from bertcompress.encoder.lsq import fake_quantize
from bertcompress.encoder.quantized import Embedding, site_ranges
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.encoder.tensors import Quantization


class LearnedLinear(nn.Module):
    """A linear map with rounded weights and inputs."""

    input_factor: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        quantization: Quantization,
        groups: int,
        inputs: int,
        weight_gradient: str,
        kind: type[LearnedStep] = LearnedStep,
        *,
        offset: bool = False,
        method: str = "max",
    ) -> None:
        """Take over the weights of a float map.

        Args:
            linear: whose parameters it has from now on.
            quantization: bit widths.
            groups: number of steps of the weight.
            inputs: number of steps of what goes in; 0 finds one for each token.
            weight_gradient: of weights outside the range, see `fake_quantize`.
            kind: of step sizes.
            offset: whether what goes in has unsigned codes from an offset on.
            method: how steps of the weight are found, see `initial_step`.
        """
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.weight_step = kind(code_range(quantization.weight_bits), groups, weight_gradient)
        self.activation_bits = quantization.activation_bits
        codes = code_range(min(8, quantization.activation_bits), signed=not offset)
        self.input_steps = nn.ModuleList(kind(codes, offset=offset) for _ in range(inputs))
        self.smoothing, self.method = quantization.smoothing, method
        self.register_buffer("input_factor", torch.ones(self.weight.shape[1]) if self.smoothing else None)
        self.begin()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if self.input_factor is not None:
            if self.input_steps[0].method is not None:
                self._smooth(inputs)
            inputs = inputs * self.input_factor
        weight = self.weight_step.of_rows(self.weight)
        if len(self.input_steps) < 2:
            return F.linear(self._rounded(inputs), weight, self.bias)
        parts = (each.chunk(len(self.input_steps)) for each in (weight, self.bias))
        return torch.cat(
            [F.linear(step(inputs), *part) for step, *part in zip(self.input_steps, *parts, strict=True)], dim=-1
        )

    def begin(self) -> None:
        """Find the steps of the weight."""
        groups = len(self.weight_step.log_step)
        self.weight_step.begin(self.weight.detach().reshape(groups, -1), self.method)

    @torch.no_grad()
    def _smooth(self, inputs: Tensor) -> None:
        """Find the factors in inputs (..., in), and take them out of the weight, which is trained as it is then.

        SmoothQuant (Xiao et al. 2023, arXiv 2211.10438, equation 4) divides dimension j by max|X_j|^a / max|W_j|^(1-a).
        Here that is taken relative to the median dimension of those that are not 0 throughout, and none is magnified.
        """
        assert isinstance(self.input_factor, Tensor)
        self.weight.mul_(self.input_factor)  # as it was
        peaks = inputs.float().abs().flatten(0, -2).amax(0)
        if not bool((peaks > 0).any()):
            return
        weights = self.weight.float().abs().amax(0).clamp_min(SMALLEST)
        divisors = peaks**self.smoothing / weights ** (1 - self.smoothing)
        divisors = (divisors / divisors[peaks > 0].median()).clamp_min(1.0)
        self.weight.mul_(divisors)
        self.input_factor.copy_(1 / divisors)
        self.begin()

    def _rounded(self, inputs: Tensor) -> Tensor:
        if len(self.input_steps) and self.activation_bits != WHOLE:
            found: Tensor = self.input_steps[0](inputs)
            return found
        return _rounded_by_token(inputs, self.activation_bits)


class LearnedEmbedding(Embedding):
    """An embedding table with rounded rows; only those that are looked up are rounded."""

    def __init__(
        self,
        table: Embedding,
        bits: float,
        groups: int,
        weight_gradient: str,
        kind: type[LearnedStep] = LearnedStep,
        *,
        activation_bits: int = WHOLE,
    ) -> None:
        """Take over a float table; see `LearnedLinear`. Activations are what `decode` is given."""
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx, self.max_norm, self.norm_type = None, None, 2.0
        self.scale_grad_by_freq = self.sparse = False
        self.weight = table.weight
        self.weight_step = kind(code_range(bits), groups, weight_gradient)
        self.activation_bits = activation_bits

    def forward(self, ids: Tensor) -> Tensor:
        """Look up (...,) ids as (..., size) rows."""
        rows = F.embedding(ids, self.weight, sparse=self.sparse)
        return self.weight_step.of_chosen(rows, ids, self.weight)

    def decode(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Score (..., size) states against every row of the table, as a tied output layer does."""
        rounded = _rounded_by_token(hidden, self.activation_bits)
        return F.linear(rounded, self.weight_step.of_rows(self.weight), bias)


class LearnedSites(nn.Module):
    """The learned steps of what attention multiplies, in place of `AttentionSites`."""

    def __init__(self, bits: int, kind: type[LearnedStep] = LearnedStep) -> None:
        """Build the four quantizers."""
        super().__init__()
        self.steps = nn.ModuleList(kind(codes) for codes in site_ranges(bits))

    def forward(self, values: Tensor, site: int) -> Tensor:
        """Round the values of a site: 0 queries, 1 keys, 2 values, 3 probabilities."""
        found: Tensor = self.steps[site](values)
        return found


def prepare(
    network: nn.Module,
    spec: EncoderSpec,
    method: str | None = "kl",
    weight_gradient: str = "ste",
    *,
    learned: bool = True,
) -> None:
    """Put quantizers into a float network, in place; steps of weights are found, those of activations are still one.

    Args:
        network: built from the same spec without quantization.
        spec: with the quantization that is wanted.
        method: how steps of weights are found, see `initial_step`; None as `method_for` says.
        weight_gradient: "ste", as in KDLSQ's released code, or "clip", as in LSQ.
        learned: whether steps are parameters; else they follow the largest magnitudes.
    """
    bits, kind = spec.quantization, LearnedStep if learned else TrackedStep
    assert bits is not None
    sizes = {tensor.name: tensor.shape for tensor in spec.tensors()}
    for name in quantized_names(spec):
        parent, child = _place(network, name)
        float_part, groups = getattr(parent, child), sizes[f"{name}.step"][0]
        new: LearnedEmbedding | LearnedLinear
        if isinstance(float_part, Embedding):
            width = bits.bits_of_table(child)
            given = (float_part, width, groups, weight_gradient, kind)
            new = LearnedEmbedding(*given, activation_bits=bits.activation_bits)
            new.weight_step.begin(new.weight.reshape(groups, -1), method_for(width, method))
        else:
            width, inputs = bits.weight_bits, sizes.get(f"{name}.input_step", (0,))[0]
            offset = f"{name}.input_offset" in sizes
            begins = method_for(width, method)
            new = LearnedLinear(float_part, bits, groups, inputs, weight_gradient, kind, offset=offset, method=begins)
        setattr(parent, child, new.to(float_part.weight.device))
    device = next(network.parameters()).device
    for name in _sites(spec):
        parent, child = _place(network, name)
        setattr(parent, child, LearnedSites(bits.attention_bits, kind).to(device))


@contextmanager
def calibrating(network: nn.Module, method: str) -> Iterator[None]:
    """Find the steps of activations in what passes through the network meanwhile.

    They are found in the order of the network, so that later ones see what earlier ones have rounded already.
    """
    steps = list(activation_steps(network))
    try:
        for step in steps:
            step.method = method
        yield
    finally:
        for step in steps:
            step.method = None


def activation_steps(network: nn.Module) -> Iterator[LearnedStep]:
    """Yield the quantizers of activations."""
    for module in network.modules():
        if isinstance(module, LearnedLinear):
            yield from (each for each in module.input_steps if isinstance(each, LearnedStep))
        elif isinstance(module, LearnedSites):
            yield from (each for each in module.steps if isinstance(each, LearnedStep))


@torch.no_grad()
def quantized_state(network: nn.Module, spec: EncoderSpec) -> dict[str, Tensor]:
    """Return the state of the network that stores codes, from one that `prepare` made.

    Args:
        network: with learned steps.
        spec: that it was prepared for.
    """
    assert spec.quantization is not None
    learned: dict[str, Any] = dict(network.named_modules())
    state = {
        name: value
        for name, value in network.state_dict().items()
        if "_step" not in name and ".sites." not in name and not name.endswith("input_factor")
    }
    for tensor in spec.tensors():
        name, _, kind = tensor.name.rpartition(".")
        if kind in ("codes", "packed"):
            learned[name].weight_step.follow(learned[name].weight)  # which the last update has changed
            bits = spec.quantization.embedding_bits if tensor.table else spec.quantization.weight_bits
            state[tensor.name] = stored_codes(state.pop(f"{name}.weight").float(), learned[name].weight_step.step, bits)
        elif kind == "input_step":
            state[tensor.name] = torch.cat([each.step for each in learned[name].input_steps])
        elif kind == "input_factor":
            state[tensor.name] = learned[name].input_factor
        elif kind == "input_offset":
            state[tensor.name] = torch.cat([each.offset for each in learned[name].input_steps])
        elif kind == "step":
            found = learned[name]
            of_sites = isinstance(found, LearnedSites)
            state[tensor.name] = torch.cat([each.step for each in found.steps]) if of_sites else found.weight_step.step
    return {name: value.detach().clone() for name, value in state.items()}


def _rounded_by_token(inputs: Tensor, bits: int) -> Tensor:
    """Round inputs (..., in), each token with a step of its own, as a network does that finds steps as it runs."""
    if bits == WHOLE:
        return inputs
    codes = code_range(bits)
    step = inputs.detach().float().abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / codes.high
    return fake_quantize(inputs, step, codes, gradient="ste", dtype=multiplied(inputs))


def _sites(spec: EncoderSpec) -> list[str]:
    return [tensor.name.rpartition(".")[0] for tensor in spec.tensors() if tensor.name.endswith(".sites.step")]


def _place(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, child = name.rpartition(".")
    return network.get_submodule(parent), child
