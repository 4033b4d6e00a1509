"""Tasks from files of one's own, described by a small mapping (in YAML, or a Python dict).

    name: tickets
    kind: classification        # regression | tagging | question_answering | embedding | unlabelled
    train: data/train.csv       # csv, tsv, jsonl, parquet, txt; .gz of each; relative to the mapping's file
    validation: data/dev.csv    # left out: 10% of train, by a hash of the text
    test: data/test.csv         # may be left out; a test file without the label column has hidden labels
    text: body                  # column name or number; [premise, hypothesis] for pairs
    label: team                 # column name or number (from 0; -1 is the last)
    labels: [billing, tech]     # order of the classes; left out: those of train, sorted
    columns: [id, team, body]   # names of the columns, for csv and tsv files without a header line
    id: ticket                  # column of the examples' ids, all different; left out: `id`, if there is one
    encoding: cp1252            # of text files; left out: UTF-8
    metric: accuracy            # or another metric of the kind

Where every column is given by number and there are no `columns`, csv and tsv files have no header line. A folder that
`datasets` saved may stand for a file, and `data: folder` for all splits. An `embedding` task is plain text, or pairs
with a `label` that says how similar they are. `tagging` reads conll, conllu, iob, bio, txt and tsv files, one word
in a line (`text`: its column, 0 if left out; `label`: the tag's, -1), or lists of words and tags in jsonl, parquet and
folders; `question_answering` reads json files in the form of SQuAD.

Files are read row by row, but for those in the form of SQuAD, which are read whole and stay in memory. A split of more
than 64 MiB is written to the user's cache and mapped into memory, under a name made of the bytes of the files, so that
the next run finds it there; what was not used for long is deleted once the cache holds more than 10 GiB of such tables.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertcompress.data import assemble, kept, saved
from bertcompress.data.base import Task
from bertcompress.data.columns import Header, Wanted, class_names, ending_of, format_of, read_rows
from bertcompress.data.kinds import METRICS
from bertcompress.data.mapping import SPLITS, Mapped, check_mapping, needs_two_classes, read_mapping
from bertcompress.data.notes import written_notes
from bertcompress.data.schemes import find_scheme, metric_of_tags, scheme_has, tag_order, tags_of, usual_tag
from bertcompress.data.staging import Layout, Staged, label_text, stage
from bertcompress.data.tables import Scratch, Sink
from bertcompress.errors import ConfigError, DataError, allowed

log = logging.getLogger(__name__)

CONLL = ("conll", "conllu", "iob", "bio", "txt", "tsv")
LISTS = ("jsonl", "parquet", "folder")  # that can hold lists of words and tags


def load_mapping_file(path: Path) -> Task:
    """Return the task that a YAML file describes; its paths are relative to it.

    Raises:
        ConfigError: naming file, line and key of a mistake in the mapping.
        DataError: naming file, line and column of a mistake in the data.
    """
    values, places = read_mapping(path)
    return load_mapping(values, path.parent, places)


def load_mapping(values: Mapping[str, Any], folder: Path, places: Mapping[str, str] | None = None) -> Task:
    """Return the task that a mapping describes.

    Args:
        values: the mapping; see the module's docstring for its keys.
        folder: that relative paths start from.
        places: key -> where it stands, such as `tickets.yaml, line 3`, for messages.

    Raises:
        ConfigError: for a mistake in the mapping.
        DataError: for a mistake in the data.
    """
    mapped = check_mapping(values, places or {})
    paths = _paths(mapped, folder)
    if mapped.kind == "question_answering":
        return _load_squad(mapped, paths)
    if mapped.kind == "tagging" and not all(_format(path) in LISTS for path in paths.values()):
        return _load_conll(mapped, paths)
    return _Loader(mapped, paths).load()


def _paths(mapped: Mapped, folder: Path) -> dict[str, Path]:
    """Return the file, or the folder of a single data set, of each split: train, validation, test, others."""
    if "data" in mapped.files:
        whole = _located(mapped, "data", folder)
        if not whole.is_dir():
            raise DataError(f"{whole}: there is no such folder; data names one that `datasets` saved.")
        found = saved.split_folders(whole)
        found = {"train": whole} if "" in found else found
        return {split: found[split] for split in (*SPLITS, *found) if split in found}
    paths = {}
    for split in mapped.files:
        path = _located(mapped, split, folder)
        paths[split] = saved.split_folder(path, split) if path.is_dir() else path
        if not path.exists():
            raise DataError(f"{path}: there is no such file.")
    return paths


def _located(mapped: Mapped, key: str, folder: Path) -> Path:
    try:
        path = folder / Path(mapped.files[key]).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name that no file system can hold, or the home of nobody
        got = f"{mapped.files[key]!r:.80}"
        raise ConfigError(f"{mapped.place(key)}: got {got}, allowed is the path of a file ({error}).") from None
    return path


def _format(path: Path) -> str:
    return "folder" if path.is_dir() else ending_of(path)


def _load_conll(mapped: Mapped, paths: Mapping[str, Path]) -> Task:
    """Return a tagging task from files with one word in a line."""
    from bertcompress.data.conll_task import load_conll_files

    for path in paths.values():
        if _format(path) not in CONLL:
            both = "all splits of a task in one of these, or all in " + allowed(LISTS[:2]) + " or folders"
            raise DataError(
                f"{path}: its format is {_format(path)!r}, allowed for tagging are {allowed(CONLL)}; {both}."
            )
    _refuse_keys(
        mapped, ("columns", "encoding", "id"), "files with one word in a line, which are UTF-8 without a header"
    )
    word = mapped.text[0] if mapped.text else None
    return load_conll_files(
        mapped.name,
        paths,
        word=word,
        tag=mapped.label,
        labels=mapped.labels,
        metric=mapped.metric,
        metric_place=mapped.place("metric"),
    )


def _load_squad(mapped: Mapped, paths: Mapping[str, Path]) -> Task:
    """Return a task of question answering from SQuAD's json files."""
    from bertcompress.data.squad import load_squad_files

    for path in paths.values():
        if _format(path) != "json":
            raise DataError(
                f"{path}: its format is {_format(path)!r}, allowed for question_answering is 'json' in the form of "
                "SQuAD, also with .gz."
            )
    return load_squad_files(mapped.name, paths, metric=mapped.metric)


