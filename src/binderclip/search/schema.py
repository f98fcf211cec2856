"""The SQLite file: its tables, its version, and how an older version becomes this one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from binderclip.errors import BinderclipError, IndexStateError

__all__ = [
    "APPLICATION",
    "MIGRATIONS",
    "VERSION",
    "check",
    "connect",
    "plain_errors",
    "prepare",
    "read_as_is",
    "transaction",
]

APPLICATION = 0x62636C70  # "bclp", in the file's header
VERSION = 2

# What turns version n into n + 1. A released version's SQL never changes.
MIGRATIONS: dict[int, tuple[str, ...]] = {
    # 2: a content may have a vector for each of many times: the frames of a video
    1: (
        "CREATE TABLE vectors_2 (id INTEGER PRIMARY KEY AUTOINCREMENT, content INTEGER NOT NULL REFERENCES contents (id),"
        " model INTEGER NOT NULL REFERENCES models (id), time REAL, vector BLOB NOT NULL)",
        "INSERT INTO vectors_2 (id, content, model, vector) SELECT id, content, model, vector FROM vectors ORDER BY id",
        "DROP TABLE vectors",
        "ALTER TABLE vectors_2 RENAME TO vectors",
        "CREATE INDEX vectors_model ON vectors (model)",
        "CREATE UNIQUE INDEX vectors_once ON vectors (content, model, ifnull(time, -1))",
        "CREATE TABLE unfinished (content INTEGER NOT NULL REFERENCES contents (id),"
        " model INTEGER NOT NULL REFERENCES models (id), PRIMARY KEY (content, model)) WITHOUT ROWID",
    ),
}

_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "CREATE TABLE models (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, name TEXT NOT NULL,"
    " dim INTEGER NOT NULL)",
    "CREATE TABLE roots (path BLOB PRIMARY KEY) WITHOUT ROWID",
    # What a file holds: two paths to one content share the row, and with it the vectors.
    "CREATE TABLE contents (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, width INTEGER NOT NULL,"
    " height INTEGER NOT NULL, taken TEXT)",
    # state: 0 there, 1 missing when its folder was last read
    "CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, shown TEXT NOT NULL,"
    " content INTEGER NOT NULL REFERENCES contents (id), size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,"
    " state INTEGER NOT NULL DEFAULT 0)",
    "CREATE INDEX files_content ON files (content)",
    # AUTOINCREMENT: an id is never used twice, so "what came after id n" is what a cache lacks.
    # time: seconds of a frame of a video, NULL for a picture
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY AUTOINCREMENT, content INTEGER NOT NULL REFERENCES contents (id),"
    " model INTEGER NOT NULL REFERENCES models (id), time REAL, vector BLOB NOT NULL)",
    "CREATE INDEX vectors_model ON vectors (model)",
    "CREATE UNIQUE INDEX vectors_once ON vectors (content, model, ifnull(time, -1))",
    # Videos of which only the first frames have their vectors: the run was stopped, or is going on.
    "CREATE TABLE unfinished (content INTEGER NOT NULL REFERENCES contents (id),"
    " model INTEGER NOT NULL REFERENCES models (id), PRIMARY KEY (content, model)) WITHOUT ROWID",
    "CREATE TABLE problems (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,"
    " reason TEXT NOT NULL) WITHOUT ROWID",
)


def connect(path: Path) -> sqlite3.Connection:
    """Opens the file with the settings that every reader and the writer share.

    Write-ahead log: readers never wait for the writer. `synchronous=FULL`: a committed batch is on the disk, so a
    power cut loses one batch and not the last thousand pages; it costs one flush a batch.

    In a folder that may not be written (a shared disk, a CD) a file without a log is read as it is.

    Raises:
        IndexStateError: it cannot be opened, or is another kind of file.
    """
    place: str | Path = path
    fixed = path.is_file() and not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
    if fixed:
        place = path.absolute().as_uri() + "?immutable=1"
    try:
        link = sqlite3.connect(place, uri=fixed, timeout=60.0, isolation_level=None, check_same_thread=False)
        link.execute("PRAGMA busy_timeout=60000")
        link.execute("PRAGMA synchronous=FULL")
        link.execute("PRAGMA foreign_keys=ON")
        link.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        raise IndexStateError(f"{path} cannot be read as an index ({error}): name another folder with --db") from None
    return link


@contextmanager
def transaction(link: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All of the block's statements, or none of them.

    Raises:
        IndexStateError: the disk refused (full, read-only, an input/output error).
    """
    with plain_errors():
        link.execute(f"BEGIN {kind}")
        try:
            yield
            link.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
                if link.in_transaction:
                    link.execute("ROLLBACK")
            raise


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns what SQLite and the disk raise into one line.

    Raises:
        IndexStateError: the disk refused, or the file is damaged.
    """
    try:
        yield
    except BinderclipError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise IndexStateError(
            f"the index could not be read or written ({error}): see that its disk is there, has room and may be written,"
            " then repeat; nothing that was committed is lost"
        ) from error


def prepare(
    link: sqlite3.Connection, *, version: int = VERSION, migrations: Mapping[int, tuple[str, ...]] | None = None
) -> None:
    """Makes the tables in an empty file, or migrates an older one, each version in one transaction.

    Raises:
        IndexStateError: the file is newer than this code, or some other program's.
    """
    steps = MIGRATIONS if migrations is None else migrations
    link.execute("PRAGMA journal_mode=WAL")
    check(link, version=version)
    with transaction(link):
        if _number(link, "user_version") == 0:
            for statement in _TABLES:
                link.execute(statement)
            link.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("id", uuid.uuid4().hex), ("generation", 0), ("removals", 0), ("model", "")],
            )
            link.execute(f"PRAGMA application_id={APPLICATION}")
            link.execute(f"PRAGMA user_version={version}")
    while (found := _number(link, "user_version")) < version:
        with transaction(link):
            for statement in steps[found]:
                link.execute(statement)
            link.execute(f"PRAGMA user_version={found + 1}")


def read_as_is(link: sqlite3.Connection, found: int) -> None:
    """Lets this code read an older file that may not be written, without changing it.

    Raises:
        IndexStateError: that older version cannot be read so.
    """
    if found != 1:
        raise IndexStateError(
            f"the index has schema {found} and may not be written: copy it to where it can be migrated"
        )
    # Names of the temporary schema come before those of the file.
    link.execute("CREATE TEMP VIEW vectors AS SELECT id, content, model, NULL AS time, vector FROM main.vectors")
    link.execute("CREATE TEMP VIEW unfinished AS SELECT 0 AS content, 0 AS model WHERE 0")


def check(link: sqlite3.Connection, *, version: int = VERSION) -> int:
    """The version of an opened file; 0 for an empty one.

    Raises:
        IndexStateError: the file is newer than this code, or some other program's.
    """
    found = _number(link, "user_version")
    if found > version:
        raise IndexStateError(
            f"the index has schema {found} and this binderclip knows {version}: pip install --upgrade binderclip"
        )
    empty = link.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if not empty and _number(link, "application_id") != APPLICATION:
        raise IndexStateError("the file is another program's SQLite database: name another folder with --db")
    return found


def _number(link: sqlite3.Connection, pragma: str) -> int:
    return int(link.execute(f"PRAGMA {pragma}").fetchone()[0])
