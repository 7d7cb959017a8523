"""The lake: all prints, by day, in Parquet files that anything can read and nothing can lose silently.

    lake = Lake.create("lake/")
    lake.append(tape, markets)                 # one step; or stage(name, tape) … and commit()
    lake.lazy(); lake.read(since, until)       # polars; kalshilab.signals.scan reads it out of core
    pl.scan_parquet("lake/trades/**/*.parquet")  # or duckdb, pandas, pyarrow, as it is

**Never fewer rows.**  The manifest (`kalshilab.tape.lake.manifest`) names each file with its rows, size, hash and
control totals.  A file that is missing, shorter, of another schema or another day's stops whoever reads with a
`LakeError` that names it and says what to run.

**The lake of before or the lake of after.**  A change is one rename; see `kalshilab.tape.lake.transaction`.
One process at a time changes a lake; a second is refused.  Readers need no lock: they read the generation they
opened, and are told when it has gone.

**Codes** are dense, given out in the order in which tickers first arrive, never changed and never reused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from operator import index
from pathlib import Path

import polars as pl

from kalshilab.clock import from_datetime
from kalshilab.errors import LakeError, TapeError
from kalshilab.tape.lake import doctor, fs
from kalshilab.tape.lake.doctor import Finding, Gap
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
from kalshilab.tape.lake.transaction import Swap
from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA

__all__ = ["Lake"]


class Lake(StoredTape):
    """A folder of prints by day; `open` one that is there, `create` one or open it.

    What it says is as of its generation: the one it was opened at, or its own last change.

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
        self._lock = fs.Lock(path / ".lock")
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
        """The lake in a folder.

        Raises:
            LakeError: there is none, or its manifest cannot be read.
        """
        root = Path(path).absolute()
        return cls(root, load(root))

    @classmethod
    def create(cls, path: str | Path) -> Lake:
        """A new, empty lake in a folder, which is made if need be; the one that is there, if there is one.

        Raises:
            LakeError: the lake that is there cannot be read.
        """
        root = Path(path).absolute()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LakeError(
                root, root, f"cannot be a folder ({error.strerror})", run="the same with another path"
            ) from None
        try:
            return cls.open(root)
        except LakeError as error:
            if error.file is not None:
                raise
        (root / "incoming").mkdir(exist_ok=True)
        with fs.held(root / ".lock"):
            if not (root / "manifest.json").exists():
                swap = Swap(root, None)
                table = swap.table(pl.DataFrame(schema=LISTING_SCHEMA))
                swap.commit(Manifest(swap.generation, table))
        return cls.open(root)

    @classmethod
    @contextmanager
    def begun(cls, path: str | Path) -> Iterator[Lake]:
        """As `create`, for the length of a `with` block: a lake that is new, and into which nothing has come when
        the block fails, is removed again, with the folders that were made for it.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     try:
        ...         with Lake.begun(Path(folder, "lake")) as lake:
        ...             raise TapeError("nothing to put in")
        ...     except TapeError:
        ...         print(lake.path.exists())
        False

        Raises:
            LakeError: the lake that is there cannot be read.
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
        """Remove the lake if nothing was ever put into it, and of the folders those that are empty then."""
        # What fails here leaves an empty lake, and must not hide why the work failed.
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
        """The folder of staged segments; other files in it are left alone."""
        return self._path / "incoming"

    @property
    def generation(self) -> int:
        """How often it was changed."""
        return self._manifest.generation

    @property
    def rows(self) -> int:
        """Prints."""
        return self._manifest.rows

    @property
    def files(self) -> tuple[DayFile, ...]:
        """The days' files, in order."""
        return self._files

    @property
    def covered(self) -> tuple[tuple[int, int], ...]:
        """Stretches [since, until), microseconds, of which it has every public print; in order, apart."""
        return self._manifest.covered

    @property
    def listing(self) -> pl.DataFrame:
        """A row a market, by code: `market`, `ticker`, `prints`, `first_ts`, `last_ts` (inclusive; null
        without prints), and the metadata, null where nothing is known.

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
        """The markets whose metadata are known, as a markets table, by code."""
        return self.listing.filter(pl.col("event").is_not_null()).select(MARKETS_SCHEMA.names())

    @property
    def unknown(self) -> int:
        """Markets without metadata."""
        return self.listing["event"].null_count()

    # Reading

    def check_file(self, file: DayFile) -> None:
        """Compare size, rows, schema and origin of a day's file with the manifest.  Quick: its rows are not read.

        Raises:
            LakeError: it is missing, or not the file that was written.
        """
        check_file(self._path, file, self._manifest.generation)

    def check_origin(self, file: DayFile) -> None:
        """Compare size and origin of a day's file with the manifest, for who reads it and compares what is read.

        Raises:
            LakeError: it is missing, or not the file that was written.
        """
        check_origin(self._path, file, self._manifest.generation)

    def lazy(self) -> pl.LazyFrame:
        """The whole tape, in order, as a lazy frame; each file is checked first with `check_file`.

        Raises:
            LakeError: a file is missing, or not the one that was written.
        """
        files = self._files
        for file in files:
            self.check_file(file)
        if not files:
            return pl.LazyFrame(schema=TAPE_SCHEMA)
        return pl.scan_parquet([f.path for f in files], hive_partitioning=False).select(TAPE_SCHEMA.names())

    def read(self, since: int | datetime | None = None, until: int | datetime | None = None) -> pl.DataFrame:
        """The tape of [since, until), in microseconds or as datetimes (without a time zone: UTC); None is from the
        beginning, or to the end.

        Raises:
            TapeError: `since` or `until` is neither.
            LakeError: a file of these days is missing or damaged: every byte is compared with its hash.
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
        """Be the one writer for the length of a `with` block; each change does so for itself otherwise.

        Raises:
            LakeError: somebody else writes to the lake.
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
        """One change after the other, on the lake as it is now."""
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
        """Put a tape into the lake, in one change; on return it is on the disk.

        A print whose trade id is in the lake already (that day), or twice in the tape, is refused and counted;
        prints without an id are all kept.  Prints of one instant keep their order, after those already there.

        Args:
            tape: in the order of time; the lake has its own market codes.
            markets: metadata of some markets, which replace what is known.
            covered: stretches [since, until), microseconds, of which the lake has everything now.

        Raises:
            TapeError: not a tape, or not a markets table.
            LakeError: a day is damaged, or somebody else writes; the lake is as it was.
        """
        with self._change():
            return self._merge([Incoming.of(tape)], markets, covered or ())

    def stage(self, name: str, tape: pl.DataFrame) -> None:
        """Put a tape beside the lake, as incoming/<name>.parquet, to be committed later; on return it is on the
        disk.  A segment of that name is replaced.  Needs no lock.

        Raises:
            TapeError: not a tape.
            ConfigError: not a name.
        """
        write_segment(self._path, name, tape)

    def staged(self) -> list[str]:
        """Names of the segments that wait for `commit`, in order."""
        return staged(self._path, load(self._path))

    def unstage(self, names: Iterable[str]) -> None:
        """Remove staged segments that are not to be committed.

        Raises:
            ConfigError: not a name.
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
        """Merge staged segments into their days, in one change, and remove them.  Takes the memory of a day.

        Args:
            names: which, in the order in which prints of one instant are to stand; None: all, by name.
            markets, covered: as for `append`.
            match: a print without a trade id is refused if the lake has one alike in time, market, price, size
                and taker, one for one, and so is one with an id if the lake's has none, which takes that id; else
                all of them are kept.

        Raises:
            LakeError: a segment or a day is missing or damaged, or somebody else writes; the lake is as it was.
        """
        with self._change():
            chosen = staged(self._path, self._manifest) if names is None else list(dict.fromkeys(names))
            return self._merge([Incoming.open(self._path, n) for n in chosen], markets, covered, match)

    def put_markets(self, markets: pl.DataFrame) -> int:
        """Add metadata of markets, or replace it; unknown tickers get a code.  How many are new.

        Raises:
            TapeError: not a markets table.
            LakeError: the markets file is damaged, or somebody else writes.
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

    def gaps(self) -> list[Gap]:
        """Stretches of which it is not known whether anything is missing: see `kalshilab.tape.lake.doctor.gaps`."""
        return doctor.gaps(self._manifest)

    def unverified(self) -> Sequence[tuple[int, int, str]]:
        """Return the stretches of `gaps` as `(since, until, reason)`."""
        return [(gap.since, gap.until, gap.reason) for gap in self.gaps()]

    def doctor(self, deep: bool = True) -> list[Finding]:
        """Everything that is wrong with the lake or worth knowing: see `kalshilab.tape.lake.doctor.doctor`."""
        return doctor.doctor(self._path, deep)

    def repair(self) -> list[str]:
        """Make the lake whole again without what is damaged: see `kalshilab.tape.lake.doctor.repair`.

        Raises:
            LakeError: somebody else writes to the lake, or it cannot be repaired.
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
        raise TapeError(f"{name}={value!r}: microseconds or a datetime") from None
