"""Tokenizers of other makes than the letters tokenizer, so that nothing holds for one kind of tokenizer only."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

TEXT = ["the cat sat on the mat and the dog did not", "Don't a-cat the 1990s, naïve!", "that hat, an ant; nothing"] * 3
SIGNS = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}


def train(pre_tokenizer, alphabet=(), normalizer=None) -> Tokenizer:
    core = Tokenizer(BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        core.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=list(SIGNS.values()), initial_alphabet=list(alphabet), show_progress=False
    )
    core.train_from_iterator(TEXT, trainer)
    return core


def roberta(add_prefix_space: bool) -> PreTrainedTokenizerFast:
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    core = train(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space), bytes_)
    ends = [(sign, core.token_to_id(sign)) for sign in ("</s>", "<s>")]
    core.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=add_prefix_space)
    return PreTrainedTokenizerFast(tokenizer_object=core, **SIGNS)


def xlnet() -> PreTrainedTokenizerFast:
    """With its special tokens at the end, as in XLNet, and words that begin with a mark, as in SentencePiece."""
    core = train(pre_tokenizers.Metaspace(), normalizer=normalizers.NFKC())
    ends = [(sign, core.token_to_id(sign)) for sign in ("<s>", "</s>")]
    core.post_processor = processors.TemplateProcessing(
        single="$A:0 </s>:0 <s>:2", pair="$A:0 </s>:0 $B:1 </s>:1 <s>:2", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **SIGNS)


@pytest.fixture(scope="session")
def tokenizers_by_name(letters_tokenizer) -> dict[str, PreTrainedTokenizerFast]:
    """Tokenizers of every make: like BERT, like RoBERTa with and without a space before the text, like XLNet."""
    return {"bert": letters_tokenizer, "roberta": roberta(False), "roberta-spaced": roberta(True), "xlnet": xlnet()}


@pytest.fixture(params=["bert", "roberta", "roberta-spaced", "xlnet"])
def any_tokenizer(request, tokenizers_by_name) -> PreTrainedTokenizerFast:
    """Each of them in turn."""
    return tokenizers_by_name[request.param]
