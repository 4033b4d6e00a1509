"""The command line: each command is a few lines over the library, which it imports only when it runs."""

from __future__ import annotations

import logging
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from bertcompress import __version__
from bertcompress.console import downstream_table, plan_notes, plan_table, results_table
from bertcompress.errors import BertCompressError, ConfigError, allowed

if TYPE_CHECKING:
    from rich.console import Console

    from bertcompress.config import RunConfig
    from bertcompress.data.tasks import Task
    from bertcompress.model import Model

USAGE_ERROR, INTERRUPTED = 2, 130


class _Commands(TyperGroup):
    """Commands whose expected failures end in one message on stderr and no traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; the library's own errors become exit code 2, Ctrl-C becomes 130."""
        try:
            return super().invoke(ctx)
        except BertCompressError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            count = len(getattr(error, "problems", ()))  # of a configuration
            typer.echo(f"{count} problems:\n{error}" if count > 1 else str(error), err=True)
            raise typer.Exit(USAGE_ERROR) from None
        except KeyboardInterrupt:
            typer.echo(f"\nStopped.{_how_to_resume(ctx.invoked_subcommand)}", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _how_to_resume(command: str | None) -> str:
    if command not in ("run", "suite"):
        return ""
    again = shlex.join(["bertcompress", *sys.argv[1:]])
    return f" Finished steps are kept; to go on from the last checkpoint, run the same again:\n  {again}"


app = typer.Typer(
    cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
Config = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run's YAML file.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value: compress.0.epochs=2. May be given again."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="The run's folder; default: runs/ and the file's name.")
]


def main() -> None:
    """Run the command line; `--debug` may stand anywhere."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments = ["--debug", *(each for each in arguments if each != "--debug")]
    app(args=arguments, prog_name="bertcompress")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bertcompress {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Make BERT-family encoders small and fast, and measure what it cost and brought."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("bertcompress")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


@app.command()
def run(config: Config, set_: Sets = None, output: Output = None) -> None:
    """Do everything a file says: fine-tune the teacher, compress, evaluate, report. Resumes where it stopped."""
    loaded = _load(config, set_)
    folder = output or Path(loaded.output or f"runs/{config.stem}")
    import json

    from bertcompress import runs

    report = runs.run(loaded, folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    _console().print(results_table(results))
    if any("downstream" in model for model in results["models"]):
        _console().print(downstream_table(results))
    typer.echo(f"Report: {report}")


@app.command()
def worker(config: Config, set_: Sets = None, output: Output = None) -> None:
    """Share the search of a run that another process does: same file, same --set, same --output."""
    loaded = _load(config, set_)
    folder = output or Path(loaded.output or f"runs/{config.stem}")
    from bertcompress import runs

    steps = runs.assist(loaded, folder)
    typer.echo(f"Shared: {', '.join(steps)}" if steps else "Nothing was left to share.")


@app.command()
def plan(config: Config, set_: Sets = None) -> None:
    """Show size, MACs, time, memory and energy of every step; trains nothing, but times a few random steps."""
    loaded = _load(config, set_)
    from bertcompress import runs
    from bertcompress.evaluation.hardware import load_average, usable_cores

    notes = plan_notes(loaded.export, load_average(), usable_cores())  # the load before this adds to it
    _console().print(plan_table(loaded.name, runs.plan(loaded), notes))


@app.command()
def suite(
    config: Annotated[Path, typer.Argument(metavar="SUITE.yaml", help="The suite's YAML file.", show_default=False)],
    set_: Sets = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The suite's folder; default: runs/ and the file's name.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="TASK", help="Run this task only, and what it starts from. May be given again."),
    ] = None,
) -> None:
    """Run several tasks with several seeds each; one table of medians. Resumes where it stopped."""
    from bertcompress.suite import load_suite
    from bertcompress.suite.config import only_of

    loaded, wanted = load_suite(config, set_ or ()), only_of(only or ())
    loaded.order(wanted)  # before the slow imports
    from bertcompress.suite import run_suite
    from bertcompress.suite.tables import notes, suite_table

    result = run_suite(loaded, output=output or Path(loaded.output or f"runs/{config.stem}"), only=wanted)
    _console().print(suite_table(result.results))
    for note in notes(result.results):
        typer.echo(note)
    typer.echo(f"Table: {result.folder / 'suite.md'}")
    if result.failures:
        raise typer.Exit(1)


@app.command()
def submit(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_SUITE", help="Its folder.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    model: Annotated[str, typer.Option("--model", help="student (the last), teacher, or a step's name.")] = "student",
    seed: Annotated[int | None, typer.Option("--seed", help="Of a suite; default: each task's best.")] = None,
) -> None:
    """Write predictions on GLUE's hidden test sets as its leaderboard takes them."""
    from bertcompress.suite import write_submission

    made = write_submission(source, output, model=model, seed=seed)
    for name, about in made.written.items():
        typer.echo(f"{name}: {about['model']} of {about['run']}")
    for name, reason in made.missing.items():
        typer.echo(f"{name}: not written; {reason}")
    if made.diagnostic is not None:
        typer.echo(f"AX: Matthews correlation {made.diagnostic:.3f}")
    if made.missing:
        typer.echo("The leaderboard takes complete submissions only.")
    typer.echo(f"Files: {made.folder}")


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model's folder or name, or an exported file.", show_default=False),
    ],
    task: Annotated[str, typer.Option("--task", help="A task's name or file.", show_default=False)],
    teacher: Annotated[str | None, typer.Option("--teacher", help="The model to be loyal to, the baseline.")] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Of accuracy,loyalty,efficiency; default: all that can be had.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Default: test if its labels are known.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32 or, for an OpenVINO file, bf16; only for exported files.")
    ] = None,
) -> None:
    """Score a model on a task: accuracy, loyalty to its teacher, size and speed."""
    names = _names(metrics)  # before the slow imports
    from bertcompress.data.tasks import load_task

    loaded = load_task(task)
    from bertcompress.evaluation.evaluate import DEFAULT_METRICS
    from bertcompress.evaluation.evaluate import evaluate as measure
    from bertcompress.export.runtime import ExportedModel
    from bertcompress.model import Model

    baseline = Model.from_pretrained(teacher, loaded) if teacher else None
    subject = _subject(model, loaded, precision)
    typer.echo(str(measure(subject, loaded, teacher=baseline, metrics=names or DEFAULT_METRICS, split=split)))
    if isinstance(subject, ExportedModel):
        typer.echo(f"{subject.path} ran in {subject.runtime}")


