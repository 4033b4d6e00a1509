"""How each figure of a report is defined, in the words of the page and of the Markdown alike."""

from __future__ import annotations

from collections.abc import Sequence

from bertcompress.report import compare, text
from bertcompress.report.runs import Entry

PER_CENT = f"{text.THIN_SPACE}%"

Definition = tuple[str, str]

_SIZES_AND_SCORES: tuple[Definition, ...] = (
    (
        "Parameters",
        "All weights of the network; a quantized weight counts as one, its step size as none. Without "
        "embeddings: less the word, position and segment tables.",
    ),
    (
        "MACs",
        "Multiply-accumulates of one forward pass over one sequence of the stated length: matrix products and "
        "convolutions. They are computed from the architecture and say nothing about how fast a machine does "
        "them.",
    ),
    (
        "File",
        "Size of the model's weights file on disk in MiB of 1,048,576 bytes. Nothing is counted as small that "
        "is not stored small.",
    ),
    (
        "Score",
        f"The task's primary metric on the stated split, with its 95{PER_CENT} interval over examples: how far it "
        "might move on other examples of the same kind. It does not cover other training seeds; the seeds "
        "that were trained stand in the table.",
    ),
)
_SPEED_AND_COSTS: tuple[Definition, ...] = (
    (
        "Latency and throughput",
        "Time for one batch: median (p50) and 95th percentile (p95), on this machine, under the conditions "
        "written beside it. Throughput is examples answered in a second.",
    ),
    (
        "Speed-up",
        f"Teacher's time over the model's, from rounds that alternate between the two, with a 95{PER_CENT} "
        "interval. Where it includes 1, no difference was shown.",
    ),
    (
        "Peak memory",
        "Largest resident memory in MiB of a process that answers, with what the libraries alone take below "
        "it. Where only the making of a model was measured, its cell says so.",
    ),
    (
        "Costs",
        "Time is measured. Energy, CO\u2082e and money are estimated from the time and the assumptions that "
        "stand below the table, and carry two digits at most.",
    ),
    (
        "Pareto front",
        "Models that no other model in the plot beats: none is both cheaper and at least as good.",
    ),
)

_DISTANCE = (
    "of 1 minus the Jensen-Shannon distance (square root of the divergence, natural logarithm) between the two models' "
)
_LOYALTIES: dict[str, dict[str, str]] = {
    "classification": {
        "label": "Share of examples on which the student gives the teacher's answer, right or wrong. Its "
        f"95{PER_CENT} interval over examples is the recorded one, else Wilson's of a counted share.",
        "probability": f"Mean over examples {_DISTANCE}class probabilities; 1 means equal probabilities everywhere.",
    },
    "tagging": {
        "label": "Share of words that the student gives the teacher's tag, right or wrong. The interval resamples "
        "sentences, as the words of one depend on each other.",
        "entity": "F1 of the student's spans, held against the teacher's spans as if these were the gold ones.",
        "probability": f"Mean over words {_DISTANCE}probabilities of the tags.",
    },
    "question_answering": {
        "label": "Share of questions that the student answers with exactly the teacher's span, right or wrong; "
        "giving no answer, where the teacher gives none, counts as the same.",
        "probability": f"Mean over questions {_DISTANCE}probabilities of where the answer starts and of where it ends, "
        "the two averaged.",
    },
    "regression": {
        "label": "Lin's concordance correlation coefficient of the two models' predictions: 1 only where they are "
        "equal; a shift or another scale lowers it, unlike Pearson's; it is below 0 where they go against each other.",
    },
    "embedding": {
        "label": "Mean share of a text's 10 nearest neighbours by the teacher's vectors that are also among the 10 "
        "nearest by the student's.",
        "similarity": "Pearson correlation, over pairs of texts, of the cosines that the two models give.",
    },
}
_DEPARTURES: tuple[Definition, ...] = (
    (
        "Departures",
        "Answers of the student that are not the teacher's, those with the largest distance between the two first. "
        "Every group of answers gets its part of the list, and no example more than two rows.",
    ),
    (
        "Loyalty by group and confidence",
        f"The share kept within each group, with a 95{PER_CENT} interval that resamples whole examples; where all of a "
        "group are kept, or none, the exact binomial interval over its examples. Confidence is the probability that "
        "the teacher gives its own answer.",
    ),
    (
        "McNemar's test",
        "Looks only at what one model has right and the other wrong: if neither is better, both are alike likely to "
        "be the right one. p is exact and two-sided: how often chance alone would make a difference at least so "
        "large. The words of a sentence are tested together, by exact randomization over sentences.",
    ),
)


def definitions(entries: Sequence[Entry]) -> list[Definition]:
    """Return the definitions of all figures that a report on these models shows."""
    kinds = list(dict.fromkeys(entry.kind if entry.kind in _LOYALTIES else "classification" for entry in entries))
    loyalties = []
    for kind in kinds or ["classification"]:
        where = f" ({kind.replace('_', ' ')})" if len(kinds) > 1 else ""
        loyalties += [(compare.loyalty_name(kind, name) + where, words) for name, words in _LOYALTIES[kind].items()]
    departures = _DEPARTURES if any(entry.breakdown for entry in entries) else ()
    return [*_SIZES_AND_SCORES, *loyalties, *departures, *_SPEED_AND_COSTS]


REFERENCES: tuple[Definition, ...] = (
    ("Loyalty: Xu et al., Beyond Preserved Accuracy, EMNLP 2021", "https://arxiv.org/abs/2109.03228"),
)
