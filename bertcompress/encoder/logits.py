"""One tensor of logits for every kind of head, so that training, prediction and judgement read all heads alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def task_logits(output: Any, attention_mask: Tensor) -> Tensor:
    """Return what a network answers.

    Args:
        output: the network's ModelOutput.
        attention_mask: of its input, (B, L).

    Returns:
        Logits (B, C) of whole sequences or (B, L, C) of tokens; start and end logits of question answering, (B, L, 2);
        and for an encoder without a head the mean of its last states over the tokens, (B, H), which is how sentence
        encoders are read (Reimers and Gurevych 2019, section 3).
    """
    if output.get("start_logits") is not None:
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    if output.get("logits") is not None:
        logits: Tensor = output.logits
        return logits
    mask = attention_mask.unsqueeze(-1).to(output.last_hidden_state.dtype)  # (B, L, 1)
    mean: Tensor = (output.last_hidden_state * mask).sum(1) / mask.sum(1).clamp_min(1)
    return mean
