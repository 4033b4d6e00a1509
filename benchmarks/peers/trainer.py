"""The peer: fine-tuning and distillation as they are written with transformers' `Trainer`.

All is at `Trainer`'s defaults (optimizer, precision, collation, data order, evaluation mode of the attention), save
what has to be the same for both sides, and three things that would only cost it time: progress bars, checkpoints and
trackers are off.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import (
    BertForSequenceClassification,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from bertcompress.training.mapping import Pairs
from bertcompress.training.settings import TrainingSettings


class DistillationTrainer(Trainer):
    """The `Trainer` subclass that tutorials show: a live teacher, soft labels and hidden states in `compute_loss`."""

    def __init__(self, *, teacher: torch.nn.Module, temperature: float | None, pairs: Pairs, **options: Any) -> None:
        """Take the teacher, the temperature of soft labels (None: none), and pairs (student layer, teacher layer)."""
        super().__init__(**options)
        self.teacher = teacher.to(self.args.device).eval()
        self.temperature, self.pairs = temperature, pairs
        self.teacher_seconds = 0.0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return T^2 KL(teacher || student) plus the squared error of mapped hidden states, per token, no pads."""
        began = time.perf_counter()
        with torch.no_grad():
            taught = self.teacher(**inputs, output_hidden_states=bool(self.pairs))
        self.teacher_seconds += time.perf_counter() - began
        learned = model(**inputs, output_hidden_states=bool(self.pairs))
        loss = 0.0
        if self.temperature is not None:
            soft = F.kl_div(
                F.log_softmax(learned.logits / self.temperature, dim=-1),
                F.softmax(taught.logits / self.temperature, dim=-1),
                reduction="batchmean",
            )
            loss = soft * self.temperature**2
        real = inputs["attention_mask"].bool()
        for student, teacher in self.pairs:
            loss = loss + F.mse_loss(learned.hidden_states[student][real], taught.hidden_states[teacher][real])
        return (loss, learned) if return_outputs else loss


class LoopClock(TrainerCallback):
    """The time from the first step's beginning to the last step's end."""

    began = ended = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.began = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds between the two."""
        return self.ended - self.began


def arguments(settings: TrainingSettings, folder: Path) -> TrainingArguments:
    """Translate the settings that must be the same for both; the rest stays as `Trainer` has it."""
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=64,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def tokenized(data: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Tokenize as tutorials do, without padding: `Trainer`'s collator pads each batch to its longest."""
    pair = "text_pair" in data.column_names

    def tokenize(rows: Any) -> Any:
        texts = (rows["text"], rows["text_pair"]) if pair else (rows["text"],)
        return tokenizer(*texts, truncation=True, max_length=max_length)

    return data.map(tokenize, batched=True)


def load(folder: str) -> BertForSequenceClassification:
    """Load the plain BERT of a folder."""
    return BertForSequenceClassification.from_pretrained(folder)
