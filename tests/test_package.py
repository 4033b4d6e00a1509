"""What importing the package costs, and that its public names are what the documentation says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import bertcompress as bc


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_loads_neither_torch_nor_transformers():
    heavy = ["torch", "transformers", "numpy", "datasets"]
    assert run(f"import sys, bertcompress; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_import_takes_under_a_tenth_of_a_second():
    code = "import time; start = time.process_time(); import bertcompress; print(time.process_time() - start)"
    assert min(float(run(code)) for _ in range(3)) < 0.1


def test_help_takes_under_half_a_second_of_work():
    seconds = []
    for _ in range(3):
        before = sum(os.times()[2:4])  # processor time of children
        subprocess.run([sys.executable, "-m", "bertcompress", "--help"], check=True, capture_output=True)
        seconds.append(sum(os.times()[2:4]) - before)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("name", bc.__all__)
def test_every_public_name_is_there(name):
    assert getattr(bc, name) is not None
    assert name in dir(bc)


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"public names: .*Pipeline"):
        bc.Piepline  # noqa: B018


@pytest.mark.parametrize("order", ["bertcompress, transformers", "transformers, bertcompress"])
def test_auto_classes_know_our_networks_in_either_order(order):
    ask = "AutoModel; print(AutoConfig.for_model('bertcompress').model_type)"
    assert run(f"import {order}; from transformers import AutoConfig, {ask}") == "bertcompress"
