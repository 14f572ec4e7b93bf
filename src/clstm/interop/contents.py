"""Reading files that anybody may have written: in one piece, and no more than they hold.

Readers take bytes and parse those; nothing is opened by a name that stands in a file.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile

from .._check import FileFormatError, describe, shorten

# What compressed members of an archive may hold beyond its size: they and a copy may take 64 MB.
_MOST_INFLATED = 3 << 23
# Each costs more than its name; by the signatures, since nothing else that is said of them can be trusted.
_MOST_MEMBERS = 20_000
_MEMBER = b"PK\x01\x02"
# Those of other kinds take as much memory as they say, and nobody writes weights so.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_bytes(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """Return the content of a regular file, or its first bytes, `most` of them.

    Raises
    ------
    FileFormatError
        It is a FIFO, a device, larger than memory, or truncated while it is read.
    OSError
        The file cannot be opened.
    """
    path = os.fsdecode(path)
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FileFormatError(path, "expected a regular file, got a FIFO or a device")
        size = status.st_size if most is None else min(most, status.st_size)
        try:
            content = file.read(size)
        except MemoryError:  # a size is no promise: a sparse file may claim any
            raise FileFormatError(path, f"larger than memory, {size} bytes") from None
        if len(content) != size:
            raise FileFormatError(path, "changed while it was read")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """Open a file, without waiting for somebody to write into it if it is a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class Archive:
    """A zip file in memory, whose members may be stored or compressed.

    Names are names, not paths; one that stands twice is refused, as is what is declared larger than it is.

    Attributes
    ----------
    names : tuple of str
    """

    def __init__(self, path: object, content: bytes) -> None:
        self._path = path
        if content.count(_MEMBER) > _MOST_MEMBERS:
            raise FileFormatError(path, f"expected an archive of at most {_MOST_MEMBERS} members, got more")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
            members = self._zip.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, EOFError) as error:
            raise FileFormatError(
                path, f"not a zip archive that can be read ({shorten(str(error))})"
            ) from error
        self.names = tuple(member.filename for member in members)
        if len(set(self.names)) < len(members):
            raise FileFormatError(path, "expected each member of the archive once, got a name again")
        if any(member.compress_type not in _COMPRESSIONS for member in members):
            raise FileFormatError(path, "expected members that are stored or deflated")
        if sum(member.file_size for member in members) > len(content) + _MOST_INFLATED:
            raise FileFormatError(path, "its members claim to be much larger than the file")

    def read(self, name: str) -> bytes:
        """Return the content of a member."""
        try:
            with self._zip.open(name) as member:  # in one piece, where `ZipFile.read` joins many
                content = member.read(self._zip.getinfo(name).file_size)
        except KeyError:
            raise FileFormatError(self._path, f"expected a member {describe(name)} in the archive") from None
        except Exception as error:  # zlib.error and the others have no common base
            raise FileFormatError(self._path, f"member {describe(name)}: {shorten(str(error))}") from error
        return content
