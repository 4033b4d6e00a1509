"""Opening the study that the processes of a search share."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bertcompress.errors import RunError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

WAIT_SECONDS = 120  # for a lock of an SQLite file, which other processes hold for moments


def open_storage(url: str | None, folder: Path | None) -> BaseStorage:
    """Return where a search is kept.

    Args:
        url: of a data base as SQLAlchemy writes it (`postgresql://...`), for processes on several machines; None is
            an SQLite file in `folder`, for processes on this one.
        folder: None, without a url, keeps the search in memory: it then ends with the process.

    Raises:
        RunError: the storage cannot be opened.
    """
    import optuna
    from filelock import FileLock

    optuna.logging.set_verbosity(logging.WARNING)
    if url is None and folder is None:
        return optuna.storages.InMemoryStorage()
    if url is None:
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "search.lock"):  # two processes must not make the tables at once
            return _open(f"sqlite:///{folder.resolve() / 'search.db'}")
    return _open(url)


def _open(url: str) -> BaseStorage:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    local = {"connect_args": {"timeout": WAIT_SECONDS}} if url.startswith("sqlite") else {}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=local)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise RunError(
            f"storage: {url.split('@')[-1]} cannot be opened ({error}); allowed is the address of a data base that "
            "SQLAlchemy knows and whose driver is installed, such as postgresql://user@host/name, or nothing."
        ) from error


@contextlib.contextmanager
def reached(owner: str) -> Iterator[None]:
    """Say in a sentence that a storage cannot be read or written any more; what it holds already is not lost.

    Raises:
        RunError: whatever optuna or the data base says.
    """
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{owner}: the search's storage cannot be used ({said}). What was evaluated is kept in it; see to the disk "
            "or the data base, and run the same again."
        ) from error


def open_study(storage: BaseStorage, name: str, sampler: BaseSampler) -> Study:
    """Return the study of this name, new or as other processes have left it; higher values are better."""
    import optuna

    return optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, direction="maximize", load_if_exists=True
    )
