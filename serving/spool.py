"""A gateway's own disk queue: what was written here survives the gateway and outwaits the database.

A spool is a directory of append-only segments, preallocated and mapped into memory: appending is a copy into the
page cache, which outlives a killed process, and costs no system call. A record's frame (length, CRC-32, kind) is
written after its payload, so a kill leaves at most one record without a frame, of which nobody was told that it is
safe.
`sync` writes to the platter what the system still holds; between two syncs a power cut, not a kill, may cost records.

One reader follows the writer, in the same process or in another: `next_batch` shows the oldest records, `advance`
forgets them once they are stored. A crash between the two shows them again, so whoever inserts them must be idempotent.
The writer learns from the cursor in the directory what was stored. A reader adopts the directories of gateways that
died: the lock on a directory ends with the processes that hold it.

Bounded in bytes: a full spool, or disk, refuses (`SpoolFull`) and keeps what it has. Space is reserved a segment at a
time, so a disk that fills up is noticed there and not inside a record.
"""

import fcntl
import logging
import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from feedback.ids import new_hex

logger = logging.getLogger(__name__)

FRAME = struct.Struct("<IIB")
"""Length of the payload in bytes (0: no record yet), CRC-32 of kind and payload, kind."""

CURSOR = struct.Struct("<QQI")
"""Segment number, offset in it, CRC-32 of both."""

SEGMENT_BYTES = 4 * 1024 * 1024
COMPLETION, FEEDBACK, ROW = 1, 2, 3


class SpoolFull(Exception):
    """The spool holds as many bytes as it may, or the disk is full."""


class Record(NamedTuple):
    """One record as it was appended."""

    kind: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """The oldest records of one directory, and where reading goes on after them."""

    queue: "Queue"
    records: list[Record]
    offset: int


