"""The residual operations that an encoder is a chain of: attention, feed-forward, separable convolution.

Every operation normalises after its residual addition, as BERT does: y = LayerNorm(x + Dropout(operation(x))).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from bertcompress.encoder import spec as specs
from bertcompress.encoder.bits import WHOLE
from bertcompress.encoder.dropout import dropout
from bertcompress.encoder.kernels import Linear
from bertcompress.encoder.places import Places
from bertcompress.encoder.quantized import AttentionSites, Embedding, QuantizedEmbedding, QuantizedLinear
from bertcompress.encoder.tensors import Quantization

MASKED = -1e9  # added to the scores of pads; exp() of it is 0 in every type that the chain computes in


@dataclass
class Trace:
    """What a forward pass records on request, an entry for each attention operation.

    Maps are (batch, heads, length, length); projections hold queries, keys and values, (batch, length, 3, heads, head
    size).
    """

    attentions: bool = False
    scores: bool = False
    projections: bool = False
    recorded_attentions: list[Tensor] = field(default_factory=list)
    recorded_scores: list[Tensor] = field(default_factory=list)
    recorded_projections: list[Tensor] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether attention maps have to be materialised."""
        return self.attentions or self.scores


def linear(
    inputs: int, outputs: int, quantization: Quantization | None, groups: int = 1, *, activated: bool = False
) -> nn.Module:
    """Build a linear map, quantized or not, whose tensors are those of `tensors.linear_tensors`."""
    if quantization is None or quantization.weight_bits == WHOLE:
        return Linear(inputs, outputs)
    steps = outputs if quantization.weight_steps == "row" else groups
    return QuantizedLinear(
        inputs,
        outputs,
        quantization.weight_bits,
        steps,
        quantization.activation_bits,
        quantization.input_steps(groups),
        input_offset=activated and quantization.activation_offset,
        input_factors=quantization.smoothing > 0,
    )


def embedding(name: str, rows: int, size: int, quantization: Quantization | None) -> Embedding | QuantizedEmbedding:
    """Build an embedding table, quantized or not, whose tensors are those of `tensors.embedding_tensors`."""
    bits = WHOLE if quantization is None else quantization.bits_of_table(name)
    if quantization is None or bits == WHOLE:
        return Embedding(rows, size)
    steps = rows if quantization.embedding_steps == "row" else 1
    return QuantizedEmbedding(rows, size, bits, steps, quantization.activation_bits)


class AttentionOperation(nn.Module):
    """Multi-head self-attention with one matrix product for queries, keys and values together."""

    def __init__(self, sizes: specs.Attention, hidden: int, spec: specs.EncoderSpec) -> None:
        """Build the operation on a residual stream of width `hidden`."""
        super().__init__()
        self.num_heads, self.head_size = sizes.num_heads, sizes.head_size
        width = sizes.num_heads * sizes.head_size
        self.qkv = linear(hidden, 3 * width, spec.quantization, groups=3)
        bits = WHOLE if spec.quantization is None else spec.quantization.attention_bits
        self.sites: nn.Module | None = None if bits == WHOLE else AttentionSites(bits)
        self.output = linear(width, hidden, spec.quantization)
        self.norm = nn.LayerNorm(hidden, eps=spec.layer_norm_eps)
        self.attention_dropout, self.hidden_dropout = spec.attention_dropout, spec.hidden_dropout

    def forward(self, hidden: Tensor, places: Places, trace: Trace) -> Tensor:
        """Map (batch, length, hidden), or as many of its places as are computed, to the same shape."""
        query, key, value = self._projected(hidden, places, trace)
        batch, _, length, _ = query.shape
        allowed = None if places.mask is None else places.mask[:, None, None, :]  # (B, 1, 1, L)
        rate = self.attention_dropout if self.training else 0.0
        # With dropout torch has no fused kernel for the CPU, and its own steps draw their random numbers slowly.
        if trace.wanted or self.sites is not None:
            context = self._traced(query, key, value, allowed, rate, trace)
        elif rate and query.device.type == "cpu":
            context = self._dropped(query, key, value, allowed, rate)
        else:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=rate)
        context = places.pack(context.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_size))
        changed: Tensor = self.norm(hidden + dropout(self.output(context), self.hidden_dropout, self.training))
        return changed

    def _projected(self, hidden: Tensor, places: Places, trace: Trace) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each (batch, heads, length, head size), rounded where that is wanted."""
        qkv = self.qkv(hidden)  # (B, L, 3 * h * d), or as many places as are computed
        if self.sites is None or trace.projections:
            whole = places.unpack(qkv)
            whole = whole.view(*whole.shape[:2], 3, self.num_heads, self.head_size)
        if trace.projections:
            trace.recorded_projections.append(whole)
        if self.sites is None:
            return whole.permute(2, 0, 3, 1, 4).unbind(0)
        rounded = (places.unpack(self.sites(each, site)) for site, each in enumerate(qkv.chunk(3, dim=-1)))
        return tuple(self._heads(each) for each in rounded)

    def _heads(self, values: Tensor) -> Tensor:
        """Return (batch, length, heads * head size) as (batch, heads, length, head size)."""
        return values.view(*values.shape[:2], self.num_heads, self.head_size).transpose(1, 2)

    def _dropped(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, rate: float) -> Tensor:
        """Attend with dropout: scaling and mask go into the matrix product, which saves four passes over the scores."""
        batch, heads, length, _ = query.shape
        query, key, value = (each.reshape(batch * heads, length, self.head_size) for each in (query, key, value))
        bias = query.new_zeros(batch, 1, 1, length)
        if allowed is not None:
            bias = bias.masked_fill(~allowed, MASKED)
        bias = bias.expand(batch, heads, 1, length).reshape(batch * heads, 1, length)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=self.head_size**-0.5)  # (B * h, L, L)
        context = dropout(scores.softmax(-1), rate, self.training) @ value
        return context.view(batch, heads, length, self.head_size)

    def _traced(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, rate: float, trace: Trace
    ) -> Tensor:
        scores = query @ key.transpose(-1, -2) * self.head_size**-0.5  # (B, h, L, L)
        if trace.scores:
            trace.recorded_scores.append(scores)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        attention = scores.softmax(-1)
        if trace.attentions:
            trace.recorded_attentions.append(attention)
        dropped = dropout(attention, rate, self.training)
        return (dropped if self.sites is None else self.sites(dropped, 3)) @ value


class FeedForwardOperation(nn.Module):
    """Two linear maps with the encoder's activation between them."""

    def __init__(self, sizes: specs.FeedForward, hidden: int, spec: specs.EncoderSpec) -> None:
        """Build the operation on a residual stream of width `hidden`."""
        super().__init__()
        self.intermediate = linear(hidden, sizes.intermediate_size, spec.quantization)
        self.activation = ACT2FN[spec.activation]
        self.gelu = spec.activation == "gelu"
        self.output = linear(sizes.intermediate_size, hidden, spec.quantization, activated=True)
        self.norm = nn.LayerNorm(hidden, eps=spec.layer_norm_eps)
        self.hidden_dropout = spec.hidden_dropout

    def forward(self, hidden: Tensor, places: Places, trace: Trace) -> Tensor:
        """Map (batch, length, hidden) to the same shape; each token on its own."""
        if self.gelu and isinstance(self.intermediate, Linear):
            inner = self.intermediate(hidden, gelu=True)
        else:
            inner = self.activation(self.intermediate(hidden))
        inner = self.output(inner)
        changed: Tensor = self.norm(hidden + dropout(inner, self.hidden_dropout, self.training))
        return changed


