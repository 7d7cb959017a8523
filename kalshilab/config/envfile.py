"""SettingReader of `.env` files."""

from __future__ import annotations

from pathlib import Path

from kalshilab.errors import EnvFileError

__all__ = ["read_env_file"]


def read_env_file(path: Path, *, missing_ok: bool = False) -> tuple[dict[str, str], dict[str, int]]:
    """Return the variables of a `.env` file, and the line on which each starts (from 1).

    A line is `NAME=VALUE` or `export NAME=VALUE`.  Values may have single or double quotes, and a quoted value may
    span several lines (a PEM).  Comments start with `#`.  The last of two equal names wins.  `$` is not special,
    because passwords contain it.

    Args:
        path: the file.
        missing_ok: return no variables if there is no such file, instead of raising.

    Raises:
        EnvFileError: the file cannot be read, or a line has another form; the first such line is named.
    """
    # Imported here, so that settings without a .env file do not pay for the import.
    from dotenv.parser import parse_stream

    try:
        text = path.open(encoding="utf-8-sig")
    except FileNotFoundError:
        if missing_ok:
            return {}, {}
        raise EnvFileError(path, 0, "no such file") from None
    except OSError as error:
        raise EnvFileError(path, 0, f"cannot be opened ({error.strerror})") from None
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    with text:
        try:
            for binding in parse_stream(text):
                # The parser counts the blank lines before a binding as part of it.
                written = binding.original.string
                line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
                if binding.error:
                    raise EnvFileError(path, line, "cannot be read")
                if binding.key is None:
                    continue
                if binding.value is None:
                    raise EnvFileError(path, line, "has no '='")
                values[binding.key], lines[binding.key] = binding.value, line
        except UnicodeDecodeError as error:
            raise EnvFileError(path, 0, f"is not UTF-8 (byte {error.start})") from None
    return values, lines
