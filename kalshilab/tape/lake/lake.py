"""The lake: all prints, by day, in Parquet files that any tool can read and that nothing loses silently.

    lake = Lake.create("lake/")
    lake.append(tape, markets)                 # one transaction; or stage(name, tape) ... and commit()
    lake.lazy(); lake.read(since, until)       # polars; kalshilab.signals.scan reads it out of core
    pl.scan_parquet("lake/trades/**/*.parquet")  # or duckdb, pandas, pyarrow, directly

**Never fewer rows.** The manifest (`kalshilab.tape.lake.manifest`) lists each file with its rows, size, hash and control
totals. A file that is missing, shorter, of another schema or of another day stops the reader with a `LakeError` that
names it and the command to run.

**Atomic changes.** A change is one rename; see `kalshilab.tape.lake.transaction`. One process at a time can change a lake;
a second one is refused. Readers need no lock: they read the generation they opened, and get an error once it is gone.

**Codes** are dense, assigned in the order in which tickers first arrive, never changed and never reused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from operator import index
from pathlib import Path

import polars as pl

from kalshilab import fs
from kalshilab.clock import from_datetime
from kalshilab.errors import LakeError, TapeError
from kalshilab.tape.lake import doctor
from kalshilab.tape.lake.doctor import Finding, RecordingGap
from kalshilab.tape.lake.manifest import (
    LISTING_SCHEMA,
    DayFile,
    Manifest,
    check_file,
    check_origin,
    claim,
    load,
    read_day,
    read_listing,
)
from kalshilab.tape.lake.merge import Appended, merge_into
from kalshilab.tape.lake.source import StoredTape
from kalshilab.tape.lake.staging import Incoming, path_of, staged, write_segment
from kalshilab.tape.lake.transaction import Transaction
from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA

__all__ = ["Lake"]


class Lake(StoredTape):
    """A folder of prints by day; `open` an existing one, or `create` one.

    Its properties describe one generation: the one it was opened at, or that of its last own change.

    >>> import tempfile
    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lake = Lake.create(folder)
    ...     done = lake.append(tape, markets)
    ...     again = lake.append(tape)
    ...     print(done.added == tape.height, again.added, lake.lazy().collect().equals(tape))
    True 0 True
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._lock = fs.FileLock(path / ".lock")
        self._writers = 0
        self._guard = threading.Lock()
        self._turn = threading.RLock()
        self._set(manifest)

    def _set(self, manifest: Manifest, listing: pl.DataFrame | None = None) -> None:
        self._manifest = manifest
        self._files = manifest.files(self._path)
        self._listing = listing

    @classmethod
    def open(cls, path: str | Path) -> Lake:
        """Open the lake in a folder.

        Raises:
            LakeError: the folder has no lake, or its manifest cannot be read.
        """
        root = Path(path).absolute()
        return cls(root, load(root))

    @classmethod
    def create(cls, path: str | Path) -> Lake:
        """Create an empty lake in a folder, and the folder if necessary; open the lake if there is one.

        Raises:
            LakeError: the existing lake cannot be read.
        """
        root = Path(path).absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LakeError(
                root,
                root,
                f"cannot be created as a folder ({error.strerror})",
                run="the same with another path",
            ) from None
        try:
            return cls.open(root)
        except LakeError as error:
            if error.file is not None:
                raise
        (root / "incoming").mkdir(exist_ok=True)
        with fs.locked(root / ".lock"):
            if not (root / "manifest.json").exists():
                transaction = Transaction(root, None)
                table = transaction.table(pl.DataFrame(schema=LISTING_SCHEMA))
                transaction.commit(Manifest(transaction.generation, table))
        return cls.open(root)

    @classmethod
    @contextmanager
    def begun(cls, path: str | Path) -> Iterator[Lake]:
        """Create a lake for a `with` block; if the block fails, remove a new lake that is still empty.

        The folders made for it are removed too.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         with Lake.begun(Path(folder, "lake")) as lake:
        ...             raise TapeError("nothing to put in")
        ...     except TapeError:
        ...         print(lake.path.exists())
        False

        Raises:
            LakeError: the existing lake cannot be read.
        """
        root = Path(path).absolute()
        new = not (root / "manifest.json").exists()
        made = [folder for folder in (root, *root.parents) if not folder.exists()]
        lake = cls.create(root)
        try:
            yield lake
        except BaseException:
            if new:
                lake._remove_empty(made)
            raise

    def _remove_empty(self, made: Sequence[Path]) -> None:
        """Remove the lake if it was never changed, and then the empty folders among `made`."""
        # A failure here leaves an empty lake; it must not hide why the work failed.
        with suppress(LakeError, OSError), self.writing():
            if load(self._path).generation or any(p.name != ".lock" for p in self.incoming.iterdir()):
                return
            for name in ("manifest.json", "manifest-0.json", "markets-0.parquet", "incoming/.lock", ".lock"):
                (self._path / name).unlink(missing_ok=True)
            for folder in (self.incoming, *made):
                folder.rmdir()

    def __repr__(self) -> str:
        days = f", {self._files[0].day} to {self._files[-1].day}" if self._files else ""
        return (
            f"Lake({str(self._path)!r}: {self.rows:,} prints, {self._manifest.markets.rows:,} markets{days})"
        )

    # What is in it

    @property
    def path(self) -> Path:
        """The folder, absolute."""
        return self._path

    @property
    def incoming(self) -> Path:
        """The folder of staged segments; other files in it are ignored."""
        return self._path / "incoming"

    @property
    def generation(self) -> int:
        """Number of changes since the lake was created."""
        return self._manifest.generation

    @property
    def rows(self) -> int:
        """Number of prints."""
        return self._manifest.rows

    @property
    def files(self) -> tuple[DayFile, ...]:
        """The daily files, in order."""
        return self._files

    @property
    def covered(self) -> tuple[tuple[int, int], ...]:
        """Intervals [since, until) in microseconds of which it has every public print; sorted and disjoint."""
        return self._manifest.covered

    @property
    def listing(self) -> pl.DataFrame:
        """One row per market, by code.

        Columns are `market`, `ticker`, `prints`, `first_ts`, `last_ts` (inclusive; null without prints) and the metadata,
        null where unknown.

        Raises:
            LakeError: the markets file is damaged.
        """
        listing = self._listing
        if listing is None:
            listing = self._listing = read_listing(self._path, self._manifest.markets)
        return listing

    @property
    def tickers(self) -> pl.Series:
        """Tickers by market code."""
        return self.listing["ticker"]

    @property
    def markets(self) -> pl.DataFrame:
        """The markets with known metadata, as a markets table, by code."""
        return self.listing.filter(pl.col("event").is_not_null()).select(MARKETS_SCHEMA.names())

    @property
    def unknown(self) -> int:
        """Number of markets without metadata."""
        return self.listing["event"].null_count()

    # Reading

    def check_file(self, file: DayFile) -> None:
        """Compare size, row count, schema and origin of a daily file with the manifest, without reading its rows.

        Raises:
            LakeError: the file is missing, or is not the one that was written.
        """
        check_file(self._path, file, self._manifest.generation)

    def check_origin(self, file: DayFile) -> None:
        """Compare size and origin of a daily file with the manifest; its values are compared while it is read.

        Raises:
            LakeError: the file is missing, or is not the one that was written.
        """
        check_origin(self._path, file, self._manifest.generation)

    def lazy(self) -> pl.LazyFrame:
        """Return the whole tape, in order, as a lazy frame, after checking each file with `check_file`.

        Raises:
            LakeError: a file is missing, or is not the one that was written.
        """
        files = self._files
        for file in files:
            self.check_file(file)
        if not files:
            return pl.LazyFrame(schema=TAPE_SCHEMA)
        return pl.scan_parquet([f.path for f in files], hive_partitioning=False).select(TAPE_SCHEMA.names())

    def read(self, since: int | datetime | None = None, until: int | datetime | None = None) -> pl.DataFrame:
        """Read the prints of [since, until) into memory, comparing every byte with its hash.

        Args:
            since: start, inclusive: microseconds or a datetime (UTC if it has no time zone); None: the beginning.
            until: end, exclusive, likewise; None: the end.

        Raises:
            TapeError: `since` or `until` is neither a whole number nor a datetime.
            LakeError: a file of these days is missing or damaged.
        """
        low = -(2**63) if since is None else _instant("since", since)
        high = 2**63 - 1 if until is None else _instant("until", until)
        files = [f for f in self._files if f.first_ts < high and f.last_ts >= low]
        instant = pl.col("ts").dt.epoch("us")
        found = [
            read_day(self._path, file, self.generation).filter((instant >= low) & (instant < high))
            for file in files
        ]
        return pl.concat(found) if found else pl.DataFrame(schema=TAPE_SCHEMA)

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock for a `with` block; otherwise each change takes it for itself.

        Raises:
            LakeError: another process writes to the lake.
        """
        with self._guard:
            if not self._writers:
                claim(self._path, self._lock)
            self._writers += 1
        try:
            yield
        finally:
            with self._guard:
                self._writers -= 1
                if not self._writers:
                    self._lock.release()

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Serialise changes, each on the current generation."""
        with self._turn, self.writing():
            manifest = load(self._path)
            if manifest != self._manifest:
                self._set(manifest)
            yield

    def append(
        self,
        tape: pl.DataFrame,
        markets: pl.DataFrame | None = None,
        covered: Iterable[tuple[int, int]] | None = None,
    ) -> Appended:
        """Add a tape in one transaction; it is on disk when the call returns.

        A print whose trade id is in the lake already (on that day), or twice in the tape, is refused and counted. Prints
        without an id are all kept. Prints at one instant keep their order, after those already in the lake.

        Args:
            tape: prints in the order of time; the lake assigns its own market codes.
            markets: metadata of some markets, which replace what is known.
            covered: intervals [since, until) in microseconds of which the lake is complete from now on.

        Raises:
            TapeError: the tape or the markets table is malformed.
            LakeError: a day is damaged, or another process writes; the lake is unchanged.
        """
        with self._change():
            return self._merge([Incoming.of(tape)], markets, covered or ())

    def stage(self, name: str, tape: pl.DataFrame) -> None:
        """Write a tape to incoming/<name>.parquet, to be committed later; it is on disk when the call returns.

        A segment of that name is replaced. No lock is needed.

        Raises:
            TapeError: the tape is malformed.
            ConfigError: the name is not valid.
        """
        write_segment(self._path, name, tape)

    def staged(self) -> list[str]:
        """Return the names of the segments that await `commit`, in order."""
        return staged(self._path, load(self._path))

    def unstage(self, names: Iterable[str]) -> None:
        """Remove staged segments without committing them.

        Raises:
            ConfigError: a name is not valid.
        """
        for name in names:
            path_of(self._path, name).unlink(missing_ok=True)

    def commit(
        self,
        names: Sequence[str] | None = None,
        *,
        markets: pl.DataFrame | None = None,
        covered: Iterable[tuple[int, int]] = (),
        match: bool = False,
    ) -> Appended:
        """Merge staged segments into their days in one transaction, and remove them. Needs the memory of one day.

        Args:
            names: the segments, in the order in which prints at one instant are to stand; None: all, by name.
            markets: metadata of some markets, which replace what is known.
            covered: intervals [since, until) in microseconds of which the lake is complete from now on.
            match: refuse a print without a trade id if the lake has one with the same time, market, price, size and
                taker, one for one. A print with an id is refused likewise if the lake's print lacks one, which then takes
                that id. False: keep all of them.

        Raises:
            LakeError: a segment or a day is missing or damaged, or another process writes; the lake is unchanged.
        """
        with self._change():
            chosen = staged(self._path, self._manifest) if names is None else list(dict.fromkeys(names))
            return self._merge([Incoming.open(self._path, n) for n in chosen], markets, covered, match)

    def put_markets(self, markets: pl.DataFrame) -> int:
        """Add or replace metadata of markets, assign codes to new tickers, and return their number.

        Raises:
            TapeError: the markets table is malformed.
            LakeError: the markets file is damaged, or another process writes.
        """
        with self._change():
            return self._merge([], markets, ()).new_markets

    def _merge(
        self,
        segments: Sequence[Incoming],
        markets: pl.DataFrame | None,
        covered: Iterable[tuple[int, int]],
        match: bool = False,
    ) -> Appended:
        manifest, table, done = merge_into(
            self._path, self._manifest, self.listing, segments, markets, covered, match
        )
        self._set(manifest, table)
        return done

    # Health

    def gaps(self) -> list[RecordingGap]:
        """Return the intervals that may lack prints (`kalshilab.tape.lake.doctor.gaps`)."""
        return doctor.gaps(self._manifest)

    def unverified(self) -> Sequence[tuple[int, int, str]]:
        """Return the intervals of `gaps` as `(since, until, reason)`."""
        return [(gap.since, gap.until, gap.reason) for gap in self.gaps()]

    def doctor(self, deep: bool = True) -> list[Finding]:
        """Check the lake and return the findings (`kalshilab.tape.lake.doctor.doctor`); `deep` compares every byte."""
        return doctor.doctor(self._path, deep)

    def repair(self) -> list[str]:
        """Remove what is damaged from the lake and return what was done (`kalshilab.tape.lake.doctor.repair`).

        Raises:
            LakeError: another process writes to the lake, or it cannot be repaired.
        """
        with self._turn, self.writing():
            done = doctor.repair_held(self._path)
            self._set(load(self._path))
            return done


def _instant(name: str, value: object) -> int:
    if isinstance(value, datetime):
        return from_datetime(value if value.tzinfo else value.replace(tzinfo=UTC))
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TapeError(f"{name} must be microseconds or a datetime, got {value!r}") from None
