"""Linear maps and embeddings that are stored as codes of few bits, and multiplied as int8 where that pays.

Activations are quantized when the network runs, with one step size per token (row), or with a stored one: an example's
logits then do not depend on the examples that share its batch, nor on padding, which attacks and caches rely on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bertcompress.encoder.bits import WHOLE, CodeRange, code_range, packed_size
from bertcompress.encoder.kernels import int8_pays, product
from bertcompress.encoder.lsq import fake_quantize, to_codes
from bertcompress.encoder.packing import unpack
from bertcompress.encoder.tensors import SITES
from bertcompress.errors import ConfigError

LEVELS = 127  # symmetric range -127..127: -128 has no positive partner
SMALLEST = 1e-30  # peak of an all-zero row, so that nothing is divided by zero


def quantize_rows(values: Tensor, levels: int = LEVELS) -> tuple[Tensor, Tensor]:
    """Return int8 codes shaped like `values` and one step size per row, so that codes * step is near `values`.

    The step of a row is its largest magnitude / levels (symmetric, round to nearest even). It is small, and the codes
    are zero, where the row is all zero.
    """
    peak = values.abs().amax(dim=-1, keepdim=True).clamp_min_(SMALLEST)
    codes = (values * (levels / peak)).round_().to(torch.int8)
    return codes, peak.squeeze(-1) / levels


def int8_linear(inputs: Tensor, codes: Tensor, step: Tensor, bias: Tensor | None, levels: int = LEVELS) -> Tensor:
    """Return inputs @ (codes * step).T + bias; inputs (..., in), codes (out, in), result float32.

    Each row of the inputs has its own step size, its largest magnitude / levels.
    """
    rows = inputs.reshape(-1, inputs.shape[-1]).float()  # (rows, in)
    quantized, row_step = quantize_rows(rows, levels)
    scaled = codes_product(quantized, codes) * row_step.unsqueeze(-1)
    scaled = scaled * step if bias is None else torch.addcmul(bias, scaled, step)
    return scaled.view(*inputs.shape[:-1], codes.shape[0])


def static_linear(
    inputs: Tensor, codes: Tensor, step: Tensor, bias: Tensor, input_step: Tensor, levels: int = LEVELS
) -> Tensor:
    """Return the same with a stored step size for the inputs; what is outside its range is clipped.

    Args:
        inputs: (..., in).
        codes: (out, in), int8.
        step: of the weights, (out,).
        bias: (out,).
        input_step: (groups,): each of as many equal groups of outputs sees inputs that are quantized with its own.
        levels: the highest code of an input; the lowest is its opposite.
    """
    rows, parts = inputs.reshape(-1, inputs.shape[-1]).float(), []
    groups = len(input_step)
    for group, (some, steps, biases) in enumerate(
        zip(*(each.chunk(groups) for each in (codes, step, bias)), strict=True)
    ):
        quantized = to_codes(rows, input_step[group], CodeRange(-levels, levels)).to(torch.int8)
        parts.append(torch.addcmul(biases, codes_product(quantized, some).float(), steps * input_step[group]))
    found = parts[0] if groups == 1 else torch.cat(parts, dim=-1)
    return found.view(*inputs.shape[:-1], codes.shape[0])


def offset_linear(
    inputs: Tensor, codes: Tensor, step: Tensor, bias: Tensor, input_step: Tensor, input_offset: Tensor, bits: int
) -> Tensor:
    """Return the same with unsigned codes of the inputs, (inputs - offset) / step.

    What the offset adds is the same for every input, and goes into the bias.

    Args:
        inputs: (..., in).
        codes: (out, in), int8.
        step: of the weights, (out,).
        bias: (out,), with what inputs that have byte 0 add: `offset_bias` of offset + step * `signed_shift`.
        input_step: (1,).
        input_offset: what code 0 stands for, (1,).
        bits: of an input's code.
    """
    rows = inputs.reshape(-1, inputs.shape[-1]).float()
    found = to_codes(rows, input_step, code_range(bits, signed=False), input_offset)
    quantized = found.sub_(signed_shift(bits)).to(torch.int8)
    product = torch.addcmul(bias, codes_product(quantized, codes).float(), step * input_step)
    return product.view(*inputs.shape[:-1], codes.shape[0])


def signed_shift(bits: int) -> int:
    """Return what is taken from unsigned codes so that they are signed bytes."""
    return 1 << (bits - 1)


def codes_product(rows: Tensor, codes: Tensor) -> Tensor:
    """Return rows @ codes.T of int8 codes, (rows, in) and (out, in), as whole numbers.

    Off the CPU, and on processors where int8 does not pay, the product is taken in float32 over the same codes. These
    are whole numbers, so it is the same up to 1,040 inputs (127^2 * 1,040 < 2^24), and beyond that up to rounding.
    """
    # torch's int8 product gives wrong numbers for an inner dimension of 1 (seen with 2.13).
    if rows.device.type == "cpu" and rows.shape[1] > 1 and int8_pays():
        return torch._int_mm(rows, codes.t())
    return rows.float() @ codes.float().t()


class _Integers(torch.autograd.Function):
    """A product of integers, which has no gradient: who asks for one is told, and gets no wrong one."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        return compute(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        raise ConfigError(
            "The network is quantized, and products of integers have no gradient; train before quantizing, or quantize "
            "with activation_bits=32, whose products are those of floats."
        )


