"""Genes: a layer mapping as whole numbers, one for each layer of the student; needs no torch.

Gene (0, 5, 0, 12) lets student layer 2 learn from teacher layer 5 and layer 4 from layer 12; 0 leaves a layer alone.
What the paper's own zero means could not be verified; here it is never the output of the embeddings.
"""

from __future__ import annotations

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
        """Return the gene, changed as little as it takes to be one of the space.

        In an ordered space layers that do not rise are left alone, from below; a gene without any layer is drawn anew.
        """
        kept, highest = [], 0
        for layer in gene:
            rises = layer > highest
            kept.append(layer if rises or not self.ordered else 0)
            highest = max(highest, layer)
        return tuple(kept) if any(kept) else self.draw(random)

    def draw(self, random: np.random.Generator) -> Gene:
        """Return a gene, each as likely as any other."""
        while True:
            gene = tuple(random.integers(self.num_teacher + 1, size=self.num_student).tolist())
            if self.holds(gene):
                return gene

    def size(self) -> int:
        """Return the number of genes."""
        if not self.ordered:
            return int((self.num_teacher + 1) ** self.num_student - 1)
        from math import comb

        return sum(comb(self.num_student, k) * comb(self.num_teacher, k) for k in range(1, self.num_student + 1))

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


def contribution_gene(similarities: Sequence[float], num_student: int) -> Gene:
    """Return the gene of the teacher's layers that change their input most, rising (after Sajjad et al. 2020).

    Args:
        similarities: mean cosine of each teacher layer's input and output.
        num_student: layers of the student; at most as many as the teacher's.
    """
    ranked = sorted(range(len(similarities)), key=lambda layer: (similarities[layer], layer))
    return tuple(sorted(layer + 1 for layer in ranked[:num_student]))