class SeparableStage(nn.Module):
    """Depthwise then pointwise convolution, GELU, dropout, residual and normalisation."""

    def __init__(self, sizes: specs.SeparableConvolution, hidden: int, spec: specs.EncoderSpec) -> None:
        """Build one stage on a residual stream of width `hidden`."""
        super().__init__()
        self.depthwise = nn.Conv1d(hidden, hidden, sizes.kernel_size, padding=sizes.kernel_size // 2, groups=hidden)
        self.pointwise = linear(hidden, hidden, spec.quantization)
        self.norm = nn.LayerNorm(hidden, eps=spec.layer_norm_eps)
        self.hidden_dropout = spec.hidden_dropout

    def forward(self, hidden: Tensor, places: Places) -> Tensor:
        """Map (batch, length, hidden), or as many of its places as are computed, to the same shape.

        Padded tokens are zeroed before the convolution sees them.
        """
        visible = places.unpack(hidden)
        if places.mask is not None:
            visible = visible * places.mask[:, :, None]
        mixed = places.pack(self.depthwise(visible.transpose(1, 2)).transpose(1, 2))
        inner = F.gelu(self.pointwise(mixed))
        changed: Tensor = self.norm(hidden + dropout(inner, self.hidden_dropout, self.training))
        return changed


class SeparableConvolutionOperation(nn.Module):
    """Two separable stages, each residual (NAS-BERT, section 3.1 and figure 1).

    The activation is GELU whatever the encoder's is; dropout is the encoder's hidden dropout, where the paper leaves
    its rate open.
    """

    def __init__(self, sizes: specs.SeparableConvolution, hidden: int, spec: specs.EncoderSpec) -> None:
        """Build the operation on a residual stream of width `hidden`."""
        super().__init__()
        self.stages = nn.ModuleList(SeparableStage(sizes, hidden, spec) for _ in range(2))

    def forward(self, hidden: Tensor, places: Places, trace: Trace) -> Tensor:
        """Map (batch, length, hidden), or as many of its places as are computed, to the same shape."""
        for stage in self.stages:
            hidden = stage(hidden, places)
        return hidden


def build_operation(sizes: specs.Operation, hidden: int, spec: specs.EncoderSpec) -> nn.Module:
    """Build the module of one operation."""
    match sizes:
        case specs.Attention():
            return AttentionOperation(sizes, hidden, spec)
        case specs.FeedForward():
            return FeedForwardOperation(sizes, hidden, spec)
        case specs.SeparableConvolution():
            return SeparableConvolutionOperation(sizes, hidden, spec)
