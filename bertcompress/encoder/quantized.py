"""Linear maps and embeddings that are stored as int8 codes, and multiplied as int8 where the processor does that well.

Activations are quantized when the network runs, with one step size per token (row): an example's logits then do
not depend on the examples that share its batch, nor on padding, which attacks and caches rely on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertcompress.encoder.kernels import int8_pays, product

LEVELS = 127  # symmetric range -127..127: -128 has no positive partner
SMALLEST = 1e-30  # peak of an all-zero row, so that nothing is divided by zero


def quantize_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes shaped like `values` and one step size per row, so that codes * step is near `values`.

    The step of a row is its largest magnitude / 127 (symmetric, round to nearest even). It is small, and the codes are
    zero, where the row is all zero.
    """
    peak = values.abs().amax(dim=-1, keepdim=True).clamp_min_(SMALLEST)
    codes = (values * (LEVELS / peak)).round_().to(torch.int8)
    return codes, peak.squeeze(-1) / LEVELS


def int8_linear(inputs: Tensor, codes: Tensor, step: Tensor, bias: Tensor | None) -> Tensor:
    """Return inputs @ (codes * step).T + bias with an int8 product; inputs (..., in), codes (out, in), result float32.

    Off the CPU, and on processors where int8 does not pay, the product is taken in float32 over the same codes. These
    are whole numbers, so it is the same up to 1,040 inputs (127^2 * 1,040 < 2^24), and beyond that up to rounding.
    """
    rows = inputs.reshape(-1, inputs.shape[-1]).float()  # (rows, in)
    quantized, row_step = quantize_rows(rows)
    # torch's int8 product gives wrong numbers for an inner dimension of 1 (seen with 2.13).
    if rows.device.type == "cpu" and rows.shape[1] > 1 and int8_pays():
        product = torch._int_mm(quantized, codes.t())
    else:
        product = quantized.float() @ codes.float().t()
    scaled = product * row_step.unsqueeze(-1)
    scaled = scaled * step if bias is None else torch.addcmul(bias, scaled, step)
    return scaled.view(*inputs.shape[:-1], codes.shape[0])


class QuantizedLinear(nn.Module):
    """A linear map with int8 codes (out, in), one float step size per output, and a float bias."""

    codes: Tensor
    step: Tensor
    bias: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        """Allocate zero codes; weights come from a checkpoint or from `from_float`."""
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("step", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return int8_linear(inputs, self.codes, self.step, self.bias)


class QuantizedEmbedding(nn.Module):
    """An embedding table of int8 codes (rows, size) with one float step size per row."""

    codes: Tensor
    step: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        """Allocate zero codes; weights come from a checkpoint."""
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.register_buffer("codes", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("step", torch.ones(num_embeddings))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up (...,) ids as (..., size) float rows."""
        return self.codes[ids].float() * self.step[ids].unsqueeze(-1)

    def decode(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Score (..., size) states against every row of the table, as a tied output layer does."""
        return int8_linear(hidden, self.codes, self.step, bias)


class Embedding(nn.Embedding):
    """A float embedding table that can also serve as a tied output layer."""

    def decode(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Score (..., size) states against every row of the table, as a tied output layer does."""
        return product(hidden, self.weight, bias)


def quantize_state(state: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Replace each `name.weight` of `names` by its `name.codes` and `name.step`; other tensors are passed on."""
    result = dict(state)
    for name in names:
        codes, step = quantize_rows(result.pop(f"{name}.weight").float())
        result[f"{name}.codes"], result[f"{name}.step"] = codes, step
    return result
