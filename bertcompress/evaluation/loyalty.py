"""Does a student still behave like its teacher? Label and probability loyalty.

Both are from Xu et al., "Beyond Preserved Accuracy" (EMNLP 2021, https://arxiv.org/abs/2109.03228):

    label loyalty        mean over examples of 1[argmax t == argmax s], the lowest index on ties
    probability loyalty  mean over examples of 1 - sqrt(JSD(softmax(t) || softmax(s)))

The authors' README computes the second with `scipy.spatial.distance.jensenshannon`, which is the square root already
and uses natural logarithms; that is what is done here (base e), so the value lies in [1 - sqrt(ln 2), 1] = [0.167, 1].
`base=2` stretches it to [0, 1]; the two are tied by 1 - L_e = (1 - L_2) sqrt(ln 2). Distances are averaged per
example, never the divergences. A regression task has no softmax and so neither of the
two; `bertcompress.evaluation.judges` says what takes their place there, and in the other kinds of task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from datasets import Features, Value
from datasets import Sequence as Row

from bertcompress.errors import ConfigError
from bertcompress.evaluation.metrics.base import MetricModule

if TYPE_CHECKING:
    import torch

    Logits: TypeAlias = npt.ArrayLike | torch.Tensor

Float64: TypeAlias = npt.NDArray[np.float64]


def label_loyalty(teacher_logits: Logits, student_logits: Logits) -> float:
    """Return the share of examples on which the student predicts the teacher's class.

    Args:
        teacher_logits: numpy or torch, (examples, classes).
        student_logits: of the same examples in the same order, with the same order of classes.

    Returns:
        A number in [0, 1]; 1 for a model compared with itself.

    Raises:
        ConfigError: the shapes differ or are not (examples, classes), or a logit is NaN or infinite.
    """
    return float(label_agreement(teacher_logits, student_logits).mean())


def probability_loyalty(teacher_logits: Logits, student_logits: Logits, base: float = math.e) -> float:
    """Return one minus the mean Jensen-Shannon distance between the two models' probabilities.

    Args:
        teacher_logits: numpy or torch, (examples, classes); logits, not probabilities.
        student_logits: of the same examples in the same order, with the same order of classes.
        base: of the logarithm; e (the paper's README) or 2 (the full range of [0, 1]).

    Returns:
        A number in [0, 1]; exactly 1 for a model compared with itself.

    Raises:
        ConfigError: as for `label_loyalty`, or the base is below 2, where the distance may exceed 1.
    """
    return float((1 - jensen_shannon_distances(teacher_logits, student_logits, base)).mean())


def label_agreement(teacher_logits: Logits, student_logits: Logits) -> Float64:
    """Return 1 where the two models predict the same class and 0 elsewhere, (examples,).

    Raises:
        ConfigError: as for `label_loyalty`.
    """
    teacher, student = _pair(teacher_logits, student_logits)
    result: Float64 = (teacher.argmax(-1) == student.argmax(-1)).astype(np.float64)
    return result


def jensen_shannon_distances(teacher_logits: Logits, student_logits: Logits, base: float = math.e) -> Float64:
    """Return the Jensen-Shannon distance of each example, (examples,), in float64.

    Raises:
        ConfigError: as for `probability_loyalty`.
    """
    if not (isinstance(base, (int, float)) and 2 <= base < math.inf):
        raise ConfigError(f"probability_loyalty: base is {base!r}, allowed is a finite number of at least 2.")
    teacher, student = _pair(teacher_logits, student_logits)
    log_p, log_q = _log_softmax(teacher), _log_softmax(student)
    divergence = 0.5 * (_relative_entropy(log_p, log_q) + _relative_entropy(log_q, log_p)) / math.log(base)
    # Rounding can leave -1e-17, of which the root is NaN, or a hair above the largest distance.
    result: Float64 = np.sqrt(np.clip(divergence, 0.0, math.log(2) / math.log(base)))
    return result


def _relative_entropy(log_p: Float64, log_q: Float64) -> Float64:
    """Return KL(P || M) in nats, (n,), M the mean of P and Q.

    log p - log m = log 2 - log(1 + q/p) = log 2 - logaddexp(0, log q - log p): exactly 0 where p equals q, which
    log p - (logaddexp(log p, log q) - log 2) is not.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # only where p is 0 and the term counts for nothing
        term = np.exp(log_p) * (math.log(2) - np.logaddexp(0.0, log_q - log_p))
    result: Float64 = np.where(log_p < -745.2, 0.0, term).sum(-1)  # exp(-745.2) is 0 in float64
    return result


def _log_softmax(logits: Float64) -> Float64:
    with np.errstate(over="ignore"):  # logits of 1e308 and -1e308: a log-probability of -inf is right
        shifted = logits - logits.max(-1, keepdims=True)
    result: Float64 = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _pair(teacher_logits: Logits, student_logits: Logits) -> tuple[Float64, Float64]:
    teacher, student = _logits("teacher_logits", teacher_logits), _logits("student_logits", student_logits)
    if teacher.shape != student.shape:
        raise ConfigError(
            f"loyalty: the teacher's logits have the shape {teacher.shape}, the student's {student.shape}; both must "
            "be (examples, classes) over the same examples and the same classes."
        )
    return teacher, student


def _logits(name: str, values: Logits) -> Float64:
    if hasattr(values, "detach"):  # a torch tensor, of any float type, on any device
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"loyalty: {name} is no array of numbers, allowed is (examples, classes): {error}."
        ) from error
    if array.ndim != 2 or not len(array):
        raise ConfigError(f"loyalty: {name} has the shape {array.shape}, allowed is (examples, classes), not empty.")
    if array.shape[1] < 2:
        raise ConfigError(
            f"loyalty: {name} has the shape {array.shape}: with fewer than two classes, as in regression, there is no "
            "softmax and so no loyalty; compare scores instead."
        )
    broken = np.flatnonzero(~np.isfinite(array).all(-1))
    if len(broken):
        raise ConfigError(
            f"loyalty: {name} holds NaN or infinity in {len(broken)} of {len(array)} examples, the first is example "
            f"{broken[0]}; a model that gives such logits is broken."
        )
    return array


