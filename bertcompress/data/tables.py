"""Arrow tables that are written batch by batch and move from memory to a file once they grow large."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bertcompress.data.entries import MAKING, lock_path, locked
from bertcompress.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

IN_MEMORY = 64 << 20  # bytes; a split with more of them is kept in a file, which is mapped into memory


class Scratch:
    """A folder for files in the making, made when the first is needed and removed at the end of a `with` block.

    Its lock is held for as long, so that the folders of processes that were killed are known by theirs.
    """

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self._folder: Path | None = None
        self._open = contextlib.ExitStack()

    def path(self, name: str) -> Path:
        """Return the path of a file in the folder.

        Raises:
            DataError: if the folder cannot be made.
        """
        if self._folder is None:
            with writing(self.parent):
                folder = self.parent / (MAKING + secrets.token_hex(8))
                self._open.enter_context(locked(self.parent, folder.name))
                self._open.callback(_clear, folder)
                folder.mkdir()
                self._folder = folder
        return self._folder / name

    def __enter__(self) -> Scratch:
        """Return the folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the folder and what is left in it."""
        self._open.close()


def _clear(folder: Path) -> None:
    """Remove a folder for files in the making, and the lock's file, which no other folder will ever need."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        lock_path(folder.parent, folder.name).unlink()


class Sink:
    """Receives record batches; keeps them in memory up to a size, and all of them in a file from there on.

    Attributes:
        rows: received so far.
        path: of the file; None while everything is in memory.
    """

    def __init__(self, schema: pyarrow.Schema, name: str, scratch: Scratch, limit: int | None = None) -> None:
        self.schema, self.name, self.scratch = schema, name, scratch
        self.limit = IN_MEMORY if limit is None else limit
        self.rows = 0
        self.path: Path | None = None
        self._size = 0
        self._kept: list[pyarrow.RecordBatch] = []
        self._writer: pyarrow.RecordBatchStreamWriter | None = None

    def write(self, batch: pyarrow.RecordBatch) -> None:
        """Add rows.

        Raises:
            DataError: if the file cannot be written.
        """
        if not batch.num_rows:
            return
        self.rows += batch.num_rows
        if self.path is not None:
            with writing(self.path.parent):
                self._writer.write_batch(batch)  # type: ignore[union-attr]
            return
        self._kept.append(batch)
        self._size += batch.nbytes
        if self._size > self.limit:
            self.spill()

    def spill(self) -> Path:
        """Move what there is, and all that comes, to the file and return its path."""
        import pyarrow

        if self.path is not None:
            return self.path
        path = self.scratch.path(self.name)
        with writing(path.parent):
            self._writer = pyarrow.ipc.new_stream(str(path), self.schema)
            for batch in self._kept:
                self._writer.write_batch(batch)
        self._kept.clear()
        self.path = path
        return path

    def close(self) -> None:
        """End the file, if there is one; nothing can be written any more."""
        if self._writer is not None:
            with writing(self.scratch.parent):
                self._writer.close()
            self._writer = None

    def batches(self) -> Iterator[pyarrow.RecordBatch]:
        """Yield what was written, in order, without mapping the file into memory; the sink has to be closed."""
        import pyarrow

        if self.path is None:
            yield from self._kept
            return
        with pyarrow.OSFile(str(self.path)) as file, pyarrow.ipc.open_stream(file) as reader:
            yield from reader

    def remove(self) -> None:
        """Drop what was written."""
        self._kept.clear()
        if self.path is not None:
            os.unlink(self.path)

    def dataset(self) -> Dataset:
        """Return what was written and is in memory as a data set."""
        import pyarrow
        from datasets import Dataset
        from datasets.table import InMemoryTable

        return Dataset(InMemoryTable(pyarrow.Table.from_batches(self._kept, schema=self.schema)))


def mapped_dataset(path: Path) -> Dataset:
    """Return the data set in an Arrow file, mapped into memory: only what is looked at is read."""
    from datasets import Dataset

    return Dataset.from_file(str(path))


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the system says of a full disk or a read-only folder into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cache {folder}: {error}; set $BERTCOMPRESS_CACHE to a folder that can be written and has room."
        ) from error
