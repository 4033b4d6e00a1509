"""Step sizes to begin with, from the values that are to be quantized.

All give a step for each row of `values`: one row for a whole tensor, or one for each output or table row. A range that
is not symmetric around 0 (unsigned codes) is measured the same way, by magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertcompress.encoder.bits import CodeRange
from bertcompress.encoder.lsq import fake_quantize

SMALLEST = 1e-8  # step of values that are all zero: any does, as long as nothing is divided by zero
MOST_BINS = 2048  # of a histogram
CUT = 0.05  # share of the values that lie outside by the percentile rule, half of it at each end
SAMPLE = 65_536  # sorted values of a row that the squared error is measured on
LOWEST = 0.02  # share of the largest magnitude, the smallest bound that is tried for the squared error
COARSE, FINE = 24, 12  # bounds tried between that and 1, and then around the best
ROWS = 4096  # whose histograms are compared at once
Floats = NDArray[np.floating[Any]]


def initial_step(values: Tensor, codes: CodeRange, method: str = "kl") -> Tensor:
    """Return a step size above 0 for each row, (rows,).

    Args:
        values: (rows, count), whose step is wanted.
        codes: what they are quantized to.
        method: "kl", "percentile", "lsq", "mse" or "max".
    """
    found = METHODS[method](values.detach().float(), codes)
    return torch.nan_to_num(found, nan=SMALLEST).clamp_min(SMALLEST)


def _max(values: Tensor, codes: CodeRange) -> Tensor:
    """The largest magnitude is the highest code."""
    # without a table of magnitudes: a step that follows the largest one looks at the whole word table in every pass
    return torch.maximum(values.amax(-1), -values.amin(-1)) / codes.high


def _lsq(values: Tensor, codes: CodeRange) -> Tensor:
    """LSQ (arXiv 1902.08153, section 2.1): 2 * mean magnitude / sqrt(highest code); too wide for 8 bits."""
    return 2 * values.abs().mean(-1) / math.sqrt(codes.high)


def _percentile(values: Tensor, codes: CodeRange) -> Tensor:
    """KDLSQ's rule of sorting: what is cut at each end is half of 5 % of the values, the wider end is the bound."""
    ordered = values.sort(-1).values
    first = round(CUT / 2 * values.shape[-1])
    last = min(values.shape[-1] - first, values.shape[-1] - 1)
    return torch.maximum(ordered[..., first].abs(), ordered[..., last].abs()) / codes.high


def _mse(values: Tensor, codes: CodeRange) -> Tensor:
    """The bound with the smallest squared error of 36 that are tried, on at most 65,536 values of each row."""
    ordered = values
    if values.shape[-1] > SAMPLE:  # evenly over the ranks, both ends included
        ranks = torch.linspace(0, values.shape[-1] - 1, SAMPLE, device=values.device).long()
        ordered = values.sort(-1).values[..., ranks]
    peak = ordered.abs().amax(-1, keepdim=True).clamp_min(SMALLEST) / codes.high
    best, error = peak, torch.full_like(peak, math.inf)
    apart = LOWEST ** (1 / COARSE)
    for centre, powers in ((peak, range(COARSE + 1)), (None, torch.linspace(-1, 1, FINE).tolist())):
        around = best if centre is None else centre
        for power in powers:
            step = around * apart**power
            found = (fake_quantize(ordered, step, codes) - ordered).square().sum(-1, keepdim=True)
            best, error = torch.where(found < error, step, best), torch.minimum(found, error)
    return best.squeeze(-1)


def _kl(values: Tensor, codes: CodeRange) -> Tensor:
    """KDLSQ's calibration: the bound whose cumulative histogram in few levels is nearest to the one in many bins.

    Both are cumulative shares, not densities, which is what its released code compares. Where there are no more bins
    than levels, the largest magnitude is the bound.
    """
    magnitudes = values.abs().cpu().numpy()
    levels = max(codes.high, (codes.levels + 1) // 2)
    bins = min(MOST_BINS, int(math.sqrt(magnitudes.shape[-1])))
    if bins <= levels + 1:
        return _max(values, codes)
    rows = magnitudes.reshape(-1, magnitudes.shape[-1])
    parts = [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)]
    bounds = torch.from_numpy(np.concatenate([_kl_bounds(some, levels, bins) for some in parts]))
    return bounds.to(values.device, torch.float32).reshape(values.shape[:-1]) / codes.high


def _kl_bounds(magnitudes: Floats, levels: int, bins: int) -> Floats:
    """Return the bound of each row: the end of a bin with the smallest distance; 0 for a row that is all zero."""
    peaks = magnitudes.max(-1).astype(np.float64)
    usable = (peaks > 0) & np.isfinite(peaks)
    peaks[~usable] = 1.0
    shares = np.stack([_cumulative(*row, bins) for row in zip(np.nan_to_num(magnitudes), peaks, strict=True)])
    best, least = np.full(len(peaks), bins - 0.5), np.full(len(peaks), math.inf)
    for end in range(levels + 1, bins):
        all_bins, few_levels = np.arange(end, dtype=np.float64), np.linspace(0, end - 1, levels)
        again = shares.copy()
        again[:, end - 1 :] = 1.0
        again[:, :end] = _interp(all_bins, few_levels, _interp(few_levels, all_bins, again[:, :end]))
        with np.errstate(divide="ignore"):  # shares of 0 have an infinite distance from others
            logs = np.log2(np.divide(shares, again, out=np.ones_like(shares), where=again > 0))
            distance = np.multiply(shares - again, logs, out=np.zeros_like(shares), where=logs != 0).sum(-1)
        best, least = np.where(distance < least, end + 0.5, best), np.minimum(distance, least)
    found: Floats = np.where(usable, best * peaks / bins, 0.0)
    return found


def _cumulative(magnitudes: Floats, peak: float, bins: int) -> Floats:
    counts, _ = np.histogram(magnitudes, bins=bins, range=(0.0, peak))
    found: Floats = np.cumsum(counts / max(1, counts.sum()))
    return found


def _interp(wanted: Floats, places: Floats, values: Floats) -> Floats:
    """Return what `numpy.interp` does, for each row of values (rows, places); wanted lie between first and last."""
    if len(values) == 1:
        alone: Floats = np.interp(wanted, places, values[0])[np.newaxis]
        return alone
    left = np.clip(np.searchsorted(places, wanted, side="right") - 1, 0, len(places) - 2)
    slope = (values[:, left + 1] - values[:, left]) / (places[left + 1] - places[left])
    found: Floats = np.where(wanted == places[-1], values[:, -1:], slope * (wanted - places[left]) + values[:, left])
    return found


METHODS: dict[str, Callable[[Tensor, CodeRange], Tensor]] = {
    "kl": _kl, "percentile": _percentile, "lsq": _lsq, "mse": _mse, "max": _max,
}  # fmt: skip
