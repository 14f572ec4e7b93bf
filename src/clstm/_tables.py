"""Tables from CSV and Parquet: read, and every check of their cells, with a message that names the place.

pandas is imported when a table is read.  Cells of a CSV stay text until somebody says what they are to be, so
that a message can show them as they stand in the file.
"""

from __future__ import annotations

import csv
import difflib
import importlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._check import FileFormatError

Array = NDArray[Any]

# Cells that say that there is no value.
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None")

# What files begin with that are often taken for a CSV.
_MAGIC = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"ARROW1": "an Arrow file; save it as Parquet",
    b"\xff\xfe": "UTF-16; say --encoding utf-16",
    b"\xfe\xff": "UTF-16; say --encoding utf-16",
}
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_TIME_EXAMPLES = "2024-01, 2024-01-31 or 2024-01-31 13:00"


def pandas() -> Any:
    """Return the module pandas."""
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError("tables need pandas: pip install 'cython-lstm[cli]'") from error


@dataclass(frozen=True)
class Reading:
    """How the text of a CSV is to be taken."""

    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    time_format: str | None = None  # as strptime has it; None: ISO 8601 or numbers

    def changed(self, arguments: Any) -> Reading:
        """Return a reading with the attributes of these names that are not None."""
        given = {field.name: getattr(arguments, field.name) for field in fields(self)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a file and how to name a place in it; a frame that somebody has made has no path."""

    path: str
    frame: Any  # pandas.DataFrame
    reading: Reading
    first_line: int | None = None  # that of the first row, where each row is a line

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.frame.columns)

    def error(self, reason: str) -> FileFormatError:
        """Make the error that says what is wrong with the table."""
        return FileFormatError(self.path, reason)

    def wrong(self, column: str, row: int, reason: str) -> FileFormatError:
        """Make the error that says what is wrong in a cell."""
        return self.error(f"column {_check.describe(column)}, {self.place(row)}: {reason}")

    def place(self, row: int) -> str:
        """Name a row, counted from 0, as an editor or a spreadsheet counts."""
        return f"row {row + 1}" if self.first_line is None else f"line {self.first_line + row}"

    def require(self, names: Sequence[str], option: str | None = None) -> None:
        """Refuse names that are no columns, whether an option or the training has them."""
        for name in names:
            if name in self.columns:
                continue
            shown, listed = _check.describe(name), _check.listed(self.columns)
            folded = {column.casefold(): column for column in reversed(self.columns)}
            near = difflib.get_close_matches(name.casefold(), folded, n=1)
            meant = f"; did you mean {_check.describe(folded[near[0]])}?" if near else ""
            if option is None:
                raise self.error(f"expected a column {shown}, as in training, got {listed}")
            raise self.error(f"{option}: expected one of the columns {listed}, got {shown}{meant}")

    def missing(self, column: str) -> Array:
        """Tell which cells hold nothing."""
        values = self.frame[column]
        empty: Array = values.isna().to_numpy(bool)
        return empty | values.isin(MISSING).to_numpy(bool) if _is_text(values) else empty

    def _refuse_missing(self, column: str, expected: str, gaps: bool | Array = False) -> None:
        refused = self.missing(column) & ~np.asarray(gaps)
        if refused.any():
            raise self.wrong(
                column,
                int(np.argmax(refused)),
                f"expected {expected}, got an empty cell; fill it or leave the row out",
            )

    def is_numeric(self, column: str) -> bool:
        """Whether every cell that holds something holds a number; True and False are none."""
        values = self.frame[column]
        if not _is_text(values):
            return bool(pandas().api.types.is_numeric_dtype(values)) and values.dtype.kind not in "bc"
        given = values[~self.missing(column)]
        return len(given) > 0 and not np.isnan(self._parsed(given)).any()

    def holds_a_number(self, column: str) -> bool:
        """Whether any cell of a column of text is a number."""
        given = self.frame[column][~self.missing(column)]
        return _is_text(given) and not np.isnan(self._parsed(given)).all()

    def _parsed(self, cells: Any) -> Array:
        return _parse(cells, self.reading.decimal)

    def numbers(self, column: str, *, gaps: bool | Array = False) -> Array:
        """Return a column as float64; empty cells are refused, or NaN where there may be gaps."""
        self._refuse_missing(column, "a number", gaps)
        values, empty = self.frame[column], self.missing(column)
        if not _is_text(values) and not self.is_numeric(column) and values.dtype.kind != "b":
            raise self.error(
                f"column {_check.describe(column)}: expected numbers, got values of type {values.dtype}"
            )
        numbers = np.full(len(values), np.nan)
        filled = values[~empty]
        numbers[~empty] = self._parsed(filled) if _is_text(values) else filled.to_numpy(np.float64)
        bad = ~np.isfinite(numbers) & ~empty
        if bad.any():
            row = int(np.argmax(bad))
            cell = values.iloc[row]
            got = cell if isinstance(cell, str) else float(cell)
            comma = isinstance(cell, str) and "," in cell and not np.isnan(_parse([cell], ",")[0])
            remedy = "; if that is a decimal comma, say --decimal ," if comma else ""
            raise self.wrong(column, row, f"expected a number, got {_check.describe(got)}{remedy}")
        return numbers

    def labels(self, column: str) -> Array:
        """Return a column as text, of which no cell may be empty."""
        self._refuse_missing(column, "a value")
        labels: Array = self.frame[column].astype(str).to_numpy(object)
        return labels

    def times(self, column: str) -> Array:
        """Return a column as int64, float64 or datetime64[ns]; times with a zone are taken in UTC."""
        self._refuse_missing(column, "a time")
        values, written = self.frame[column], self.reading.time_format
        if pandas().api.types.is_datetime64_any_dtype(values):
            return _naive(values.dt.tz_convert("UTC") if values.dt.tz is not None else values)
        if written is None and self.is_numeric(column):
            numbers = self.numbers(column)
            whole = numbers.astype(np.int64)
            return whole if np.array_equal(whole, numbers) else numbers
        parsed = pandas().to_datetime(
            values.astype(str), format=written or "ISO8601", errors="coerce", utc=True
        )
        bad = parsed.isna().to_numpy(bool)
        if bad.any():
            row = int(np.argmax(bad))
            got = _check.describe(str(values.iloc[row]))
            if written is not None:
                raise self.wrong(column, row, f"expected a time in the format {written!r}, got {got}")
            raise self.wrong(
                column,
                row,
                f"expected a time such as {_TIME_EXAMPLES}, or a number, got {got}; say how times are "
                "written, such as --time-format %d.%m.%Y",
            )
        return _naive(parsed)


# ---------------------------------------------------------------------------------------------------- reading


def read(path: str | os.PathLike[str], reading: Reading) -> Table:
    """Read a file, Parquet by its first bytes and else CSV.

    Raises
    ------
    FileFormatError
        It is neither, or has no rows, or a name twice.
    OSError, ImportError
        It cannot be opened, or pandas is not installed.
    """
    name = os.fsdecode(path)
    pandas()
    with open(name, "rb") as file:
        content = file.read()
    if content[:4] == b"PAR1":
        table = _read_parquet(name, content, reading)
    else:
        table = _read_csv(name, decode(name, content, reading.encoding, "CSV or Parquet"), reading)
    twice = [column for column, count in Counter(table.columns).items() if count > 1]
    if twice:
        raise table.error(f"expected each column once, got {_check.listed(twice)} again")
    if not len(table):
        raise table.error("expected rows below the names of the columns, got none")
    return table


def of_frame(frame: Any, reading: Reading) -> Table:
    """Take a pandas.DataFrame; an index that has a name becomes a column."""
    if not hasattr(frame, "columns"):
        raise TypeError(f"data: expected a path or a pandas.DataFrame, got {_check.describe(frame)}")
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    named = frame.set_axis([str(column) for column in frame.columns], axis=1)
    return Table("data", named.reset_index(drop=True), reading)


def _read_parquet(path: str, content: bytes, reading: Reading) -> Table:
    """Read a Parquet file."""
    try:
        frame = pandas().read_parquet(io.BytesIO(content))
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'cython-lstm[cli]'") from error
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        reason = _check.shorten(str(error).partition("\n")[0])
        raise FileFormatError(path, f"not a Parquet file that pandas can read ({reason})") from error
    return replace(of_frame(frame, reading), path=path)


def decode(path: str, content: bytes, encoding: str, expected: str) -> str:
    """Return the text of a file, or say why it is none."""
    if not content.strip():
        raise FileFormatError(path, f"expected {expected}, got an empty file")
    is_utf16 = encoding.lower().replace("-", "").startswith("utf16")
    for magic, meaning in _MAGIC.items():
        if content.startswith(magic) and not is_utf16:
            raise FileFormatError(path, f"expected {expected}, got {meaning}")
    if b"\0" in content[:4096] and not is_utf16:
        raise FileFormatError(path, f"expected {expected}, got a binary file")
    try:
        return content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileFormatError(
            path,
            f"expected {encoding}, got byte 0x{content[error.start]:02x} in line {line}; say how it is "
            "written, such as --encoding cp1252",
        ) from None
    except UnicodeError as error:  # UTF-16 without its mark, and the like
        raise FileFormatError(path, f"expected {encoding} ({error})") from None


def _read_csv(path: str, text: str, reading: Reading) -> Table:
    """Read the text of a CSV, every cell as text."""
    pd = pandas()
    try:
        header = next(row for row in csv.reader(io.StringIO(text), delimiter=reading.separator) if row)
    except csv.Error as error:
        raise FileFormatError(path, f"not a CSV file ({error})") from None
    names = [name.strip() for name in header]
    if len(names) == 1:
        for separator, plural in _SEPARATORS.items():
            if separator in names[0] and separator != reading.separator:
                shown = "tab" if separator == "\t" else f"'{separator}'"
                raise FileFormatError(
                    path,
                    f"one column, {_check.describe(names[0])}, got by cutting at {reading.separator!r}; its "
                    f"cells seem to be cut by {plural}: say --separator {shown}",
                )
    if "" in names:
        raise FileFormatError(
            path, f"column {names.index('') + 1}: expected a name in the first line, got none"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frame = pd.read_csv(
                io.StringIO(text), sep=reading.separator, dtype=str, keep_default_na=False, header=0,
                names=range(len(names)), index_col=False, encoding_errors="strict", skipinitialspace=True,
            )  # fmt: skip
    except pd.errors.ParserWarning:
        raise FileFormatError(path, f"expected {len(names)} cells in each row, got rows with more") from None
    except pd.errors.ParserError as error:
        raise FileFormatError(path, _reason(str(error))) from None
    frame.columns = names
    lines = text.rstrip("\r\n").count("\n")
    return Table(path, frame, reading, 2 if lines == len(frame) else None)


def _reason(message: str) -> str:
    """Return what pandas says of a CSV in the words of this package."""
    message = message.removeprefix("Error tokenizing data. C error: ").strip()
    words = message.replace(",", "").split()
    if message.startswith("Expected") and "fields in line" in message:
        return f"line {words[5]}: expected at most {words[1]} cells, got {words[7]}"
    return f"not a CSV file ({_check.shorten(message)})"


def _is_text(values: Any) -> bool:
    """Whether a column may hold text: cells of a CSV, or a column of Parquet that is no number."""
    types = pandas().api.types
    return bool(types.is_object_dtype(values) or types.is_string_dtype(values)) and values.dtype.kind != "b"


def _naive(times: Any) -> Array:
    """Return dates without their zone."""
    found: Array = times.dt.tz_localize(None).to_numpy(np.dtype("datetime64[ns]"))
    return found


def _parse(values: Any, decimal: str) -> Array:
    """Parse cells as numbers; what is none becomes NaN."""
    pd = pandas()
    text = pd.Series(values, dtype=object)
    if decimal != ".":
        text = text.astype(str).str.replace(decimal, ".", regex=False)
    numbers: Array = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    return numbers


# ---------------------------------------------------------------------------------------------------- writing


def to_csv(frame: Any) -> str:
    """Return a frame as CSV, with as many digits as float32 has."""
    text: str = frame.to_csv(index=False, float_format="%.8g", lineterminator="\n")
    return text


def write_times(table: Table, column: str, times: Any) -> Any:
    """Return dates (a pandas.Series) as text in the way in which a column of the table has them."""
    if times.dtype.kind != "M":
        return times
    written = table.reading.time_format
    if written is None and _is_text(table.frame[column]):
        usual = table.frame[column].iloc[0]
        written = "%Y-%m" if len(usual) == 7 else "%Y-%m-%dT%H:%M:%S" if "T" in usual else None
    return times if written is None else times.dt.strftime(written)


def groups(table: Table, column: str | None) -> tuple[list[str], list[Array]]:
    """Return the groups of a table in the order in which they first come, and the rows of each."""
    if column is None:
        return [""], [np.arange(len(table))]
    codes, names = pandas().factorize(table.labels(column))
    order = np.argsort(codes, kind="stable")
    return list(names), np.split(order, np.cumsum(np.bincount(codes))[:-1])
