from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.compressors import Distill, ExtractThenDistill, FineTune, PostTrainingQuantization
from bertcompress.config import ConfigFileError, RunConfig, TeacherConfig, load_config, parse_config
from bertcompress.config.checks import EVALUATIONS, MINILM, SCORED_KINDS
from bertcompress.encoder.families import OWN_TYPE
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.encoder.tensors import Quantization

QUICKSTART = """\
task: movie-reviews
teacher: {model: minilm-l6, epochs: 2}
compress:
  - method: extract_then_distill
    num_layers: 3
    learning_rate: 5e-5
  - method: post_training_quantization
"""
OWN_CONFIG = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}


@pytest.fixture(autouse=True)
def _no_hub_and_no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTCOMPRESS_DATA", raising=False)


def messages(text: str, *overrides: str, folder: Path | None = None) -> list[str]:
    with pytest.raises(ConfigFileError) as caught:
        parse_config(text, "c.yaml", overrides, folder=folder)
    return [str(problem) for problem in caught.value.problems]


def test_the_quickstart_becomes_dataclasses() -> None:
    assert parse_config(QUICKSTART, "configs/quickstart.yaml") == RunConfig(
        name="quickstart",
        task="movie-reviews",
        teacher=TeacherConfig(model="minilm-l6", fine_tune=FineTune(epochs=2.0)),
        compress=(ExtractThenDistill(num_layers=3, learning_rate=5e-5), PostTrainingQuantization()),
        evaluate=("accuracy", "loyalty", "efficiency"),
        export=(),
    )


def test_the_top_seed_is_for_every_step_that_has_none_of_its_own() -> None:
    text = "seed: 7\n" + QUICKSTART + "  - {method: distill, seed: 3}\n"
    config = parse_config(text.replace("  - method: post_training_quantization\n", ""))
    assert (config.seed, config.teacher.fine_tune.seed) == (7, 7)
    assert [step.seed for step in config.compress] == [7, 3]


def test_overrides_are_typed_by_yaml_and_may_add_what_is_not_there() -> None:
    overrides = [
        "compress.0.epochs=0.5",
        "compress.0.objective={soft: 1, hidden: 2}",
        "compress.0.learning_rate=1e-4",
        "teacher.seed=3",
        "compress.1.weight_bits=8",
        "name='2024'",
        "evaluate=[accuracy]",
    ]
    config = parse_config(QUICKSTART, "q.yaml", overrides)
    first = config.compress[0]
    assert (first.epochs, first.objective, first.learning_rate) == (0.5, {"soft": 1.0, "hidden": 2.0}, 1e-4)
    assert (config.teacher.fine_tune.seed, config.name, config.evaluate) == (3, "2024", ("accuracy",))


def test_an_override_repairs_a_value() -> None:
    assert parse_config(QUICKSTART.replace("num_layers: 3", "num_layers: 9"), "q.yaml", ["compress.0.num_layers=2"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "--set epochs: got no `key.path=value`, allowed is for example compress.0.epochs=2."),
        ("=3", "--set =3: got no `key.path=value`, allowed is for example compress.0.epochs=2."),
        ("a..b=3", "--set a..b=3: got no `key.path=value`, allowed is for example compress.0.epochs=2."),
        (
            "compress.2.epochs=1",
            "--set compress.2.epochs=1: compress.2.epochs: got '2' inside compress, which is "
            "[{'method': 'extract_then_distill', 'num_layers': 3, 'learning_rate': 5e-05},...; "
            "allowed are the numbers 0 to 1.",
        ),
        ("compress.first.epochs=1", "allowed are the numbers 0 to 1."),
        ("task.kind.x=1", "got 'kind' inside task, which is 'movie-reviews'; allowed is nothing inside it."),
        ("compress.0.epochs=true", "compress.0.epochs: got True, allowed is a number."),
        ("compress.0.epochs=[", "--set compress.0.epochs=[: compress.0.epochs: got brackets that do not end well"),
        ("compress.0.epochs=", "--set compress.0.epochs=: compress.0.epochs: got nothing, allowed is a number."),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    assert message in "\n".join(messages(QUICKSTART, override))


def test_resolved_settings_are_read_back_as_they_were(tmp_path: Path) -> None:
    config = parse_config(
        QUICKSTART + "  \nseed: 5\noutput: out\n",
        "q.yaml",
        ["name='1e5'", "compress.1={method: distill, mapping: [[1, 2]]}"],
    )
    written = tmp_path / "config.yaml"
    written.write_text(config.to_yaml(), encoding="utf-8")
    again = load_config(written)
    assert again == config
    assert "weight_decay: 0.01" in config.to_yaml()
    assert isinstance(again.compress[1], Distill)
    assert again.compress[1].mapping == ((1, 2),)


@settings(deadline=None, max_examples=50)
@given(
    st.builds(
        Distill,
        epochs=st.floats(0, 1e6),
        learning_rate=st.floats(1e-300, 1e3),
        batch_size=st.integers(1, 10**9),
        warmup=st.floats(0, 1),
        patience=st.none() | st.integers(1, 99),
        objective=st.dictionaries(st.sampled_from(["hard", "soft", "logits"]), st.floats(1e-9, 1e9), min_size=1),
        mapping=st.sampled_from(["uniform", "last", "skip"]) | st.lists(st.integers(0, 12), min_size=1).map(tuple),
        trackers=st.lists(st.text(min_size=1), max_size=2).map(tuple),
    )
)
def test_every_step_survives_being_written(step: Distill) -> None:
    config = RunConfig(
        name="any",
        task="tweets",
        teacher=TeacherConfig(model="minilm-l6", fine_tune=FineTune()),
        compress=(step,),
    )
    assert parse_config(config.to_yaml()) == config


def write_model(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**OWN_CONFIG, **changes}))
    return folder


