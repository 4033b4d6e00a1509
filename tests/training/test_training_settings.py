from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from bertcompress.errors import ConfigError
from bertcompress.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", -1),
        ("epochs", float("nan")),
        ("epochs", True),
        ("learning_rate", 0),
        ("learning_rate", "5e-5"),
        ("batch_size", 0),
        ("batch_size", 8.0),
        ("gradient_accumulation_steps", 0),
        ("max_length", 1),
        ("max_tokens", 0),
        ("warmup", 1.5),
        ("warmup", -0.1),
        ("schedule", "step"),
        ("weight_decay", -0.1),
        ("max_grad_norm", float("inf")),
        ("seed", -1),
        ("precision", "fp16"),
        ("evaluations_per_epoch", 0),
        ("patience", 0),
        ("trackers", "wandb"),
    ],
)
def test_an_impossible_value_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=rf"TrainingSettings\.{field}: got .*allowed"):
        TrainingSettings(**{field: value})


def test_the_ends_of_the_ranges_are_allowed():
    settings = TrainingSettings(epochs=0, warmup=1.0, weight_decay=0, max_grad_norm=0, patience=1, trackers=["wandb"])
    assert settings.trackers == ("wandb",)


def test_a_child_class_names_itself_and_gives_its_training_fields():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Method(TrainingSettings):
        size: int = 1

    with pytest.raises(ConfigError, match=r"Method\.epochs"):
        Method(epochs=-1)
    assert Method(epochs=0.5, size=2).training_settings() == TrainingSettings(epochs=0.5)


def test_the_settings_do_not_load_torch():
    code = "import sys, bertcompress.training.settings, bertcompress.training.mapping; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
