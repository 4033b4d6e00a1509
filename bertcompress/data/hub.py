"""GLUE and SQuAD from the Hugging Face hub, for machines that can reach it; elsewhere it fails at once, saying why."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bertcompress.data.base import HIDDEN, Task, make_dataset
from bertcompress.data.glue import GLUE
from bertcompress.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

REPOSITORY = "nyu-mll/glue"
REACH_TIMEOUT = 10.0  # seconds to wait for the hub's first answer

_TEXT = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "ax": ("premise", "hypothesis"),
}
_SPLITS = {"validation_matched": "validation", "test_matched": "test"}


def load_hub(name: str) -> Task:
    """Return a GLUE task from the hub; with `HF_HUB_OFFLINE=1`, from an earlier download.

    Raises:
        DataError: if the hub cannot be reached or does not have it.
    """
    loaded = _load(_missing(name), "the GLUE folder", REPOSITORY, name)
    layout = GLUE[name]
    splits = {_SPLITS.get(split, split): _convert(name, data) for split, data in loaded.items()}
    usual = {split: splits.pop(split, None) for split in ("train", "validation", "test")}
    source = f"Hugging Face hub, {REPOSITORY}"
    return Task(name, layout.kind, layout.labels, layout.metric, **usual, extra=splits, source=source)


def load_squad(name: str, repository: str, missing: str) -> Task:
    """Return a version of SQuAD from the hub; with `HF_HUB_OFFLINE=1`, from an earlier download.

    Args:
        name: of the task.
        repository: on the hub.
        missing: which files were looked for and not found, for messages.

    Raises:
        DataError: if the hub cannot be reached or does not have it.
    """
    loaded = _load(missing, "the files", repository)
    columns = ("id", "question", "context", "answers")
    splits = {
        split: make_dataset({column: data[column][:] for column in columns})
        for split, data in loaded.items()
        if split in ("train", "validation")
    }
    unanswerable = any(not answers["text"] for data in splits.values() for answers in data["answers"])
    source = f"Hugging Face hub, {repository}"
    return Task(name, "question_answering", (), "f1", **splits, source=source, unanswerable=unanswerable)


def _load(missing: str, wanted: str, repository: str, *configuration: str) -> Mapping[str, Dataset]:
    """Return the splits of a data set of the hub."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:  # offline, an earlier download is used, and its absence shows at once
        _reach(missing, wanted, constants.ENDPOINT)
    import datasets
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever library the hub uses

    try:
        loaded: Mapping[str, Dataset] = datasets.load_dataset(repository, *configuration)
    except (OSError, ValueError, HTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{missing}, and the hub's {repository} did not load: {_first_line(error)}") from error
    return loaded


def _missing(name: str) -> str:
    folder = GLUE[name].folders[0]
    return f"task {name}: there is no folder $BERTCOMPRESS_DATA/glue/{folder} or $BERTCOMPRESS_DATA/{folder}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _reach(missing: str, wanted: str, endpoint: str) -> None:
    """Ask the hub's address once, so that the many retries of its client are not waited for where there is no hub."""
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=REACH_TIMEOUT).close()
    except urllib.error.HTTPError:
        return  # an answer, whatever it says
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # somebody answered; the client may have other certificates than Python
        raise DataError(
            f"{missing}, and the Hugging Face hub ({endpoint}) cannot be reached ({reason}); "
            f"put {wanted} there, or set HF_HUB_OFFLINE=1 to use an earlier download."
        ) from error


def _convert(name: str, data: Dataset) -> Dataset:
    columns: dict[str, list[Any]] = {}
    for column, source in zip(("text", "text_pair"), _TEXT.get(name, ("sentence1", "sentence2")), strict=False):
        columns[column] = [text.strip() for text in data[source][:]]
    labels = data["label"][:]
    if not GLUE[name].labels:
        labels = [float("nan") if label == HIDDEN else float(label) for label in labels]
    columns["label"] = labels
    return make_dataset(columns)