def test_the_chain_is_planned_on_a_local_teacher(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "tiny")
    text = "task: tweets\nteacher: {model: models/tiny}\ncompress:\n- method: extract_then_distill\n  num_layers: 3\n"
    config = parse_config(text.replace("layers: 3", "layers: 2"), folder=tmp_path)
    assert config.teacher.model == str(tmp_path / "models" / "tiny")
    assert messages(text, folder=tmp_path) == [
        "c.yaml:5: compress.0.num_layers: got 3, allowed are 1 to 2, the teacher's layers."
    ]


def test_later_steps_are_planned_on_what_the_steps_before_make(tmp_path: Path) -> None:
    write_model(tmp_path / "tiny")
    text = (
        "task: tweets\nteacher: {model: tiny}\ncompress:\n"
        "- {method: extract_then_distill, num_layers: 1}\n- method: extract_then_distill\n  num_layers: 2\n"
    )
    (message,) = messages(text, folder=tmp_path)
    assert message.startswith("c.yaml:6: compress.1.num_layers: got 2, ")


def test_a_folder_of_one_s_data_is_a_teacher_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "models" / "tiny", num_hidden_layers=4)
    monkeypatch.setenv("BERTCOMPRESS_DATA", str(tmp_path))
    text = "task: tweets\nteacher: {model: tiny}\ncompress: [{method: extract_then_distill, num_layers: 5}]\n"
    (message,) = messages(text)
    assert message.endswith("got 5, allowed are 1 to 4, the teacher's layers.")


def test_a_teacher_that_is_quantized_already_is_refused(tmp_path: Path) -> None:
    spec = EncoderSpec(Embeddings(50, 8), uniform_layers(1, 8, 2, 16), quantization=Quantization())
    (tmp_path / "small").mkdir()
    values = {"model_type": OWN_TYPE, "encoder_spec": spec.to_dict()}
    (tmp_path / "small" / "config.json").write_text(json.dumps(values))
    (message,) = messages("task: tweets\nteacher:\n  model: small\n", folder=tmp_path)
    assert message.startswith("c.yaml:2: teacher: got fine_tune at this place: the model is quantized (int8)")


