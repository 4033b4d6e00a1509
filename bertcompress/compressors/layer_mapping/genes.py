"""Genes: a layer mapping as whole numbers, one for each layer of the student; needs no torch.

Gene (0, 5, 0, 12) lets student layer 2 learn from teacher layer 5 and layer 4 from layer 12; 0 leaves a layer alone.
What the paper's own zero means could not be verified; here it is never the output of the embeddings. Layers of the
student above the highest that learns get no gradient from such an objective and stay as they were: such genes are
allowed, as the mappings that are remembered as the paper's winners may be of this kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, TypeAlias

from bertcompress.errors import ConfigError
from bertcompress.training.mapping import resolve_mapping

if TYPE_CHECKING:
    import numpy as np

Gene: TypeAlias = tuple[int, ...]
NAMED = ("uniform", "last", "top", "bottom", "reversed")


@dataclass(frozen=True)
class Space:
    """All genes of a student's and a teacher's layers.

    Attributes:
        num_student: layers of the student.
        num_teacher: layers of the teacher.
        ordered: only genes whose layers above 0 rise strictly.
    """

    num_student: int
    num_teacher: int
    ordered: bool = False

    def __post_init__(self) -> None:
        """Refuse networks without layers.

        Raises:
            ConfigError: a number of layers is below 1.
        """
        for name in ("num_student", "num_teacher"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Space.{name}: got {getattr(self, name)}, allowed is a whole number of at least 1.")

    def holds(self, gene: Sequence[int]) -> bool:
        """Return whether a gene is one of these: of the right length and range, with at least one layer that learns."""
        taught = [layer for layer in gene if layer]
        inside = len(gene) == self.num_student and all(0 <= layer <= self.num_teacher for layer in gene)
        rising = all(low < high for low, high in pairwise(taught))
        return inside and bool(taught) and (rising or not self.ordered)

    def repaired(self, gene: Sequence[int], random: np.random.Generator) -> Gene:
        """Return the gene, with as few layers changed as it takes to be one of the space.

        In an ordered space the longest rising part stays, and other layers are left alone; a gene without any layer is
        drawn anew.
        """
        kept = _longest_rising(gene) if self.ordered else range(len(gene))
        repaired = tuple(layer if place in kept else 0 for place, layer in enumerate(gene))
        return repaired if any(repaired) else self.draw(random)

    def draw(self, random: np.random.Generator) -> Gene:
        """Return a gene, each as likely as any other."""
        if self.ordered:
            return self._draw_ordered(random)
        while True:
            gene = tuple(random.integers(self.num_teacher + 1, size=self.num_student).tolist())
            if self.holds(gene):
                return gene

    def _draw_ordered(self, random: np.random.Generator) -> Gene:
        counts = self._by_number()
        number = int(random.choice(len(counts), p=[count / sum(counts) for count in counts])) + 1
        places = sorted(random.choice(self.num_student, number, replace=False).tolist())
        layers = sorted((random.choice(self.num_teacher, number, replace=False) + 1).tolist())
        found = dict(zip(places, layers, strict=True))
        return tuple(found.get(place, 0) for place in range(self.num_student))

    def _by_number(self) -> list[int]:
        """Return the number of ordered genes with one layer that learns, with two, and so on."""
        most = min(self.num_student, self.num_teacher)
        return [math.comb(self.num_student, k) * math.comb(self.num_teacher, k) for k in range(1, most + 1)]

    def size(self) -> int:
        """Return the number of genes."""
        if not self.ordered:
            return int((self.num_teacher + 1) ** self.num_student - 1)
        return sum(self._by_number())

    def all(self) -> Iterator[Gene]:
        """Yield every gene, in rising order."""
        for gene in product(range(self.num_teacher + 1), repeat=self.num_student):
            if self.holds(gene):
                yield gene

    def named(self) -> dict[str, Gene]:
        """Return the mappings that people choose by hand, by name; those that are not of the space are left out."""
        found = {}
        for name in NAMED:
            if name in ("top", "bottom") and self.num_student > self.num_teacher:
                continue
            gene = [0] * self.num_student
            for student, teacher in resolve_mapping(name, self.num_student, self.num_teacher):
                gene[student - 1] = teacher
            if self.holds(gene):
                found[name] = tuple(gene)
        return found


def _longest_rising(gene: Sequence[int]) -> list[int]:
    """Return the places of the longest part of a gene whose layers above 0 rise; of equal ones the first found."""
    best: list[list[int]] = []  # for each place the longest part that ends there
    for place, layer in enumerate(gene):
        before = [part for part in best if part and gene[part[-1]] < layer]
        best.append([*max(before, key=len, default=[]), place] if layer else [])
    return max(best, key=len, default=[])


def contribution_gene(similarities: Sequence[float], num_student: int) -> Gene:
    """Return the gene of the teacher's layers that change their input most, rising (after Sajjad et al. 2020).

    Args:
        similarities: mean cosine of each teacher layer's input and output.
        num_student: layers of the student; at most as many as the teacher's.
    """
    ranked = sorted(range(len(similarities)), key=lambda layer: (similarities[layer], layer))
    return tuple(sorted(layer + 1 for layer in ranked[:num_student]))
