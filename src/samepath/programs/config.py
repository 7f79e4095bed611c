"""Reading a program's YAML file, at start and whenever it changes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from samepath.model.documents import DocumentError, decode, parse

T = TypeVar("T")


def load(path: str, kind: type[T]) -> T:
    """The file's one document as `kind`. Raises DocumentError with file, line and field."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise DocumentError(path, 0, "", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(path, 0, "", f"cannot be read: it is not UTF-8 ({error})") from error
    documents = parse(text, path)
    if len(documents) != 1:
        raise DocumentError(path, 1, "", f"expected one document, found {len(documents)}")
    return decode(kind, documents[0])


class Watch:
    """Whether a file was replaced or written since it was asked last."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._seen = self._stamp()

    def changed(self) -> bool:
        now = self._stamp()
        if now is None or now == self._seen:
            return False  # a file that is gone changes nothing: what was read last stands
        self._seen = now
        return True

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size
