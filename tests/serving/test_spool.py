"""The spool: everything appended comes out once, in order, whatever dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.spool import COMPLETION, FEEDBACK, FRAME, Spool, SpoolFull

payloads = st.lists(st.binary(min_size=1, max_size=400), max_size=40)


def drain(spool: Spool) -> list[bytes]:
    """Everything in the spool, oldest first."""
    found = []
    while (batch := spool.next_batch(records_max=7, bytes_max=1000)) is not None:
        found += [record.payload for record in batch.records]
        spool.advance(batch)
    return found


@given(records=payloads, drained_after=st.integers(0, 40))
@settings(max_examples=50)
def test_what_goes_in_comes_out_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], drained_after: int
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"), segment_bytes=1000)
    found = []
    for number, record in enumerate(records):
        spool.append(COMPLETION, record[:1], record[1:])
        if number == drained_after:
            found += drain(spool)
    found += drain(spool)
    assert found == records
    assert spool.depth_bytes == 0
    spool.close()
    assert list(spool.root.iterdir()) == []


@given(records=payloads, kept=st.integers(0, 10_000), stored=st.integers(0, 3))
@settings(max_examples=50)
def test_a_torn_tail_costs_the_torn_record_only(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], kept: int, stored: int
) -> None:
    root = tmp_path_factory.mktemp("spool")
    dead = Spool(root)
    for record in records:
        dead.append(COMPLETION, record)
    sizes = [FRAME.size + len(record) for record in records]
    for _ in range(stored):
        if (batch := dead.next_batch(records_max=1)) is not None:
            dead.advance(batch)
    segment = dead.own.path(1)
    torn_at = max(kept % (sum(sizes) + 1), sum(sizes[:stored]))
    dead.own.unlock()
    with segment.open("r+b") as file:
        file.truncate(torn_at)
        file.truncate(sum(sizes) + 100)
    whole = [record for number, record in enumerate(records) if sum(sizes[: number + 1]) <= torn_at]
    spool = Spool(root)
    assert drain(spool) == whole[stored:]
    spool.close()


def test_a_record_larger_than_a_segment_or_a_batch_is_no_problem(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=1000)
    spool.append(COMPLETION, b"a" * 5000)
    spool.append(FEEDBACK, b"b")
    assert drain(spool) == [b"a" * 5000, b"b"]


def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path, bytes_max=100)
    spool.append(COMPLETION, b"a" * 80)
    with pytest.raises(SpoolFull, match="100 bytes"):
        spool.append(COMPLETION, b"b" * 80)
    assert drain(spool) == [b"a" * 80]
    spool.append(COMPLETION, b"b" * 80)
    assert drain(spool) == [b"b" * 80]


def test_a_disk_without_room_for_a_segment_refuses_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, segment_bytes=200)
    spool.append(COMPLETION, b"a" * 150)

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(SpoolFull, match="No space left"):
            spool.append(COMPLETION, b"b" * 150)
    spool.append(COMPLETION, b"c" * 150)
    assert drain(spool) == [b"a" * 150, b"c" * 150]


def test_a_segment_that_found_no_room_does_not_make_the_reader_leave_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, segment_bytes=200)
    spool.append(COMPLETION, b"a" * 150)

    def read_meanwhile(*_: object) -> None:
        assert drain(spool) in ([b"a" * 150], [])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", read_meanwhile)
        for _ in range(2):
            with pytest.raises(SpoolFull, match="No space left"):
                spool.append(COMPLETION, b"b" * 150)
    spool.append(COMPLETION, b"there is room for this")
    assert drain(spool) == [b"there is room for this"]
    assert spool.depth_bytes == 0
    assert sorted(path.suffix for path in spool.own.directory.iterdir()) == ["", ".log"]


def test_a_damaged_segment_does_not_hide_the_next(tmp_path: Path) -> None:
    dead = Spool(tmp_path, segment_bytes=200)
    for letter in (b"a", b"b", b"c"):
        dead.append(COMPLETION, letter * 150)
    dead.own.unlock()
    dead.own.path(2).write_bytes(os.urandom(200))
    assert drain(Spool(tmp_path)) == [b"a" * 150, b"c" * 150]


def test_a_living_gateways_directory_is_left_alone(tmp_path: Path) -> None:
    living = Spool(tmp_path)
    living.append(COMPLETION, b"mine")
    other = Spool(tmp_path)
    assert drain(other) == []
    assert drain(living) == [b"mine"]


WRITER = """
import sys
from pathlib import Path
from serving.spool import COMPLETION, Spool
spool = Spool(Path(sys.argv[1]), segment_bytes=4000)
number = 0
while True:
    spool.append(COMPLETION, b"%d " % number, b"x" * (number % 997))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


@pytest.mark.parametrize("seconds", [0.05, 0.2])
def test_killing_the_writer_loses_nothing_that_was_said_to_be_safe(tmp_path: Path, seconds: float) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline())]
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().splitlines()]
    found = [int(payload.split()[0]) for payload in drain(Spool(tmp_path))]
    assert found[: len(said)] == said
    assert len(found) - len(said) <= 1


def test_a_directory_that_cannot_be_taken_over_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gateway-foreign" / "cursor").mkdir(parents=True)
    spool = Spool(tmp_path)
    spool.append(COMPLETION, b"mine")
    spool.adopt()
    assert drain(spool) == [b"mine"]
    assert caplog.text.count("cannot be taken over") == 1
