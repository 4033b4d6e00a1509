"""The tokenizer that lies beside an encoder's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from bertcompress.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def load_tokenizer(source: str, vocab_size: int) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside the weights; transformers would make an empty one where there is none."""
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in _VOCABULARIES):
        raise CheckpointError(f"{folder} has no tokenizer; put one of {', '.join(_VOCABULARIES)} beside the weights.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source} has no tokenizer that transformers can load: {error}") from error
    if len(tokenizer) > vocab_size:
        raise CheckpointError(
            f"{source}: the tokenizer knows {len(tokenizer)} tokens, the network embeds {vocab_size}; "
            "put the network's own tokenizer beside its weights."
        )
    return tokenizer


def forget_last_call(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take the last call's truncation and padding out of a fast tokenizer, which would save them: calls set their own.

    The same model would otherwise be saved differently, depending on whether its texts were tokenized or cached.
    """
    rules = getattr(tokenizer, "backend_tokenizer", None)
    if rules is not None:
        rules.no_truncation()
        rules.no_padding()
