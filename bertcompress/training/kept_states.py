"""A teacher's hidden states, projections and attention scores in memory-mapped files, for one training or for many."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bertcompress.encoder.integrity import sha256
from bertcompress.training.kept_logits import KeptLogits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bertcompress.data.features import Features

logger = logging.getLogger(__name__)
MANIFEST, LOGITS = "outputs.json", "logits.npy"


class StatesCache:
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
        self._maps: dict[tuple[str, int], np.memmap[Any, Any]] = {}
        self._place: Path | None = None
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
        self._place = folder
        present = all(path.is_file() for path in self.paths.values())
        if not present and shutil.disk_usage(folder).free < 2 * self.bytes:
            return False
        for key, path in self.paths.items():
            shape = self._shapes[key]
            whole = path.is_file() and path.stat().st_size == shape[0] * shape[1] * self._kind.itemsize
            self._maps[key] = np.memmap(path, dtype=self._kind, mode="r+" if whole else "w+", shape=shape)
        return True

    @property
    def paths(self) -> dict[tuple[str, int], Path]:
        """The file of each output and place."""
        assert self._place is not None
        return {(need, place): self._place / f"{need}-{place}.{self._kind.name}" for need, place in self._shapes}

    def flush(self) -> None:
        """Write everything to the disk."""
        for each in self._maps.values():
            each.flush()

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


class KeptOutputs:
    """The outputs that lie in a folder, with checksums and a digest of what they were computed from."""

    def __init__(self, folder: Path, contents: str) -> None:
        """Say where they lie, and what they depend on."""
        self.folder, self._contents = folder, contents

    def read(self, logits: KeptLogits | None) -> bool:
        """Take logits from the folder if all that lies there is whole and of these contents; states are mapped."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            return False
        try:
            said = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError:
            logger.warning("%s is damaged; the teacher's outputs are computed again", manifest)
            return False
        if said["contents"] != self._contents:
            return False
        for name, checksum in said["files"].items():
            if not (self.folder / name).is_file() or sha256(self.folder / name) != checksum:
                logger.warning("%s is damaged; the teacher's outputs are computed again", self.folder / name)
                return False
        if logits is not None:
            logits.values = torch.from_numpy(np.load(self.folder / LOGITS, allow_pickle=False))
        return True

    def write(self, logits: KeptLogits | None, states: StatesCache | None) -> None:
        """Keep what was computed; complete once the manifest is there."""
        paths = []
        if logits is not None:
            np.save(self.folder / LOGITS, logits.values.numpy(), allow_pickle=False)
            paths.append(self.folder / LOGITS)
        if states is not None:
            states.flush()
            paths += states.paths.values()
        said = {"contents": self._contents, "files": {path.name: sha256(path) for path in paths}}
        draft = self.folder / f".{MANIFEST}.partial"
        draft.write_text(json.dumps(said, indent=1), encoding="utf-8")
        draft.replace(self.folder / MANIFEST)
