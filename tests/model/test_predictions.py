from __future__ import annotations

import numpy as np

from bertcompress.data.base import make_dataset
from bertcompress.data.features import Features
from bertcompress.predictions import COLUMN_ROWS, predictions_of


def test_answers_are_cut_out_of_their_own_contexts():
    # More questions than contexts are read at once; the answer is a window's second token, characters 2 to 7.
    count = 2 * COLUMN_ROWS + 3
    contexts = [f"a {number:05d} b" for number in range(count)]
    dataset = make_dataset({"id": contexts, "question": ["?"] * count, "context": contexts})
    tokens, offsets = np.zeros(4 * count, np.int32), 4 * np.arange(count + 1)
    starts, ends = np.tile(np.array([-1, 0, 2, 8], np.int32), count), np.tile(np.array([-1, 1, 7, 9], np.int32), count)
    features = Features(
        tokens, tokens.astype(np.int8), offsets, None, 0, "question_answering", starts=starts, ends=ends
    )
    logits = np.tile(np.array([[0, 0], [0, 0], [9, 9], [0, 0]], np.float32), (count, 1))
    found = predictions_of(features, logits, dataset)
    assert found.answer_texts() == [f"{number:05d}" for number in range(count)]
