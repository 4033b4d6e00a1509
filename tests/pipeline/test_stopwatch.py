from __future__ import annotations

import json
import os
import time

import pytest

from bertcompress.pipeline.stopwatch import CLOCK, Stopwatch


def make_earlier(work, fingerprint="a", seconds=100.0, lived=50.0):
    """Leave an attempt that began an hour ago, after `seconds` of others, and wrote a last file `lived` s later."""
    began = time.time() - 3600
    (work / "checkpoint").mkdir(exist_ok=True)
    (work / CLOCK).write_text(json.dumps({"fingerprint": fingerprint, "seconds": seconds, "began": began}))
    (work / "checkpoint" / "state.json").touch()
    for path in (*work.rglob("*"), work):
        os.utime(path, (began + lived, began + lived))


def test_a_first_attempt_counts_from_now(tmp_path):
    assert 0 <= Stopwatch(tmp_path, "a").seconds < 5


def test_a_killed_attempt_counts_up_to_its_last_sign_of_life(tmp_path):
    make_earlier(tmp_path)
    assert 150 <= Stopwatch(tmp_path, "a").seconds < 155


def test_attempts_add_up(tmp_path):
    make_earlier(tmp_path)
    with Stopwatch(tmp_path, "a"):
        time.sleep(0.1)
    assert 150.05 <= Stopwatch(tmp_path, "a").seconds < 155


def test_attempts_at_another_step_do_not_count(tmp_path):
    make_earlier(tmp_path)
    assert Stopwatch(tmp_path, "b").seconds < 5


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fingerprint": "a", "seconds": "x", "began": 0}'])
def test_a_damaged_clock_counts_nothing(text, tmp_path):
    (tmp_path / CLOCK).write_text(text)
    assert Stopwatch(tmp_path, "a").seconds < 5


def test_a_clock_that_was_put_back_takes_nothing_away(tmp_path):
    make_earlier(tmp_path, lived=-500.0)
    assert 100 <= Stopwatch(tmp_path, "a").seconds < 105
