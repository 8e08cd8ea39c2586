"""A gateway's own disk queue: what was written here survives the gateway and outwaits the database.

A spool is a directory of append-only segments. A record is framed (length, CRC-32, kind) and written by one system
call, so a killed process leaves at most one torn record, at the very end, of something that nobody was told is safe.
`sync` writes to the platter what the system still holds; between two syncs a power cut, not a kill, may cost records.

One reader follows the writer: `next_batch` shows the oldest records, `advance` forgets them once they are stored.
A crash between the two shows them again, so whoever inserts them must be idempotent. A gateway that starts adopts the
directories of gateways that died: the lock on a directory ends with its process.

Bounded in bytes: a full spool refuses (`SpoolFull`) and keeps what it has.
"""

import fcntl
import os
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from feedback.ids import new_hex

FRAME = struct.Struct("<IIB")
"""Length of the payload in bytes, CRC-32 of kind and payload, kind."""

CURSOR = struct.Struct("<QQI")
"""Segment number, offset in it, CRC-32 of both."""

SEGMENT_BYTES = 32 * 1024 * 1024
COMPLETION, FEEDBACK = 1, 2


class SpoolFull(Exception):
    """The spool holds as many bytes as it may, or the disk is full."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was appended."""

    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """The oldest records of one directory, and where reading goes on after them."""

    queue: "_Queue"
    records: list[Record]
    segment: int
    offset: int


