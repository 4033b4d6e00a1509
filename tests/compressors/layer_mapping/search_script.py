"""Run by the search's tests in processes of their own: searches a planted optimum.

Arguments: the folder that the processes share, the name of the answer's file, the seconds that an evaluation takes.
Each evaluation leaves a line in the folder's `evaluated` when it begins.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bertcompress.compressors.layer_mapping.genes import Space
from bertcompress.compressors.layer_mapping.genetic import GeneticSettings
from bertcompress.compressors.layer_mapping.sampler import GeneticSampler
from bertcompress.compressors.layer_mapping.search import GeneticSearch, Repetition
from bertcompress.search.board import Outcome
from bertcompress.search.studies import open_storage, open_study

SPACE = Space(3, 6)
SETTINGS = GeneticSettings(population=8, generations=5, generation_patience=None)
BEST = (2, 0, 5)


def worth(gene, seed=0):
    return -float(sum((layer - best) ** 2 for layer, best in zip(gene, BEST, strict=True))) - 0.01 * seed


def main(folder: Path, name: str, pause: float) -> None:
    """Search, evaluate the three best twice, and write the answer."""

    def evaluate(gene, seed=0):
        with (folder / "evaluated").open("a") as lines:
            lines.write(json.dumps([list(gene), seed]) + "\n")
        time.sleep(pause)
        return Outcome(worth(gene, seed), {"seed": seed})

    sampler = GeneticSampler(SPACE, SETTINGS, seed=3, seeded=list(SPACE.named().values()))
    storage = open_storage(None, folder)
    found = GeneticSearch(open_study(storage, "search", sampler), sampler, evaluate, name).run()
    items = [(each.gene, seed) for each in found.candidates[:3] for seed in (1, 2)]
    finals = Repetition(open_study(storage, "finals", sampler), items, evaluate, name).run()
    answer = {
        "generations": found.generations,
        "candidates": [[each.gene, each.fitness, each.generation] for each in found.candidates],
        "finals": [[value, facts] for value, facts in finals],
    }
    (folder / name).write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