class QuantizedTable(nn.Module):
    """A matrix of codes (rows, columns), packed where they have less than 8 bits, with step sizes.

    Its state is `codes` or `packed`, and `step`, one for each of as many equal groups of rows.
    """

    step: Tensor

    def __init__(self, rows: int, columns: int, bits: float, steps: int, activation_bits: int) -> None:
        """Allocate zero codes; weights come from a checkpoint or a compressor."""
        super().__init__()
        self.rows, self.columns, self.bits, self.activation_bits = rows, columns, bits, activation_bits
        self.low = code_range(bits).low
        kept = torch.int8 if bits == 8 else torch.uint8
        self.register_buffer(self.stored_as, torch.zeros(rows, packed_size(columns, bits), dtype=kept))
        self.register_buffer("step", torch.ones(steps))
        self._made: dict[str, tuple[tuple[Tensor, ...], tuple[tuple[int, int], ...], Tensor]] = {}

    @property
    def stored_as(self) -> str:
        """The name of the buffer that holds the codes."""
        return "codes" if self.bits == 8 else "packed"

    @property
    def stored(self) -> Tensor:
        """The codes as they are stored."""
        found: Tensor = getattr(self, self.stored_as)
        return found

    def reset_parameters(self) -> None:
        """Set what is stored to zero, packed codes thereby to the lowest, and steps and factors to one."""
        for name, buffer in self.named_buffers(recurse=False):
            (nn.init.ones_ if name.endswith(("step", "factor")) else nn.init.zeros_)(buffer)

    def whole(self) -> Tensor:
        """Return all codes, (rows, columns) int8; unpacked once, and again where the stored ones have changed."""
        return self.stored if self.bits == 8 else self._once("codes", self._unpacked)

    def floats(self) -> Tensor:
        """Return codes times steps, (rows, columns); found once, as codes are unpacked: four bytes of memory each.

        Found anew in each pass, they took longer than the product, and weights of few bits were slower than floats.
        """
        return self._once("floats", lambda: self._unpacked().float().mul_(self.row_steps().unsqueeze(-1)))

    def sums(self) -> Tensor:
        """Return the sum of each row of codes, (rows,) float; found once, as codes are unpacked."""
        return self._once("sums", lambda: self.whole().sum(-1, dtype=torch.int32).float())

    def _unpacked(self) -> Tensor:
        return self.stored if self.bits == 8 else unpack(self.stored, self.bits, self.low, self.columns)

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        source = (self.stored, self.step)
        if torch.compiler.is_compiling() or any(each.is_inference() for each in source):
            return make()  # a graph has no memory, and inference tensors do not count their changes
        mark = tuple((each.data_ptr(), each._version) for each in source)
        made = self._made.get(name)
        if made is None or any(a is not b for a, b in zip(made[0], source, strict=True)) or made[1] != mark:
            with torch.inference_mode(False):  # what is made there could not be kept for a gradient
                made = self._made[name] = (source, mark, make())
        return made[2]

    def row_steps(self) -> Tensor:
        """Return the step of each row, (rows,)."""
        return self.step if len(self.step) == self.rows else self.step.repeat_interleave(self.rows // len(self.step))

    def times(self, inputs: Tensor, bias: Tensor) -> Tensor:
        """Return inputs @ weights.T + bias; inputs (..., columns), result (..., rows)."""
        if self.activation_bits == WHOLE:
            return product(inputs.float(), self.floats(), bias)
        levels = code_range(self.activation_bits).high
        return self._integers(inputs, lambda given: int8_linear(given, self.whole(), self.row_steps(), bias, levels))

    @staticmethod
    def _integers(inputs: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            return compute(inputs)
        found: Tensor = _Integers.apply(inputs, compute)  # type: ignore[no-untyped-call]
        return found

    def __getstate__(self) -> dict[str, object]:
        """Leave out what can be made again."""
        return {**self.__dict__, "_made": {}}


class QuantizedLinear(QuantizedTable):
    """A linear map with codes (out, in), step sizes, and a float bias."""

    codes: Tensor
    bias: Tensor
    input_step: Tensor
    input_offset: Tensor
    input_factor: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: float = 8,
        steps: int | None = None,
        activation_bits: int = 8,
        input_steps: int = 0,
        *,
        input_offset: bool = False,
        input_factors: bool = False,
    ) -> None:
        """Allocate zero codes.

        Args:
            in_features: numbers that go in.
            out_features: numbers that come out.
            bits: of a code.
            steps: number of step sizes; by default one for each output.
            activation_bits: of what goes in, quantized as it comes; 32 leaves it as it is.
            input_steps: number of stored step sizes for what goes in; 0 finds one for each token.
            input_offset: whether what goes in has unsigned codes, from a stored offset on; needs one stored step.
            input_factors: whether what goes in is first multiplied by a stored factor for each dimension.
        """
        super().__init__(out_features, in_features, bits, steps or out_features, activation_bits)
        self.in_features, self.out_features, self.input_steps = in_features, out_features, input_steps
        if input_steps:
            self.register_buffer("input_step", torch.ones(input_steps))
        self.has_offset = input_offset
        if input_offset:
            self.register_buffer("input_offset", torch.zeros(1))
        self.has_factors = input_factors
        if input_factors:
            self.register_buffer("input_factor", torch.ones(in_features))
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return self._integers(inputs, self._static) if self.input_steps else self.times(inputs, self.bias)

    def _static(self, inputs: Tensor) -> Tensor:
        if self.has_factors:
            inputs = inputs * self.input_factor
        if self.has_offset:
            given = (self.input_step, self.input_offset, self.activation_bits)
            of_code_0 = self.input_offset + self.input_step * signed_shift(self.activation_bits)  # as a signed byte
            return offset_linear(
                inputs, self.whole(), self.row_steps(), self.bias + self.offset_bias(of_code_0), *given
            )
        levels = code_range(self.activation_bits).high
        return static_linear(inputs, self.whole(), self.row_steps(), self.bias, self.input_step, levels)

    def offset_bias(self, offset: Tensor) -> Tensor:
        """Return what inputs that all are an offset (1,) add to each output, (out,)."""
        return self.row_steps() * self.sums() * offset


class QuantizedEmbedding(QuantizedTable):
    """An embedding table of codes (rows, size) with step sizes."""

    codes: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        bits: float = 8,
        steps: int | None = None,
        activation_bits: int = 8,
    ) -> None:
        """Allocate zero codes; see `QuantizedLinear`."""
        super().__init__(num_embeddings, embedding_dim, bits, steps or num_embeddings, activation_bits)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        """Look up (...,) ids as (..., size) float rows; only these are unpacked."""
        codes = self.stored[ids]
        if self.bits != 8:
            codes = unpack(codes, self.bits, self.low, self.columns)
        step = self.step[ids].unsqueeze(-1) if len(self.step) == self.rows else self.step
        return codes.float() * step

    def decode(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Score (..., size) states against every row of the table, as a tied output layer does."""
        return self.times(hidden, bias)


class AttentionSites(nn.Module):
    """What attention multiplies, rounded to codes times stored steps: queries, keys, values and probabilities.

    Probabilities are never negative, so their codes begin at 0: twice as many levels as the symmetric codes that they
    have in KDLSQ's released code.
    """

    step: Tensor

    def __init__(self, bits: int) -> None:
        """Begin with steps of one; they come from a checkpoint or a compressor."""
        super().__init__()
        self.ranges = site_ranges(bits)
        self.register_buffer("step", torch.ones(SITES))

    def reset_parameters(self) -> None:
        """Set all steps to one."""
        nn.init.ones_(self.step)

    def forward(self, values: Tensor, site: int) -> Tensor:
        """Round the values of a site: 0 queries, 1 keys, 2 values, 3 probabilities."""
        return fake_quantize(values, self.step[site], self.ranges[site])


def site_ranges(bits: int) -> tuple[CodeRange, ...]:
    """Return the codes of queries, keys, values and probabilities."""
    return (*(code_range(bits),) * 3, code_range(bits, signed=False))


class Embedding(nn.Embedding):
    """A float embedding table that can also serve as a tied output layer."""

    def decode(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Score (..., size) states against every row of the table, as a tied output layer does."""
        return product(hidden, self.weight, bias)
