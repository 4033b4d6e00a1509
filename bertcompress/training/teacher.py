"""A teacher's outputs: computed once where they can be kept, again for each batch where they cannot.

Logits are kept in memory where they fit, as all but those of masked-LM heads do. Hidden states, attention scores and
the like are kept in memory-mapped files where those that the objective reads fit a stated budget, and are otherwise
recomputed on the student's own micro-batch. Kept values come from a pass over all examples in a fixed order, so what a
batch is taught does not depend on when the training was interrupted. Several processes share that pass for the logits,
and always recompute the rest; kept values are rounded to half precision unless the teacher runs in fp32, where both
ways agree up to rounding.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import reduce
from filelock import FileLock
from torch import Tensor, nn
from transformers.utils import ModelOutput

from bertcompress.data.batching import evaluation_batches
from bertcompress.encoder.logits import task_logits
from bertcompress.errors import ConfigError, allowed
from bertcompress.training.checkpoint import digest
from bertcompress.training.kept_logits import KeptLogits
from bertcompress.training.kept_states import KeptOutputs, StatesCache
from bertcompress.training.precision import autocast, resolve_precision
from bertcompress.training.processes import process_state

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bertcompress.data.features import Features

logger = logging.getLogger(__name__)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PROJECTIONS = {"query_states": 0, "key_states": 1, "value_states": 2}  # need -> its place in a network's `projections`
NEEDS = ("hidden_states", "attention_scores", *PROJECTIONS)
MIB = 2**20


def run_network(
    network: nn.Module, batch: Mapping[str, Tensor], needs: Collection[str] = (), *, logits: bool = True
) -> Any:
    """Return the network's ModelOutput for a collated batch, with the outputs named in `needs` beside the logits.

    Its `logits` are those of `task_logits`, whatever the head. Queries, keys and values are (B, L, heads * head size),
    one for each attention operation. Without `logits` the head is not run: that of a masked LM, with a logit for each
    word of the vocabulary and each token, costs more than several layers.
    """
    wanted = {f"output_{'projections' if need in PROJECTIONS else need}": True for need in needs}
    body = network if logits else getattr(network, "encoder", network)
    output = body(**{name: batch[name] for name in INPUTS}, **wanted)
    if logits:
        output["logits"] = task_logits(output, batch["attention_mask"])
    for need in PROJECTIONS.keys() & set(needs):
        output[need] = tuple(each[:, :, PROJECTIONS[need]].flatten(2) for each in output.projections)
    return output


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switch dropout off in the network, and back to what it was in each module afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class TeacherOutputs:
    """What a frozen network says about every example of a training set.

    The network's weights, modes and gradients are left as they are. It moves to the training's device.
    """

    def __init__(
        self,
        network: nn.Module,
        features: Features,
        *,
        needs: Collection[str] = frozenset(),
        max_tokens: int = 2048,
        precision: str = "auto",
        cache_mib: float = 2048,
        folder: Path | None = None,
        places: Mapping[str, Collection[int]] | None = None,
        keep: bool = True,
        logits: bool = True,
    ) -> None:
        """Take the network and the examples; nothing is computed before the first batch.

        Args:
            network: the teacher.
            features: the examples that the student is trained on.
            needs: outputs beside the logits, of `NEEDS`; an objective's `needs`.
            max_tokens: padded tokens in one forward of the pass over all examples.
            precision: of the teacher's forward passes.
            cache_mib: MiB of disk that hidden states and scores may take, and of memory that logits of tokens may; 0
                recomputes them for every batch.
            folder: where to keep them for other trainings and processes on the same examples; a temporary folder, which
                goes with this object, if None.
            places: which entries of each of `needs` are read (an objective's `teacher_places`); None: all.
            keep: whether anything may be kept; not where an objective `needs_live_teacher`.
            logits: whether logits are read (an objective's `needs_teacher_logits`).

        Raises:
            ConfigError: an unknown name in `needs`.
        """
        for need in needs:
            if need not in NEEDS:
                raise ConfigError(f"TeacherOutputs.needs: got {need!r}, allowed are {allowed(NEEDS)}.")
        self.network = network
        self.needs, self.logits = frozenset(needs), logits
        self._features, self._max_tokens = features, max_tokens
        self._cache_mib, self._folder, self._places, self._keep = cache_mib, folder, places, keep
        self._state = process_state()
        self._precision = resolve_precision(precision, self._state.device.type)
        self._logits: KeptLogits | None = None
        self._cache: StatesCache | None = None
        self._prepared = False

    @property
    def live(self) -> bool:
        """Whether the teacher runs again for every batch; known once `prepare` has run."""
        lacking = self._prepared and (not self._keep or (self.logits and self._logits is None))
        return (bool(self.needs) and self._cache is None) or lacking

    def fingerprint(self) -> str:
        """Return a digest of the teacher's weights and arithmetic."""
        return digest(self.network, self._precision)

    def prepare(self) -> None:
        """Compute what can be kept; called by the first `batch`, and does nothing the second time."""
        if self._prepared:
            return
        self._prepared = True
        self.network.to(self._state.device)
        if not self._keep:
            return
        shortest = np.argsort(self._features.lengths, kind="stable")[:1]
        example = self._forward(self._collate(shortest))
        if self.logits:
            self._logits = KeptLogits.plan(example.logits, self._features, self._cache_mib)
        if self._folder is None or self._state.num_processes > 1:
            self._fill(example)
            return
        contents = self._contents()
        folder = self._folder / contents[:16]
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # one process computes, others wait for it and read
            self._fill(example, KeptOutputs(folder, contents))

    def _fill(self, example: Any, kept: KeptOutputs | None = None) -> None:
        """Compute what can be kept, or read what is kept already."""
        if self.needs:
            self._cache = self._plan_cache(example, None if kept is None else kept.folder)
        if self.live:
            return
        if kept is None:
            self._pass_over_all()
        elif not kept.read(self._logits):
            self._pass_over_all()
            kept.write(self._logits, self._cache)

    def _contents(self) -> str:
        """Return a digest of all that kept outputs depend on."""
        places = None if self._places is None else {need: sorted(each) for need, each in sorted(self._places.items())}
        facts = [self._precision, self._features.fingerprint(), sorted(self.needs), places, self.logits]
        return digest(self.network, *facts)

    def batch(self, indices: NDArray[np.int64], collated: Mapping[str, Tensor]) -> Any:
        """Return the teacher's ModelOutput for a batch, padded as the batch is.

        Args:
            indices: the examples, (B,).
            collated: the same examples as `Features.collate` gives them, on the training's device.

        Returns:
            `.logits`, if they are read, and what was asked for in `needs`; entries that `places` leaves out may be
            None.
        """
        self.prepare()
        if self.live:
            return self._forward(collated)
        device = collated["input_ids"].device
        outputs: dict[str, Any] = {}
        if self._logits is not None:
            outputs["logits"] = self._logits.read(indices, collated["input_ids"].shape[1]).to(device)
        if self._cache is not None:
            outputs |= self._cache.read(indices, collated["input_ids"].shape[1], device)
        return ModelOutput(**outputs)

    def _forward(self, batch: Mapping[str, Tensor]) -> Any:
        # no_grad and not inference_mode: terms may save these tensors for their own backward pass.
        with evaluating(self.network), torch.no_grad(), autocast(self._precision, self._state.device):
            return run_network(self.network, batch, sorted(self.needs), logits=self.logits)

    def _collate(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        return {name: tensor.to(self._state.device) for name, tensor in self._features.collate(indices).items()}

    def _plan_cache(self, example: Any, folder: Path | None) -> StatesCache | None:
        """Return an empty cache if everything fits the budget, else None."""
        if self._state.num_processes > 1 or not self._cache_mib:
            return None  # every process would have to keep everything
        kind = np.float32 if self._precision == "fp32" else np.float16
        cache = StatesCache(example, self._features, self.needs, self._places, np.dtype(kind))
        if cache.bytes > self._cache_mib * MIB or not cache.create(folder):
            logger.info(
                "The teacher's outputs take %.0f MiB, more than there is room for: computed again for every batch.",
                cache.bytes / MIB,
            )
            return None
        return cache

    def _pass_over_all(self) -> None:
        batches = evaluation_batches(self._features.lengths, self._max_tokens)
        state, logits = self._state, self._logits
        context = torch.inference_mode()
        with evaluating(self.network), context, autocast(self._precision, state.device):
            for indices in batches[state.process_index :: state.num_processes]:
                output = run_network(self.network, self._collate(indices), sorted(self.needs), logits=self.logits)
                if self._cache is not None:
                    self._cache.write(indices, output)
                if logits is not None:
                    logits.write(indices, output.logits)
        if state.num_processes > 1 and logits is not None:  # each computed some examples and left zeros at the others
            logits.values = reduce(logits.values.to(state.device), reduction="sum").cpu()
