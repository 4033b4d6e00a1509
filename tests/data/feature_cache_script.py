"""What the tests of the feature cache run in processes of their own."""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path

from datasets import load_from_disk
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from bertcompress.data import features as module
from bertcompress.data.base import make_dataset
from bertcompress.data.features import featurize

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(500))]


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")


class Watch(threading.Thread):
    """Measures the most memory that is this process's own, which leaves out the pages of files that are mapped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.005):
            self.look()

    def look(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("RssAnon"))
        self.peak = max(self.peak, 1024 * int(line.split()[1]))


def memory(folder: Path, rows: int) -> None:
    """Tokenize `rows` contexts of 120 words from an Arrow file; print the peak of memory and the arrays' bytes."""
    source = folder / f"arrow-{rows}"
    text = [" ".join(WORDS[4 + (number * 7 + at) % 500] for at in range(120)) for number in range(500)]
    block = {"question": ["w1 w2"] * 500, "context": text}
    make_dataset({name: values * (rows // 500) for name, values in block.items()}).save_to_disk(source)
    module.CHUNK = 400
    small = load_from_disk(source).select(range(1000))
    featurize(small, tokenizer(), max_length=64, cache=folder / "cache")  # loads what is loaded on the first use
    watch = Watch()
    watch.look()
    before, watch.peak = watch.peak, 0
    watch.start()
    features = featurize(load_from_disk(source), tokenizer(), max_length=64, cache=folder / "cache")
    watch.done.set()
    size = features.input_ids.nbytes + features.starts.nbytes + features.ends.nbytes + features.token_type_ids.nbytes
    sys.stdout.write(json.dumps([watch.peak - before, size]))


def once(folder: Path) -> None:
    """Tokenize a data set into the cache; print the features' fingerprint."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    data = make_dataset({"text": [f"w{number % 500} w3" for number in range(20_000)]})
    sys.stdout.write(featurize(data, tokenizer(), max_length=16, cache=folder).fingerprint())


if __name__ == "__main__":
    if sys.argv[1] == "once":
        once(Path(sys.argv[2]))
    else:
        memory(Path(sys.argv[2]), int(sys.argv[3]))
