from __future__ import annotations

import math
import time
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants

from bertcompress.data import hub
from bertcompress.data.tasks import load_task
from bertcompress.errors import DataError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTCOMPRESS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "https://no-such-host.invalid"])
def test_an_unreachable_hub_is_told_at_once(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"task sst2: .*{endpoint}\) cannot be reached") as caught:
        load_task("sst2")
    assert time.monotonic() - start < hub.REACH_TIMEOUT + 5
    assert "\n" not in str(caught.value)


def test_offline_without_an_earlier_download_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="nyu-mll/glue did not load") as caught:
        load_task("rte")
    assert "\n" not in str(caught.value)


def test_what_the_hub_holds_is_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {
        "train": datasets.Dataset.from_dict({"premise": ["p "], "hypothesis": ["h"], "label": [2], "idx": [0]}),
        "validation_matched": datasets.Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "label": [0]}),
        "validation_mismatched": datasets.Dataset.from_dict({"premise": ["c"], "hypothesis": ["d"], "label": [1]}),
        "test_matched": datasets.Dataset.from_dict({"premise": ["e"], "hypothesis": ["f"], "label": [-1]}),
    }
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: loaded)
    mnli = load_task("mnli")
    assert mnli.train[:] == {"text": ["p"], "text_pair": ["h"], "label": [2]}
    assert mnli.scoring_split()[0] == "validation"
    assert list(mnli.extra) == ["validation_mismatched"]
    assert mnli.labels == ("entailment", "neutral", "contradiction")


def test_hidden_scores_of_the_hub_become_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    data = datasets.Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [-1.0]})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"test": data})
    assert math.isnan(load_task("stsb").test["label"][0])
