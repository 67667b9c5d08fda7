"""Text input, read strictly: plain or gzip, UTF-8, and every problem named with its line."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..console import log
from ..errors import InputError, MissingResourceError, UsageError

BLOCK_BYTES = 1 << 24
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PACKED = {b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a file as UTF-8 bytes, and the number of the first one."""

    data: bytes
    line: int
    """Number of the first line, from 1."""

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(line number, bytes without LF) of every line."""
        parts = self.data.split(b"\n")
        if not parts[-1]:
            parts.pop()
        return enumerate(parts, start=self.line)


@dataclass(slots=True)
class Problems:
    """Collects what is wrong with one file, so that it is said at once; ``limit`` messages are kept, all count."""

    path: Path
    limit: int = 20
    messages: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, line: int, message: str) -> None:
        """Notes a problem of one line."""
        self.count += 1
        if len(self.messages) < self.limit:
            self.messages.append(f"{self.path}:{line}: {message}")

    def text(self) -> str:
        """The messages, one per line, and how many more there are."""
        more = self.count - len(self.messages)
        tail = [f"... and {more} more problem{'s' if more > 1 else ''} in {self.path}"] if more else []
        return "\n".join([*self.messages, *tail])

    def check(self) -> None:
        """Raises InputError with everything collected, if anything was."""
        if self.count:
            raise InputError(self.text())


def blocks(path: Path, encoding: str = "utf-8", encoding_errors: str = "strict") -> Iterator[Block]:
    """Yields a text file in blocks of whole lines, as UTF-8 whatever its encoding; gzip is recognised by content.

    A byte-order mark is stripped with a note. Raises MissingResourceError for an absent file, and InputError for
    a truncated or broken gzip stream ("truncated after line N"), another compression, or bytes that are not in
    ``encoding`` (with line and byte offset, counted in the decompressed text).
    """
    line, offset, rest = 1, 0, b""
    pieces = _pieces(path)
    try:
        for piece in pieces if encoding == "utf-8" else _recoded(path, pieces, encoding, encoding_errors):
            if offset == 0 and not rest:
                bare = _without_mark(path, piece)
                offset, piece = len(piece) - len(bare), bare
            cut = piece.rfind(b"\n") + 1
            if not cut:
                rest += piece
                continue
            data = rest + piece[:cut]
            rest = piece[cut:]
            yield Block(_utf8(path, data, line, offset, encoding_errors), line)
            line += data.count(b"\n")
            offset += len(data)
    except (EOFError, zlib.error) as error:
        broken = "truncated" if isinstance(error, EOFError) else "broken"
        raise InputError(
            f"{path}: {broken} after line {line - 1}: the gzip stream does not end properly; fetch it again"
        ) from None
    if rest:
        yield Block(_utf8(path, rest, line, offset, encoding_errors), line)


def lines(path: Path, encoding: str = "utf-8", encoding_errors: str = "strict") -> Iterator[tuple[int, str]]:
    """(line number, text without its line end) of every line of a file; errors as in `blocks`."""
    for block in blocks(path, encoding, encoding_errors):
        for number, line in block.lines():
            yield number, line.removesuffix(b"\r").decode()


def odd_character(text: str) -> str | None:
    """The first white space or control character of an id, described, or None: other tools would split there."""
    for character in text:
        if character.isspace() or character < " " or character == "\x7f":
            return f"U+{ord(character):04X}"
    return None


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise MissingResourceError(f"{path}: no such file") from None
    except OSError as error:
        raise MissingResourceError(f"{path}: cannot be read: {error.strerror}") from None
    with stream:
        start = stream.read(6)
        stream.seek(0)
        for magic, name in _PACKED.items():
            if start.startswith(magic):
                raise InputError(f"{path}: compressed with {name}: unpack it, or compress it with gzip")
        if start.startswith(b"\x1f\x8b"):
            yield from _inflated(iter(lambda: stream.read(1 << 20), b""))
        elif path.suffix == ".gz" and start:
            raise InputError(f"{path}: not a gzip file, although its name ends in .gz: rename or compress it")
        else:
            while piece := stream.read(BLOCK_BYTES):
                yield piece


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Decompresses one or several gzip members; EOFError when the last one is not complete."""
    member = zlib.decompressobj(wbits=31)
    whole = False
    for data in packed:
        while data:
            if whole:
                data = data.lstrip(b"\0")  # padding after the last member is allowed
                if not data:
                    break
                member, whole = zlib.decompressobj(wbits=31), False
            if piece := member.decompress(data, BLOCK_BYTES):
                yield piece
            whole = member.eof
            data = member.unused_data if whole else member.unconsumed_tail
    if not whole:
        raise EOFError


def _recoded(path: Path, pieces: Iterator[bytes], encoding: str, errors: str) -> Iterator[bytes]:
    try:
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        codecs.lookup_error(errors)
    except LookupError as error:
        raise UsageError(f"{path}: {error}") from None
    seen = 0
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode("utf-8", "replace")
            seen += len(piece)
        yield decoder.decode(b"", final=True).encode("utf-8", "replace")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not {encoding} at byte offset {seen + error.start}: {error.reason}") from None


def _without_mark(path: Path, piece: bytes) -> bytes:
    if piece.startswith(codecs.BOM_UTF8):
        log.info("%s: a UTF-8 byte-order mark was stripped", path)
        return piece[len(codecs.BOM_UTF8) :]
    if piece.startswith(_UTF16_MARKS):
        raise InputError(f"{path}: this looks like UTF-16: convert it to UTF-8, or read it with encoding utf-16")
    return piece


def _utf8(path: Path, data: bytes, line: int, offset: int, errors: str) -> bytes:
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if errors != "strict":
            return data.decode("utf-8", errors).encode("utf-8", "replace")
        where = line + data.count(b"\n", 0, error.start)
        raise InputError(
            f"{path}:{where}: byte 0x{data[error.start]:02x} at offset {offset + error.start} is not UTF-8: "
            "convert the file, or give its encoding (latin-1?) or encoding errors 'replace'"
        ) from None
    return data