@pytest.mark.parametrize(
    ("content", "part"),
    [("{", "is damaged"), ("[]", "got a list"), ('{"model_type": "t5"}', "t5"), ("\x00", "is damaged")],
)
def test_a_teacher_that_is_no_encoder_is_refused_at_its_line(content: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text(content)
    (message,) = messages("task: tweets\nteacher:\n  model: odd\n", folder=tmp_path)
    assert message.startswith("c.yaml:3: teacher.model: got 'odd', which cannot be compressed: ")
    assert part in message


def test_a_model_of_the_hub_is_planned_when_it_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    step = "{method: extract_then_distill, num_layers: 99}"
    text = f"task: tweets\nteacher: {{model: someone/some-bert}}\ncompress: [{step}]\n"
    assert parse_config(text).teacher.model == "someone/some-bert"


def test_the_built_in_model_s_sizes_are_those_of_minilm() -> None:
    from bertcompress.encoder.convert import spec_from_config

    spec = spec_from_config(MINILM, Head())
    assert spec.layers == uniform_layers(6, 384, 12, 1536)
    assert spec == EncoderSpec(spec.embeddings, spec.layers, Head())
    assert (spec.embeddings.vocab_size, spec.embeddings.size, spec.embeddings.max_positions) == (30522, 384, 512)


def test_the_names_that_are_written_twice_agree() -> None:
    from bertcompress.evaluation.evaluate import METRICS
    from bertcompress.evaluation.judges import JUDGES

    assert EVALUATIONS == METRICS
    assert set(SCORED_KINDS) == set(JUDGES)


def own_task(folder: Path, **changes: str) -> str:
    (folder / "data").mkdir()
    (folder / "data" / "train.csv").write_text("body,team\nhello,a\nbye,b\n")
    lines = {"name": "tickets", "kind": "classification", "train": "data/train.csv", "text": "body", "label": "team"}
    return "".join(f"{key}: {value}\n" for key, value in {**lines, **changes}.items())


def indented(text: str) -> str:
    return "task:\n" + "".join(f"  {line}\n" for line in text.splitlines()) + "teacher: {model: minilm-l6}\n"


def test_a_task_of_one_s_own_gets_absolute_paths(tmp_path: Path) -> None:
    config = parse_config(indented(own_task(tmp_path)), folder=tmp_path)
    assert isinstance(config.task, dict)
    assert config.task["train"] == str(tmp_path / "data" / "train.csv")
    assert parse_config(config.to_yaml(), config.name) == config


def test_a_task_file_beside_the_configuration_is_checked_with_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "tickets.yaml").write_text(
        own_task(tmp_path, validation="data/dev.csv", metric="acuracy", kind="regression")
    )
    text = "task: tickets.yaml\nteacher: {model: minilm-l6}\n"
    found = messages(text, folder=tmp_path)
    assert [message.split(": ")[:2] for message in found] == [
        [f"{tmp_path}/tickets.yaml:6", "validation"],
        [f"{tmp_path}/tickets.yaml:7", "metric"],
    ]
    (tmp_path / "tickets.yaml").write_text("kind: regression\nkind: regression\n")
    assert any(
        message.startswith(f"{tmp_path}/tickets.yaml:2: kind: got the key 'kind' twice")
        for message in messages(text, folder=tmp_path)
    )
    (tmp_path / "tickets.yaml").write_text("- a\n")
    assert messages(text, folder=tmp_path) == [
        f"{tmp_path}/tickets.yaml:1: got ['a'], allowed is a mapping with kind, train, text and label."
    ]


def test_all_problems_of_a_task_are_found(tmp_path: Path) -> None:
    text = indented(own_task(tmp_path, text="[a, b, c]", metric="bleu", test="data/test.csv", colour="red"))
    found = messages(text, folder=tmp_path)
    assert sorted(message.split(": ")[1] for message in found) == [
        "task.colour",
        "task.metric",
        "task.test",
        "task.text",
    ]


@pytest.mark.parametrize("task", ["movie-reviews-rating", "squad", "conll2000", "stsb-embedding"])
def test_everything_is_measured_of_every_kind_of_task(task: str) -> None:
    config = parse_config(f"task: {task}\nteacher: {{model: minilm-l6}}\n")
    assert config.evaluate == EVALUATIONS


@pytest.mark.parametrize("folder", ["SST-2", "some-folder"])
def test_a_task_s_folder_is_known_by_its_name(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    text = f"task: ./{folder}\nteacher: {{model: minilm-l6}}\n"
    if folder == "SST-2":
        assert parse_config(text, folder=tmp_path).task == str(tmp_path / folder)
    else:
        assert "allowed are folders with the names of GLUE's tasks: CoLA, SST-2" in messages(text, folder=tmp_path)[0]


def test_names_that_no_file_system_can_hold_are_refused_like_others() -> None:
    long = "x" * 5000
    found = messages(f"task: {long}\nteacher: {{model: './{long}'}}\n")
    assert len(found) == 2
    assert all(len(message) < 700 for message in found)