class Reader:
    """Reads what one gateway spooled, and what dead ones left."""

    def __init__(self, own: "Queue") -> None:
        self.own = own
        self.root = own.directory.parent
        self.adopted: list[Queue] = []
        self._unreadable: set[Path] = set()
        self._synced = 1

    @property
    def adopted_bytes(self) -> int:
        """Bytes in adopted directories that are not stored yet."""
        return sum(queue.bytes_left for queue in self.adopted)

    def next_batch(self, *, records_max: int = 1024, bytes_max: int = 1024 * 1024) -> Batch | None:
        """The oldest records, dead gateways' first; at least one if there is any, however large it is."""
        for queue in list(self.adopted):
            batch = queue.read(records_max, bytes_max)
            if batch is not None:
                return batch
            queue.remove()
            self.adopted.remove(queue)
        return self.own.read(records_max, bytes_max)

    def advance(self, batch: Batch) -> None:
        """Forget a batch: everything in it is stored."""
        batch.queue.advance(batch.offset)

    def adopt(self) -> None:
        """Take over the directories of gateways that are gone."""
        for directory in sorted(self.root.glob("gateway-*")):
            if directory == self.own.directory:
                continue
            try:
                queue = Queue.claim(directory)
            except OSError as error:
                # What is in one that cannot be read waits; what this gateway answers is recorded.
                if directory not in self._unreadable:
                    logger.warning("Completions wait in %s, which cannot be taken over: %s", directory, error)
                self._unreadable.add(directory)
            else:
                self.adopted += [queue] if queue is not None else []

    def sync(self) -> None:
        """Wait until the disk has everything that was appended before this call. Blocks: call it from a thread."""
        numbers = [number for number in sorted(self.own.segments()) if number >= self._synced]
        for number in numbers:
            with suppress(FileNotFoundError):  # stored and deleted meanwhile
                file = os.open(self.own.path(number), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(file)
                finally:
                    os.close(file)
        self._synced = max(numbers, default=self._synced)


class Spool(Reader):
    """The spool of one gateway process: its writer, which may be its reader, too."""

    def __init__(
        self,
        root: Path,
        *,
        bytes_max: int = 4 * 1024**3,
        segment_bytes: int = SEGMENT_BYTES,
        read_elsewhere: bool = False,
    ) -> None:
        """Open a new directory under `root`; `bytes_max` bounds what this process has spooled and not stored.

        With `read_elsewhere` a reader in another process takes what is here, and adopts.
        """
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(Queue.create(root / f"gateway-{new_hex()}"))
        self.bytes_max = bytes_max
        self.segment_bytes = segment_bytes
        self._appended = 0
        self._stored = 0
        self._starts: dict[int, int] = {}
        self._number = 0
        self._segment = self._open_segment(segment_bytes)
        self._at = 0
        if not read_elsewhere:
            self.adopt()

    @property
    def own_bytes(self) -> int:
        """Bytes of this process that are not stored yet, as the cursor says."""
        segment, offset = self.own.cursor()
        if segment in self._starts:  # Not so, for a moment, while the cursor is being written.
            self._stored = self._starts[segment] + offset
            self._starts = {number: start for number, start in self._starts.items() if number >= segment}
        return self._appended - self._stored

    @property
    def depth_bytes(self) -> int:
        """Bytes that are not stored yet, those of adopted directories included."""
        return self.own_bytes + self.adopted_bytes

    def append(self, kind: int, *parts: bytes | bytearray) -> None:
        """Write one record, the concatenation of `parts`. When this returns, killing the process cannot lose it.

        Raises:
            SpoolFull: the spool or the disk is full; nothing was written.
        """
        length = sum(map(len, parts))
        size = FRAME.size + length
        left_at_most = self._appended - self._stored
        if left_at_most + size > self.bytes_max and self.own_bytes + size > self.bytes_max:
            raise SpoolFull(
                f"The spool in {self.root} holds its {self.bytes_max} bytes; the database must take some first."
            )
        if self._at + size > len(self._segment):
            self._roll(size)
        segment, checksum, start = self._segment, kind, self._at + FRAME.size
        for part in parts:
            checksum, end = zlib.crc32(part, checksum), start + len(part)
            segment[start:end] = part
            start = end
        FRAME.pack_into(segment, self._at, length, checksum, kind)
        self._at = start
        self._appended += size

    def renew(self) -> bool:
        """Delete what is stored from the disk too, by beginning a new segment; False while some is not stored yet."""
        if self._at:
            self._roll(0)
        if self.own_bytes or self.adopted:
            return False
        for number in self.own.segments():
            if number < self._number:
                self.own.path(number).unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Let go of the directory; removes it when nothing is left in it."""
        self._segment.close()
        for queue, left in ((self.own, self.own_bytes), *((one, one.bytes_left) for one in self.adopted)):
            if left:
                queue.unlock()
            else:
                queue.remove()

    def _roll(self, size: int) -> None:
        try:
            segment = self._open_segment(max(size, self.segment_bytes))
        except OSError as error:
            raise SpoolFull(f"The disk under {self.root} does not take another segment: {error}.") from error
        self._segment.close()
        self._segment, self._at = segment, 0

    def _open_segment(self, size: int) -> mmap.mmap:
        path = self.own.path(self._number + 1)
        # Named once there is room for it: at its name, the reader leaves the segment before it for ever.
        unborn = path.with_suffix(".new")
        file = os.open(unborn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Reserved, not sparse: writing to a mapped page that finds no room on the disk kills the process.
            os.posix_fallocate(file, 0, size)
            segment = mmap.mmap(file, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            unborn.rename(path)
        except OSError:
            unborn.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        self._number += 1
        self._starts[self._number] = self._appended
        return segment


def find_waiting(root: Path, kind: int, words: bytes) -> Iterator[bytes]:
    """Payloads of this kind that hold `words` and are not stored yet, of every gateway that spools under `root`.

    Takes no lock and changes nothing. What is stored meanwhile may be missed: whoever asks looks into the record, too.
    """
    for directory in sorted(root.glob("gateway-*")):
        with suppress(OSError):
            yield from _search(directory, kind, words)


def _search(directory: Path, kind: int, words: bytes) -> Iterator[bytes]:
    segment, offset = _read_cursor((directory / "cursor").read_bytes())
    for path in sorted(directory.glob("*.log")):
        if int(path.stem) < segment:
            continue
        at = offset if int(path.stem) == segment else 0
        while (found := _read_records(path, at, 1024, SEGMENT_BYTES))[0]:
            records, at = found
            yield from (one.payload for one in records if one.kind == kind and words in one.payload)


class Queue:
    """One directory, read from its cursor on."""

    def __init__(self, directory: Path, lock: int) -> None:
        """Read `directory`, whose `lock` is held by this process or its parent."""
        self.directory = directory
        self.lock = lock
        self._cursor_file = os.open(directory / "cursor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        numbers = sorted(self.segments())
        self._segment, self._offset = self.cursor()
        if not self.path(self._segment).exists():  # It was stored to its end and deleted.
            self._segment, self._offset = (numbers[0] if numbers else 1), 0
        ends = {number: _end_of_records(self.path(number)) for number in numbers if number >= self._segment}
        self.bytes_left = sum(ends.values()) - self._offset

    @classmethod
    def create(cls, directory: Path) -> "Queue":
        """A new, locked directory."""
        # Locked before it has its name: another gateway, adopting, must not take it for a dead one's.
        unborn = directory.with_name(f".{directory.name}")
        unborn.mkdir(mode=0o700)
        queue = cls.claim(unborn)
        assert queue is not None
        unborn.rename(directory)
        queue.directory = directory
        return queue

    @classmethod
    def claim(cls, directory: Path) -> "Queue | None":
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
        except OSError:
            os.close(lock)
            raise

    def path(self, number: int) -> Path:
        """The file of a segment."""
        return self.directory / f"{number:08d}.log"

    def read(self, records_max: int, bytes_max: int) -> Batch | None:
        """The records after the cursor. A segment ends at the first frame that is not whole."""
        while True:
            # Asked before reading: once there is a next segment, nothing is added to this one.
            ended = self.path(self._segment + 1).exists()
            records, offset = _read_records(self.path(self._segment), self._offset, records_max, bytes_max)
            if records:
                return Batch(self, records, offset)
            if not ended:
                return None
            self.path(self._segment).unlink(missing_ok=True)
            self._segment, self._offset = self._segment + 1, 0

    def advance(self, offset: int) -> None:
        """Move the cursor within the segment that was read last."""
        self.bytes_left -= offset - self._offset
        self._offset = offset
        position = struct.pack("<QQ", self._segment, self._offset)
        os.pwrite(self._cursor_file, position + struct.pack("<I", zlib.crc32(position)), 0)

    def unlock(self) -> None:
        """Leave the directory to whoever adopts it."""
        os.close(self._cursor_file)
        os.close(self.lock)

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.unlock()

    def segments(self) -> list[int]:
        """The numbers of the segments that are there."""
        return [int(path.stem) for path in self.directory.glob("*.log")]

    def cursor(self) -> tuple[int, int]:
        """Segment and offset up to which everything is stored, as far as the directory says."""
        return _read_cursor(os.pread(self._cursor_file, CURSOR.size, 0))


def _read_cursor(data: bytes) -> tuple[int, int]:
    if len(data) < CURSOR.size or zlib.crc32(data[:16]) != CURSOR.unpack(data)[2]:
        return 1, 0
    segment, offset, _ = CURSOR.unpack(data)
    return segment, offset


def _end_of_records(path: Path) -> int:
    """Where the last whole record of a segment ends; what follows it was torn by a kill, or lost by a disk."""
    offset = 0
    while True:
        records, after = _read_records(path, offset, 4096, SEGMENT_BYTES)
        if not records:
            return offset
        offset = after


def _read_records(path: Path, offset: int, records_max: int, bytes_max: int) -> tuple[list[Record], int]:
    records: list[Record] = []
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return records, offset
    try:
        frame = os.pread(file, FRAME.size, offset)
        length = FRAME.unpack(frame)[0] if len(frame) == FRAME.size else 0
        data = os.pread(file, max(bytes_max, FRAME.size + length), offset) if length else b""
    finally:
        os.close(file)
    at = 0
    while len(records) < records_max and at + FRAME.size <= len(data):
        length, checksum, kind = FRAME.unpack_from(data, at)
        payload = data[at + FRAME.size : at + FRAME.size + length]
        if not length or len(payload) < length or zlib.crc32(payload, kind) != checksum:
            break
        records.append(Record(kind, payload))
        at += FRAME.size + length
    return records, offset + at
