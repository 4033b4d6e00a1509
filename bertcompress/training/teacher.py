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
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from transformers.utils import ModelOutput

from bertcompress.data.batching import evaluation_batches
from bertcompress.encoder.logits import task_logits
from bertcompress.errors import ConfigError, allowed
from bertcompress.training.checkpoint import digest
from bertcompress.training.kept_logits import KeptLogits
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


def run_network(network: nn.Module, batch: Mapping[str, Tensor], needs: Collection[str] = ()) -> Any:
    """Return the network's ModelOutput for a collated batch, with the outputs named in `needs` beside the logits.

    Its `logits` are those of `task_logits`, whatever the head. Queries, keys and values are (B, L, heads * head size),
    one for each attention operation.
    """
    wanted = {f"output_{'projections' if need in PROJECTIONS else need}": True for need in needs}
    output = network(**{name: batch[name] for name in INPUTS}, **wanted)
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
            folder: where to keep them; a temporary folder if None.
            places: which entries of each of `needs` are read (an objective's `teacher_places`); None: all.
            keep: whether anything may be kept; not where an objective `needs_live_teacher`.

        Raises:
            ConfigError: an unknown name in `needs`.
        """
        for need in needs:
            if need not in NEEDS:
                raise ConfigError(f"TeacherOutputs.needs: got {need!r}, allowed are {allowed(NEEDS)}.")
        self.network = network
        self.needs = frozenset(needs)
        self._features, self._max_tokens = features, max_tokens
        self._cache_mib, self._folder, self._places, self._keep = cache_mib, folder, places, keep
        self._state = process_state()
        self._precision = resolve_precision(precision, self._state.device.type)
        self._logits: KeptLogits | None = None
        self._cache: _Cache | None = None
        self._prepared = False

    @property
    def live(self) -> bool:
        """Whether the teacher runs again for every batch; known once `prepare` has run."""
        return (bool(self.needs) and self._cache is None) or (self._prepared and self._logits is None)

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
        self._logits = KeptLogits.plan(example.logits, self._features, self._cache_mib)
        if self.needs:
            self._cache = self._plan_cache(example)
        if not self.live:
            self._pass_over_all()

    def batch(self, indices: NDArray[np.int64], collated: Mapping[str, Tensor]) -> Any:
        """Return the teacher's ModelOutput for a batch, padded as the batch is.

        Args:
            indices: the examples, (B,).
            collated: the same examples as `Features.collate` gives them, on the training's device.

        Returns:
            `.logits`, and what was asked for in `needs`; entries that `places` leaves out may be None.
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
            return run_network(self.network, batch, sorted(self.needs))

    def _collate(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        return {name: tensor.to(self._state.device) for name, tensor in self._features.collate(indices).items()}

    def _plan_cache(self, example: Any) -> _Cache | None:
        """Return an empty cache if everything fits the budget, else None."""
        if self._state.num_processes > 1 or not self._cache_mib:
            return None  # every process would have to keep everything
        kind = np.float32 if self._precision == "fp32" else np.float16
        cache = _Cache(example, self._features, self.needs, self._places, np.dtype(kind))
        if cache.bytes > self._cache_mib * MIB or not cache.create(self._folder):
            logger.info(
                "The teacher's outputs take %.0f MiB, more than there is room for: computed again for every batch.",
                cache.bytes / MIB,
            )
            return None
        return cache

    def _pass_over_all(self) -> None:
        batches = evaluation_batches(self._features.lengths, self._max_tokens)
        state, logits = self._state, self._logits
        assert logits is not None  # else it is live, and nothing is kept
        context = torch.inference_mode()
        with evaluating(self.network), context, autocast(self._precision, state.device):
            for indices in batches[state.process_index :: state.num_processes]:
                output = run_network(self.network, self._collate(indices), sorted(self.needs))
                if self._cache is not None:
                    self._cache.write(indices, output)
                logits.write(indices, output.logits)
        if state.num_processes > 1:  # each computed some examples and left zeros at the others
            logits.values = reduce(logits.values.to(state.device), reduction="sum").cpu()


class _Cache:
    """Hidden states, projections and attention scores of all examples without their padding, in memory-mapped files."""

    def __init__(
        self,
        example: Any,
        features: Features,
        needs: Collection[str],
        places: Mapping[str, Collection[int]] | None,
        kind: np.dtype[Any],
    ) -> None:
        """Learn the widths and heads from one example's output."""
        self._offsets, self._lengths = features.offsets, features.lengths
        self._pair_offsets = np.concatenate([[0], np.cumsum(self._lengths**2)])  # of the scores of one head
        self._kind = kind
        self._counts = {need: len(example[need]) for need in needs}
        wanted = {need: set(range(count)) if places is None else places[need] for need, count in self._counts.items()}
        self._shapes = {
            (need, place): self._shape(need, example[need][place])
            for need in sorted(needs)
            for place in sorted(wanted[need])
        }
        self._maps: dict[tuple[str, int], NDArray[Any]] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all files together."""
        return sum(rows * columns for rows, columns in self._shapes.values()) * self._kind.itemsize

    def create(self, folder: Path | None) -> bool:
        """Make the files, empty; return False if the disk has no room for them."""
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="bertcompress-", ignore_cleanup_errors=True)
            folder = Path(self._temporary.name)
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < 2 * self.bytes:
            return False
        for (need, place), shape in self._shapes.items():
            path = folder / f"{need}-{place}.{self._kind.name}"
            self._maps[need, place] = np.memmap(path, dtype=self._kind, mode="w+", shape=shape)
        return True

    def write(self, indices: NDArray[np.int64], output: Any) -> None:
        """Keep the outputs for these examples."""
        for (need, place), kept in self._maps.items():
            values = output[need][place].float().cpu().numpy()
            for row, index in enumerate(indices):
                size = self._lengths[index]
                if need != "attention_scores":
                    kept[self._offsets[index] : self._offsets[index + 1]] = values[row, :size]  # (l, H)
                else:
                    scores = values[row, :, :size, :size]  # (h, l, l)
                    kept[self._pair_offsets[index] : self._pair_offsets[index + 1]] = scores.reshape(len(scores), -1).T

    def read(self, indices: NDArray[np.int64], length: int, device: torch.device) -> dict[str, Any]:
        """Return tuples of float32 tensors, (B, L, H) or (B, h, L, L), zero at pads, None where nothing is kept."""
        result: dict[str, list[Tensor | None]] = {need: [None] * count for need, count in self._counts.items()}
        for (need, place), kept in self._maps.items():
            read = self._scores if need == "attention_scores" else self._hidden
            result[need][place] = torch.from_numpy(read(kept, indices, length)).to(device)
        return {need: tuple(values) for need, values in result.items()}

    def _shape(self, need: str, tensor: Tensor) -> tuple[int, int]:
        if need == "attention_scores":
            return int(self._pair_offsets[-1]), tensor.shape[1]
        return int(self._offsets[-1]), tensor.shape[-1]

    def _hidden(self, kept: NDArray[Any], indices: NDArray[np.int64], length: int) -> NDArray[np.float32]:
        padded = np.zeros((len(indices), length, kept.shape[1]), np.float32)
        for row, index in enumerate(indices):
            padded[row, : self._lengths[index]] = kept[self._offsets[index] : self._offsets[index + 1]]
        return padded

    def _scores(self, kept: NDArray[Any], indices: NDArray[np.int64], length: int) -> NDArray[np.float32]:
        padded = np.zeros((len(indices), kept.shape[1], length, length), np.float32)
        for row, index in enumerate(indices):
            size = self._lengths[index]
            scores = kept[self._pair_offsets[index] : self._pair_offsets[index + 1]]  # (l * l, h)
            padded[row, :, :size, :size] = scores.T.reshape(-1, size, size)
        return padded