def _refuse_keys(mapped: Mapped, keys: tuple[str, ...], what: str) -> None:
    for key in keys:
        if getattr(mapped, key) not in (None, False):
            raise ConfigError(f"{mapped.place(key)}: got {getattr(mapped, key)!r}, allowed is nothing for {what}.")


class _Loader:
    """Reads the splits of a task, checks them against each other, and gives labels their numbers."""

    def __init__(self, mapped: Mapped, paths: Mapping[str, Path]) -> None:
        self.mapped, self.paths, self.kind = mapped, paths, mapped.kind
        self.late: dict[str, list[str]] = {}  # split -> tags that the splits before do not have
        self.text = mapped.text or self._default_text()
        if self.kind == "tagging" and mapped.label is None:
            raise ConfigError(f"{mapped.place('label')}: it is missing; name the column that holds the lists of tags.")
        self.columns = (*self.text, *((mapped.label,) if mapped.label is not None else ()))
        ids = () if mapped.id is None or isinstance(mapped.id, bool) else (mapped.id,)
        self.by_number = mapped.columns is None and all(isinstance(each, int) for each in (*self.columns, *ids))
        self.header = Header(mapped.columns, first_line=mapped.columns is None and not self.by_number)

    def _default_text(self) -> tuple[str | int, ...]:
        """Return the column of the text where none was named, which is possible in txt files alone."""
        for path in self.paths.values():
            if self.kind == "tagging" or format_of(path) != "txt":
                what = "the lists of words" if self.kind == "tagging" else "the text"
                raise ConfigError(
                    f"{self.mapped.place('text')}: it is missing; name the column of {path} that holds {what}."
                )
        return ("text",)

    def load(self) -> Task:
        """Return the task, from the cache if it is there."""
        mapped = self.mapped
        asked = {"kind": self.kind, "text": mapped.text, "label": mapped.label, "labels": mapped.labels}
        asked |= {"columns": mapped.columns, "id": mapped.id, "encoding": mapped.encoding}
        return self._task(*kept.load(self.paths, asked, self._read))

    def _task(self, facts: kept.Facts, splits: Mapping[str, Any]) -> Task:
        metric = self._metric(facts)
        if self.kind == "tagging" and len(facts.labels) < 2:
            first = next(iter(self.paths.values()))
            raise DataError(f"{first}: its tags are {list(facts.labels)}, a task needs at least two.")
        notes = tuple(written_notes(facts.known, self.paths, facts.labels, metric))
        for note in notes:
            log.warning("task %s: %s", self.mapped.name, note)
        usual = {split: splits[split] for split in SPLITS if split in splits}
        extra = {split: data for split, data in splits.items() if split not in SPLITS}
        source = ", ".join(str(path) for path in self.paths.values())
        return Task(
            self.mapped.name,
            self.kind,
            facts.labels,
            metric,
            **usual,
            extra=extra,
            source=source,
            notes=notes,
            scheme=facts.scheme,
        )

    def _metric(self, facts: kept.Facts) -> str:
        """Return the metric that was asked for, or the usual one; refuse one that the labels do not allow."""
        metric, where = self.mapped.metric, self.mapped.place("metric")
        if self.kind == "tagging":
            return metric_of_tags(metric, facts.scheme, where)
        if metric is None:
            return "" if self.kind == "embedding" and self.mapped.label is None else METRICS[self.kind][0]
        if self.kind == "classification" and (wrong := needs_two_classes(metric, facts.labels)):
            raise ConfigError(f"{where}: got {metric!r}, allowed is {wrong}.")
        return metric

    def _read(self, scratch: Scratch) -> tuple[kept.Facts, dict[str, Sink]]:
        """Return what was read: facts and the finished splits."""
        staged = {split: self._stage(split, path, scratch) for split, path in self.paths.items()}
        labels, numbers, scheme = self._labels(staged)
        known: dict[str, Any] = {"late": self.late}
        known["blank"] = {split: [each.blank, each.first_blank] for split, each in staged.items() if each.blank}
        if "train" in staged and self.kind == "classification":
            found = staged["train"].counts.items()
            known["counts"] = {labels[numbers["train"][name]]: count for name, count in found}
        if "train" in staged:
            others = {split: each for split, each in staged.items() if split != "train"}
            shared = {split: assemble.overlap(staged["train"], each) for split, each in others.items()}
            known["shared"] = {split: [count, others[split].examples] for split, count in shared.items() if count}
        sinks: dict[str, Sink] = {}
        for split, each in staged.items():
            if split == "train" and "validation" not in staged:
                sinks |= assemble.finish_held_out(self.kind, each, numbers[split], scratch)
                known["held"] = sinks["validation"].rows
            else:
                sinks[split] = assemble.finish(split, self.kind, each, numbers[split], scratch)
        return kept.Facts(labels, scheme, known), sinks

    def _stage(self, split: str, path: Path, scratch: Scratch) -> Staged:
        """Read one file and check it by itself."""
        mapped = self.mapped
        ids = mapped.id
        if ids is None:
            ids = "id" if "id" not in self.columns else False
        layout = Layout(self.kind, self.text, mapped.label, None if isinstance(ids, bool) else ids)
        hideable = split not in ("train", "validation")
        optional = {mapped.label} if hideable and mapped.label is not None else set()
        if mapped.id is None and layout.id is not None:
            optional.add(layout.id)
        wanted = Wanted(layout.columns(), frozenset(optional), self.header, mapped.encoding)
        staged = stage(path, layout, wanted, split, scratch)
        if self.by_number and self.kind == "classification" and format_of(path) in ("csv", "tsv"):
            assemble.refuse_header(staged)
        assemble.refuse_missing(staged, hideable=hideable)
        for pair in assemble.repeated_ids(staged):
            self._refuse_id(staged, wanted, pair)
        return staged

    def _refuse_id(self, staged: Staged, wanted: Wanted, lines: tuple[int, int]) -> None:
        """Refuse two lines with the same id; their hashes may agree by chance, so they are read again."""
        found = [label_text(cells[-1]) for number, cells in read_rows(staged.path, wanted) if number in lines]
        if len(found) == 2 and found[0] == found[1]:
            column = wanted.columns[-1]
            raise DataError(
                f"{staged.where(lines[1], column)}: got {found[0]!r:.80}, which is in line {lines[0]} already, allowed "
                "are different ids; take one of the two out, or say `id: false` if the column is not an id."
            )

    def _labels(self, staged: Mapping[str, Staged]) -> tuple[tuple[str, ...], dict[str, dict[str, int]], str]:
        """Return the names of the classes, each split's numbers of them, and the scheme of tags."""
        if self.kind not in ("classification", "tagging"):
            return (), {split: {} for split in staged}, ""
        first = next(iter(staged.values()))
        given = self.mapped.labels
        labels = given or class_names(first.path, self.mapped.label)
        fixed = bool(labels)
        labels = labels or assemble.classes_of(first)
        if self.kind == "tagging" and not fixed:
            labels = self._with_rare_tags(staged, labels)
        numbers = {
            split: assemble.numbers_of(each, labels, by_number=given is not None) for split, each in staged.items()
        }
        if self.kind == "tagging":
            return _spans(first, labels, numbers, fixed=fixed)
        return labels, numbers, ""

    def _with_rare_tags(self, staged: Mapping[str, Staged], labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return the tags with those that only later splits have: rare ones often are in no sentence of train."""
        for split, each in staged.items():
            if more := sorted(each.counts.keys() - set(labels)):
                self.late[split] = more
                labels = (*labels, *more)
        return labels


def _spans(
    first: Staged, labels: tuple[str, ...], numbers: dict[str, dict[str, int]], *, fixed: bool
) -> tuple[tuple[str, ...], dict[str, dict[str, int]], str]:
    """Return tags, their numbers and their scheme, with the letters of IOBES where spans are marked."""
    own = next(iter(numbers.values()))
    scheme = find_scheme([[labels[own[tag]] for tag in tags] for tags in assemble.sample_of_tags(first)])
    if not scheme:
        return labels, numbers, ""
    if scheme == "IOB1":
        raise DataError(
            f"{first.path}, column {first.label!r}: the tags are in IOB1, where B stands only between spans of one "
            "type; allowed in lists of tags are IOB2 and IOBES (conll files may be in IOB1)."
        )
    usual = [usual_tag(tag) or tag for tag in labels]
    for tag, written in zip(labels, usual, strict=True):
        if not scheme_has(written, scheme):
            where = first.where(first.first[tag], first.label) if tag in first.first else str(first.path)
            raise DataError(f"{where}: the tag is {tag!r}; {tags_of(scheme)}.")
    ordered = tuple(dict.fromkeys(usual if fixed else sorted(usual, key=tag_order)))
    places = {name: number for number, name in enumerate(ordered)}
    renumbered = {
        split: {written: places[usual[number]] for written, number in each.items()} for split, each in numbers.items()
    }
    return ordered, renumbered, scheme
