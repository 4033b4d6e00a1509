"""How each figure of a report is defined, in the words of the page and of the Markdown alike."""

from __future__ import annotations

from bertcompress.report import text

PER_CENT = f"{text.THIN_SPACE}%"

DEFINITIONS: tuple[tuple[str, str], ...] = (
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
    (
        "Label loyalty",
        "Share of examples on which the student gives the teacher's answer, right or wrong. Its "
        f"95{PER_CENT} interval over examples is the recorded one, else Wilson's of a counted share.",
    ),
    (
        "Probability loyalty",
        "Mean over examples of 1 minus the Jensen-Shannon distance (square root of the divergence, natural "
        "logarithm) between the two models' class probabilities; 1 means equal probabilities everywhere.",
    ),
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

REFERENCES: tuple[tuple[str, str], ...] = (
    ("Loyalty: Xu et al., Beyond Preserved Accuracy, EMNLP 2021", "https://arxiv.org/abs/2109.03228"),
)