class Spool:
    """The spool of one gateway process, and those it adopted."""

    def __init__(
        self, root: Path, *, bytes_max: int = 4 * 1024**3, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Open a new directory under `root`; `bytes_max` bounds everything this process has spooled or adopted."""
        self.root = root
        self.bytes_max = bytes_max
        self.segment_bytes = segment_bytes
        root.mkdir(parents=True, exist_ok=True)
        self.own = _Queue.create(root / f"gateway-{new_hex()}")
        self.adopted: list[_Queue] = []
        self.adopt()
        self._number = 0
        self._file = -1
        self._written = 0
        self._roll()

    @property
    def depth_bytes(self) -> int:
        """Bytes that are not in the record yet, those of adopted directories included."""
        return self.own.bytes_left + sum(queue.bytes_left for queue in self.adopted)

    def append(self, kind: int, *parts: bytes | bytearray) -> None:
        """Write one record, the concatenation of `parts`. When this returns, killing the process cannot lose it.

        Raises:
            SpoolFull: the spool or the disk is full; nothing was written.
        """
        checksum, length = kind, 0
        for part in parts:
            checksum, length = zlib.crc32(part, checksum), length + len(part)
        size = FRAME.size + length
        if self.own.bytes_left + size > self.bytes_max:
            raise SpoolFull(
                f"The spool in {self.root} holds its {self.bytes_max} bytes; the database must take some first."
            )
        try:
            written = os.writev(self._file, (FRAME.pack(length, checksum, kind), *parts))
        except OSError as error:
            raise SpoolFull(f"The spool in {self.root} cannot be written: {error}") from error
        if written < size:
            os.ftruncate(self._file, self._written)
            raise SpoolFull(
                f"The disk under {self.root} is full: {written} of {size} bytes could be written."
            )
        self._written += size
        self.own.bytes_left += size
        if self._written >= self.segment_bytes:
            self._roll()

    def next_batch(self, *, records_max: int = 256, bytes_max: int = 1024 * 1024) -> Batch | None:
        """The oldest records, dead gateways' first; at least one if there is any, however large it is."""
        for queue in list(self.adopted):
            batch = queue.read(records_max, bytes_max)
            if batch is not None:
                return batch
            queue.remove()
            self.adopted.remove(queue)
        return self.own.read(records_max, bytes_max) if self.own.bytes_left else None

    def advance(self, batch: Batch) -> None:
        """Forget a batch: everything in it is in the record."""
        batch.queue.advance(batch)
        if batch.queue is self.own and not self.own.bytes_left and self._written > self.segment_bytes // 4:
            self._roll()

    def adopt(self) -> None:
        """Take over the directories of gateways that are gone."""
        for directory in sorted(self.root.glob("gateway-*")):
            if directory != self.own.directory and (queue := _Queue.claim(directory)) is not None:
                self.adopted.append(queue)

    def sync(self) -> None:
        """Wait until the disk has everything that was appended before this call. Blocks: call it from a thread."""
        file = os.dup(self._file)
        try:
            os.fdatasync(file)
        finally:
            os.close(file)

    def close(self) -> None:
        """Let go of the directory; removes it when nothing is left in it."""
        os.close(self._file)
        for queue in (self.own, *self.adopted):
            queue.remove() if not queue.bytes_left else queue.unlock()

    def _roll(self) -> None:
        if self._file >= 0:
            os.fdatasync(self._file)
            os.close(self._file)
        self._number += 1
        path = self.own.path(self._number)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._written = 0


class _Queue:
    """Reads one directory from its cursor on."""

    def __init__(self, directory: Path, lock: int) -> None:
        self.directory = directory
        self._lock = lock
        self._cursor_file = os.open(directory / "cursor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        numbers = self._segments()
        self._segment, self._offset = self._read_cursor() or (min(numbers, default=1), 0)
        self.bytes_left = sum(
            self.path(number).stat().st_size for number in numbers if number >= self._segment
        )
        self.bytes_left = max(0, self.bytes_left - self._offset)

    @classmethod
    def create(cls, directory: Path) -> "_Queue":
        # Locked before it has its name: another gateway, adopting, must not take it for a dead one's.
        unborn = directory.with_name(f".{directory.name}")
        unborn.mkdir(mode=0o700)
        queue = cls.claim(unborn)
        assert queue is not None
        unborn.rename(directory)
        queue.directory = directory
        return queue

    @classmethod
    def claim(cls, directory: Path) -> "_Queue | None":
        """Lock a directory; None while another process holds it, or when it has just gone."""
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(directory, lock)
        except (BlockingIOError, FileNotFoundError):
            os.close(lock)
            return None

    def path(self, number: int) -> Path:
        return self.directory / f"{number:08d}.log"

    def read(self, records_max: int, bytes_max: int) -> Batch | None:
        """The records after the cursor; a torn or damaged rest of a segment ends that segment."""
        last = max(self._segments(), default=0)
        while self._segment <= last:
            records, offset = _read_records(self.path(self._segment), self._offset, records_max, bytes_max)
            if records:
                return Batch(self, records, self._segment, offset)
            if self._segment == last:
                return None
            self._drop_segment()
        return None

    def advance(self, batch: Batch) -> None:
        self.bytes_left -= batch.offset - self._offset
        self._offset = batch.offset
        position = struct.pack("<QQ", self._segment, self._offset)
        os.pwrite(self._cursor_file, position + struct.pack("<I", zlib.crc32(position)), 0)

    def unlock(self) -> None:
        os.close(self._cursor_file)
        os.close(self._lock)

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.unlock()

    def _drop_segment(self) -> None:
        path = self.path(self._segment)
        if path.exists():
            self.bytes_left -= path.stat().st_size - self._offset
            path.unlink()
        self._segment, self._offset = self._segment + 1, 0

    def _segments(self) -> list[int]:
        return [int(path.stem) for path in self.directory.glob("*.log")]

    def _read_cursor(self) -> tuple[int, int] | None:
        data = os.pread(self._cursor_file, CURSOR.size, 0)
        if len(data) < CURSOR.size:
            return None
        segment, offset, checksum = CURSOR.unpack(data)
        return (
            (segment, offset) if checksum == zlib.crc32(data[:16]) and self.path(segment).exists() else None
        )


def _read_records(path: Path, offset: int, records_max: int, bytes_max: int) -> tuple[list[Record], int]:
    records: list[Record] = []
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return records, offset
    try:
        data = os.pread(file, bytes_max, offset)
        if len(data) >= FRAME.size:
            first = FRAME.size + FRAME.unpack_from(data)[0]
            if first > len(data):
                data = os.pread(file, first, offset)
    finally:
        os.close(file)
    at = 0
    while len(records) < records_max and at + FRAME.size <= len(data):
        length, checksum, kind = FRAME.unpack_from(data, at)
        payload = data[at + FRAME.size : at + FRAME.size + length]
        if len(payload) < length or zlib.crc32(payload, kind) != checksum:
            break
        records.append(Record(kind, payload))
        at += FRAME.size + length
    return records, offset + at