CITATION = """@inproceedings{xu-etal-2021-beyond,
  title = {Beyond Preserved Accuracy: Evaluating Loyalty and Robustness of {BERT} Compression},
  author = {Xu, Canwen and Zhou, Wangchunshu and Ge, Tao and Xu, Ke and McAuley, Julian and Wei, Furu},
  booktitle = {Proceedings of EMNLP}, year = {2021}, pages = {10653--10659}}"""


class _Loyalty(MetricModule):
    """A module over two tables of logits."""

    inputs = "predictions: the student's logits, (examples, classes); references: the teacher's."
    citation_text = CITATION

    def columns(self) -> Features:
        """Return the types of `predictions` and `references`: rows of float64 logits."""
        return Features({"predictions": Row(Value("float64")), "references": Row(Value("float64"))})


class LabelLoyalty(_Loyalty):
    """`label_loyalty` as an `evaluate.Metric`: predictions are the student's logits, references the teacher's."""

    about = "Share of examples on which the student predicts the teacher's class."

    def scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
        """Return `{"label_loyalty": value}`."""
        return {"label_loyalty": label_loyalty(references, predictions)}


class ProbabilityLoyalty(_Loyalty):
    """`probability_loyalty` as an `evaluate.Metric`; `compute(..., base=2)` changes the logarithm."""

    about = "One minus the mean Jensen-Shannon distance between the student's and the teacher's probabilities."

    def scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
        """Return `{"probability_loyalty": value}`."""
        return {"probability_loyalty": probability_loyalty(references, predictions, **options)}
