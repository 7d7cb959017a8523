"""`.env` files: the variables of a folder's own."""

from __future__ import annotations

from pathlib import Path

from kalshilab.errors import EnvFileError

__all__ = ["read_env_file"]


def read_env_file(path: Path, *, missing_ok: bool = False) -> tuple[dict[str, str], dict[str, int]]:
    """The variables of a `.env` file and the line each starts on (from 1).

    `NAME=VALUE`, optionally `export NAME=VALUE`, single or double quotes, quoted values over several lines
    (a PEM), comments after `#`.  The last of two equal names wins.  `$` is not special: passwords hold it.

    Raises:
        EnvFileError: the first line that is none of these, or an unreadable file.
    """
    # Imported here: reading settings without a .env must not cost an import.
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
                # The parser counts blank lines before a binding as part of it.
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
