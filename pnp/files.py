"""Files: replaced as a whole or not at all; read with messages that name them. All are UTF-8."""

import csv
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pnp.errors import UserError

PART = ".part"  # ends the name of every temporary file: whoever owns the folder may remove them
_REQUIRED: Any = object()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there replaces `path` at the end.

    A reader sees the old file or the new one, whole; after a power cut, too. On an error the
    temporary file goes and `path` stays as it was.

    Raises:
        OSError: the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        yield part
        _sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path` that takes its place at the end.

    A reader sees the old folder or the new one, whole. On an error `path` stays as it was.
    """
    path = path.resolve()
    part, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            path.rename(old)
        try:
            part.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the disk hold it: a rename may otherwise survive a power cut that its content did not.

    A folder is synchronised as well, where the system can.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it came from, is that of a full disk or a used-up quota.

    Libraries that write by themselves wrap it in errors of their own.
    """
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # The last words are NumPy's.
        if full or re.search(
            r"(?i)no space left|disk is full|requested and \d+ written", str(error)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_text(path: Path, text: str) -> None:
    """Replace `path` by this text in UTF-8, as it is (`newline` is not translated).

    What is no text, as bytes of a file's name may be, becomes escapes, which JSON reads back.
    """
    with replacing(path) as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as JSON, one entry a line."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Replace `path` by these rows as csv, the header first."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def read_text(path: Path, name: str = "") -> str:
    """The text of a file, without a byte order mark.

    Args:
        path: the file.
        name: of the setting with its value, for the message.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, RuntimeError) as error:  # the latter of ~somebody who is not there
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {name or path}: {reason}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {name or path}: it is not UTF-8 ({error}).") from error


def read_json(path: Path, kind: type = dict, default: Any = _REQUIRED) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        kind: type that it must hold: dict or list.
        default: returned where there is no file; without it a missing file is an error.

    Raises:
        UserError: the file is missing, is no JSON, or holds another type.
    """
    if default is not _REQUIRED and not path.is_file():
        return default
    text = read_text(path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} should hold a JSON {kind.__name__}, not {value!r:.80}.")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; 1e-4 is a number, as for OmegaConf and unlike YAML 1.1.

    Raises:
        UserError: it cannot be read, is no YAML, or holds something else.
    """
    import yaml  # here, not above: `pnp-report --help` needs none of it

    # The C loader is the same safe loader, ten times as fast: it matters with hundreds of runs.
    loader: Any = type("Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
    number = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        content = yaml.load(read_text(path), loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a mapping of keys to values, not {content!r:.80}.")
    return content


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file by column; cells that a row lacks are empty.

    A last line without its end is left out: its writer was killed, or is still at it. No rows where
    there is no file.

    Raises:
        UserError: the file cannot be read, or a row has more cells than the header.
    """
    if not path.is_file():
        return []
    text = read_text(path)
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines(), restval="")
    rows: list[dict[str, str]] = []
    for row in reader:
        if None in row:
            raise UserError(
                f"{path}, line {reader.line_num}: more cells than the "
                f"{len(reader.fieldnames or ())} columns of the header."
            )
        rows.append(row)
    return rows


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; an empty mapping leaves none.

    >>> flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}})
    {'a.b': 1, 'a.c': [1, 2]}
    """
    if not isinstance(tree, dict):
        return {prefix.removesuffix("."): tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}.")
    return leaves