def _subject(model: str, task: Task, precision: str | None) -> Model:
    from bertcompress.export import runtime
    from bertcompress.model import Model

    if precision is None:
        return Model.from_pretrained(model, task)
    if not runtime.is_exported(model):
        raise ConfigError(
            f"--precision: got {precision!r} for {model}, which is not an exported file (.onnx, .xml); leave it out."
        )
    return runtime.load(model, task, precision=precision)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder or name.", show_default=False)],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="onnx, openvino, or bert: a plain transformers BERT; default: as the output's name says, or onnx.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file, or bert's folder; default: beside the model.")
    ] = None,
) -> None:
    """Write a model for ONNX Runtime, OpenVINO or plain transformers, and check what was written."""
    suffixes = {"onnx": ".onnx", "openvino": ".xml", "bert": "-bert"}
    if to is None:
        to = "openvino" if output is not None and output.suffix == ".xml" else "onnx"
    if to not in suffixes:
        raise ConfigError(f"--to: got {to!r}, allowed are {allowed(suffixes)}.")
    from bertcompress.model import Model

    place = output or Path(f"{model.rstrip('/')}{suffixes[to]}")
    subject = Model.from_pretrained(model)
    if to == "bert":
        subject.to_bert().save_pretrained(place)
        subject.tokenizer.save_pretrained(place)
        typer.echo(f"{place}: a plain BERT, {subject.num_parameters() / 1e6:.2f} M parameters")
    else:
        typer.echo(str(subject.export(place, to)))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write; default: the only run's.")
    ] = None,
) -> None:
    """Write one HTML page and a Markdown file that compare runs."""
    from bertcompress.report import write_report

    typer.echo(f"Report: {write_report(runs, output)}")


@app.command()
def methods() -> None:
    """List the compression methods with their settings and defaults."""
    from bertcompress.compressors import METHODS
    from bertcompress.config.schema import first_sentence
    from bertcompress.config.values import fields_of
    from bertcompress.training.settings import TrainingSettings

    shared = tuple(fields_of(TrainingSettings))
    for name, cls in METHODS.items():
        trains = issubclass(cls, TrainingSettings)
        typer.echo(f"{name}: {first_sentence(cls)}{' Also takes the training settings.' if trains else ''}")
        _list_fields(cls, leave_out=shared if trains else ())
    typer.echo("training settings:")
    _list_fields(TrainingSettings)


@app.command()
def tasks() -> None:
    """List the tasks that load by name."""
    from bertcompress.data.tasks import TASKS

    width = max(map(len, TASKS))
    for name, about in TASKS.items():
        typer.echo(f"{name:{width}}  {about.kind:18}  {about.metric:20}  {about.source}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a run's YAML file, for editors."""
    import json

    from bertcompress.config import schema as make

    typer.echo(json.dumps(make(), indent=2))


@app.command()
def doctor() -> None:
    """Show what this machine and installation can do, with a hint for whatever is missing."""
    from bertcompress.doctor import examine

    findings = examine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        typer.echo(f"{finding.mark} {finding.name:{width}}  {finding.found}")
        if finding.hint:
            typer.echo(f"  {'':{width}}  -> {finding.hint}")
    if any(finding.broken for finding in findings):
        raise typer.Exit(1)


def _load(config: Path, set_: Sequence[str] | None) -> RunConfig:
    from bertcompress.config import load_config

    return load_config(config, set_ or ())


def _names(metrics: str | None) -> list[str]:
    """Return the names in `--metrics`; none stands for all that can be had."""
    from bertcompress.config import EVALUATIONS

    names = [name.strip() for name in metrics.split(",")] if metrics is not None else []
    for name in names:
        if name not in EVALUATIONS:
            raise ConfigError(f"--metrics: got {name!r}, allowed are {allowed(EVALUATIONS)}, with commas between them.")
    return names


def _list_fields(cls: type[Any], leave_out: Sequence[str] = ()) -> None:
    from bertcompress.config.schema import attributes, default_of
    from bertcompress.config.values import describe, fields_of, is_required

    about = attributes(cls)
    for name, (hint, field) in fields_of(cls).items():
        if name not in leave_out:
            default = "required" if is_required(field) else f"default {default_of(field)!r}"
            typer.echo(f"    {name} ({describe(hint)}; {default}): {about.get(name, '')}".rstrip(": "))


def _console() -> Console:
    """Return rich's console; a file or pipe has no width, so tables are not cut there."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)
