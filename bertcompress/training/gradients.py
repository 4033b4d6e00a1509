"""What happens to gradients between the backward pass and the optimizer: summed over processes, measured, clipped.

The word embedding table is half of a small BERT's weights, but a step touches only the rows of its own tokens.
On a CPU its gradient is therefore gathered sparsely into one dense buffer that lives as long as the training:
making, clearing, measuring and sending it costs as much as the touched rows, not the whole table. The optimizer
still sees the dense gradient, zeros included, so the mathematics is that of plain AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class SparseTable:
    """An embedding table whose gradient is nonzero only in known rows, kept in a buffer that is never remade."""

    def __init__(self, module: nn.Embedding) -> None:
        """Take over the gradient of the table's weight until `release`."""
        self.module = module
        self._was_sparse = module.sparse
        module.sparse = True  # autograd then adds rows in place to the dense buffer below
        module.weight.grad = torch.zeros_like(module.weight)

    @property
    def gradient(self) -> Tensor:
        """The dense gradient, (rows, size)."""
        assert self.module.weight.grad is not None
        return self.module.weight.grad

    def holds(self, rows: Tensor) -> bool:
        """Return whether the gradient is zero outside `rows`; it is not if the table is an output layer as well."""
        rest = self.gradient.clone()
        rest[rows] = 0
        return not bool(rest.any())

    def release(self, *, keep_gradient: bool = False) -> None:
        """Give the gradient back to autograd."""
        self.module.sparse = self._was_sparse
        if not keep_gradient:
            self.module.weight.grad = None


def sparse_table(network: nn.Module, device: torch.device) -> SparseTable | None:
    """Return the network's word table for sparse treatment, or None where that is impossible or does not pay."""
    find = getattr(network, "get_input_embeddings", None)
    module = find() if find is not None else None
    if device.type != "cpu" or not isinstance(module, nn.Embedding):
        return None
    if not module.weight.requires_grad or module.max_norm is not None or module.scale_grad_by_freq:
        return None
    return SparseTable(module)


class Gradients:
    """The gradients of all trained parameters in one optimizer step."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        table: SparseTable | None,
        accelerator: Accelerator,
        max_norm: float,
    ) -> None:
        """Take the parameters, the sparsely treated table among them, and the norm to clip to (0: no clipping)."""
        self.table = table
        self.max_norm = max_norm
        self._accelerator = accelerator
        self._parameters = list(parameters.values())
        self._checked = table is None

    def finish(self, loss: Tensor, rows: Tensor) -> Tensor:
        """Sum over processes and clip; return (loss, norm before clipping), (2,) float32, the same in every process.

        Args:
            loss: this process's share of the step's loss, a scalar.
            rows: all rows of the word table that the step touches in any process, (n,) int64, each once.
        """
        self._check(rows)
        if self._accelerator.num_processes > 1:
            loss = self._sum(loss, rows)
        norm = torch.nn.utils.get_total_norm(self._measured(rows)) if self.max_norm else loss.new_ones(())
        self._clip(norm, rows)
        return torch.stack((loss, norm.to(loss.device)))

    def clear(self, rows: Tensor) -> None:
        """Forget the gradients of the step that touched `rows`."""
        for parameter in self._dense():
            parameter.grad = None
        if self.table is not None:
            self.table.gradient.index_fill_(0, rows, 0)

    def release(self) -> None:
        """Forget everything and give the table back to autograd."""
        for parameter in self._parameters:
            parameter.grad = None
        if self.table is not None:
            self.table.release()
            self.table = None

    def _dense(self) -> list[nn.Parameter]:
        if self.table is None:
            return self._parameters
        weight = self.table.module.weight
        return [each for each in self._parameters if each is not weight]

    def _check(self, rows: Tensor) -> None:
        # Once, at the first step: a table that is also used elsewhere has gradients in all rows.
        if not self._checked and self.table is not None and not self.table.holds(rows):
            self.table.release(keep_gradient=True)
            self.table = None
        self._checked = True

    def _measured(self, rows: Tensor) -> list[Tensor]:
        found = [parameter.grad for parameter in self._dense() if parameter.grad is not None]
        return found if self.table is None else [*found, self.table.gradient[rows]]

    def _clip(self, norm: Tensor, rows: Tensor) -> None:
        if not self.max_norm:
            return
        factor = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)
        if factor.device.type == "cpu" and float(factor) == 1.0:
            return
        torch._foreach_mul_([each.grad for each in self._dense() if each.grad is not None], factor)
        if self.table is not None:
            self.table.gradient.index_copy_(0, rows, self.table.gradient[rows] * factor)

    def _sum(self, loss: Tensor, rows: Tensor) -> Tensor:
        """Add up gradients and losses over processes, in one message; a parameter no process used keeps none."""
        dense = self._dense()
        parts = [each.new_zeros(each.numel()) if each.grad is None else each.grad.reshape(-1) for each in dense]
        used = loss.new_tensor([float(each.grad is not None) for each in dense])
        if self.table is not None:
            parts.append(self.table.gradient[rows].reshape(-1))
        sizes = [part.numel() for part in parts]
        flat = torch.cat([*parts, used, loss.reshape(1)])
        reduced: Tensor = self._accelerator.reduce(flat, reduction="sum")
        *summed, used, total = torch.split(reduced, [*sizes, len(dense), 1])
        for parameter, values, uses in zip(dense, summed, used.tolist(), strict=False):
            parameter.grad = values.view_as(parameter) if uses else None
        if self.table is not None:
            self.table.gradient.index_copy_(0, rows, summed[-1].view(len(rows), -1))
        return total.reshape(())
