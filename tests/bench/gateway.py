"""Measure what the gateway costs, against nginx and vllm-router in the same run: `python -m tests.bench.gateway`.

W1: short answers at 1, 16 and 64 callers. W2: 64 streams of 64 chunks, paced (5 ms between chunks) and saturated.
W3: memory of 256 slow streams. Rounds are interleaved, figures are medians; absolute figures move from machine to
machine, the ratios at the end are what counts. CPU of the gateway includes the process in which it records, and the
recording that it puts off: the clock stops when the last row is in the record. Needs gcc, nginx, and vllm-router in a
virtual environment of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import peers
from tests.bench.peers import TOOLS_CORE, Peer

STREAMS_HELD = 256
CHUNKS = 64


@dataclass(frozen=True)
class Workload:
    """One kind of traffic."""

    name: str
    callers: int
    stream: bool = False
    gap_us: int = 0

    def request(self, key: str) -> bytes:
        """The bytes of one request."""
        question = (
            f"chunks={CHUNKS} gap={self.gap_us} How many days do I have to return a lamp I do not like?"
        )
        messages = [
            {
                "role": "system",
                "content": "You answer questions of customers of a lamp shop, politely and briefly.",
            },
            {"role": "user", "content": question},
        ]
        fields = {"model": "support", "messages": messages, "stream": self.stream, "user": "customer-4711"}
        body = json.dumps(fields, separators=(",", ":")).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n"
            "content-type: application/json\r\nuser-agent: OpenAI/Python 2.8.0\r\n"
            f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


WORKLOADS = (
    Workload("W1 c1", 1),
    Workload("W1 c16", 16),
    Workload("W1 c64", 64),
    Workload("W2 paced", 64, stream=True, gap_us=5000),
    Workload("W2 saturated", 64, stream=True),
)
HELD = Workload("W3 held", STREAMS_HELD, stream=True, gap_us=100_000)


@dataclass(frozen=True)
class Measured:
    """One run of one workload."""

    per_second: float
    p50_us: float
    p99_us: float
    first_p50_us: float
    cpu_us: float
    chunks_per_second: float
    cpu_ms_per_1000_chunks: float
    errors: int


class Bench:
    """Runs workloads and keeps what was measured."""

    def __init__(self, directory: Path, seconds: float) -> None:
        self.directory = directory
        self.seconds = seconds
        self.load = peers.compile_tool("load", directory)
        self.measured: dict[tuple[str, str], list[Measured]] = {}
        self.memory_kb: dict[str, float] = {}

    def run(self, peer: Peer, workload: Workload) -> None:
        """Measure once more."""
        self._load(peer, workload, 0.3)
        peer.settle()
        before = peer.cpu_seconds()
        seen = self._load(peer, workload, self.seconds)
        peer.settle()
        cpu = peer.cpu_seconds() - before
        answers, events = max(seen["answers"], 1), max(seen["events"], 1)
        missing = seen["answers"] - seen["done"] if workload.stream else 0
        self.measured.setdefault((peer.name, workload.name), []).append(
            Measured(
                per_second=seen["answers"] / seen["seconds"],
                p50_us=seen["p50_us"],
                p99_us=seen["p99_us"],
                first_p50_us=seen["first_p50_us"],
                cpu_us=cpu / answers * 1e6,
                chunks_per_second=seen["events"] / seen["seconds"],
                cpu_ms_per_1000_chunks=cpu / events * 1e6,
                errors=int(seen["errors"] + missing),
            )
        )

    def hold(self, peer: Peer) -> None:
        """Memory per open stream, late in 256 slow ones; the process has answered before, and is otherwise fresh."""
        self._load(peer, Workload("warm", 16), 1.0)
        peer.settle()
        before = peer.memory_bytes()
        mark = self.directory / f"{peer.name}.mark"
        process = subprocess.Popen(self._command(peer, HELD, 6.0, mark), stdout=subprocess.DEVNULL)
        while not mark.exists():
            time.sleep(0.05)
        time.sleep(4.5)
        self.memory_kb[peer.name] = (peer.memory_bytes() - before) / 1024 / STREAMS_HELD
        process.wait()
        peer.settle()

    def _load(self, peer: Peer, workload: Workload, seconds: float) -> dict[str, float]:
        done = subprocess.run(self._command(peer, workload, seconds), check=True, capture_output=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def _command(self, peer: Peer, workload: Workload, seconds: float, mark: Path | None = None) -> list[str]:
        request = self.directory / f"{peer.name}-{workload.name.replace(' ', '-')}.request"
        request.write_bytes(workload.request(peer.key))
        command = ["taskset", "-c", str(TOOLS_CORE), str(self.load), str(peer.port)]
        command += [str(workload.callers), str(seconds), str(request)]
        return command if mark is None else [*command, str(mark)]

    def figure(self, peer: str, workload: str, field: str) -> float:
        """The median of one figure over the rounds."""
        return float(median(getattr(one, field) for one in self.measured[peer, workload]))


def report(bench: Bench, names: list[str]) -> str:
    """Tables of all figures, then the ratios of the goals."""
    lines = [
        "",
        f"{'':14}{'workload':14}{'req/s':>9}{'p50 us':>9}{'p99 us':>9}{'first us':>9}{'CPU us':>8}{'errors':>8}",
    ]
    for workload in WORKLOADS:
        for name in names:
            seen = bench.measured[name, workload.name]
            row = f"{name:14}{workload.name:14}"
            for field, width in (
                ("per_second", 9),
                ("p50_us", 9),
                ("p99_us", 9),
                ("first_p50_us", 9),
                ("cpu_us", 8),
            ):
                row += f"{bench.figure(name, workload.name, field):>{width}.0f}"
            row += f"{sum(one.errors for one in seen):>8}"
            if workload.stream:
                row += f"  {bench.figure(name, workload.name, 'chunks_per_second'):.0f} chunks/s"
                row += f", {bench.figure(name, workload.name, 'cpu_ms_per_1000_chunks'):.1f} CPU ms/1000"
            lines.append(row)
    lines += [f"{name:14}W3 {kb:.1f} KB per open stream" for name, kb in bench.memory_kb.items()]
    for name in names:
        if name.startswith("hone"):
            lines += [
                "",
                f"{name}, ratios of the goals (a goal is met at or left of its sign)",
                *goals(bench, name),
            ]
    return "\n".join(lines)


def goals(bench: Bench, name: str) -> list[str]:
    """One line for each goal."""

    def added(peer: str, workload: str, field: str) -> float:
        return bench.figure(peer, workload, field) - bench.figure("direct", workload, field)

    rate = bench.figure(name, "W1 c16", "per_second") / bench.figure("vllm-router", "W1 c16", "per_second")
    cpu = bench.figure("vllm-router", "W1 c16", "cpu_us") / bench.figure(name, "W1 c16", "cpu_us")
    latency = added(name, "W1 c1", "p50_us") / added("nginx", "W1 c1", "p50_us")
    field = "cpu_ms_per_1000_chunks"
    chunks = bench.figure(name, "W2 saturated", field) / bench.figure("nginx", "W2 saturated", field)
    first = added(name, "W2 paced", "first_p50_us") / 1000
    return [
        f"  req/s at 16 callers / vllm-router's       {rate:6.2f}   goal >= 1.0  stretch >= 2.0",
        f"  the same per CPU second                   {cpu:6.2f}",
        f"  added p50 at 1 caller / nginx's           {latency:6.2f}   goal <= 2.0  stretch <= 1.2",
        f"  CPU per 1000 saturated chunks / nginx's   {chunks:6.2f}   goal <= 1.2  stretch <= 1.0",
        f"  added time to first token, 64 paced, ms   {first:6.2f}   goal <= 1.5  stretch <= 0.5",
        f"  KB per open stream                        {bench.memory_kb.get(name, 0):6.1f}   goal <= 30   stretch <= 12",
    ]


def main() -> None:
    """Run the rounds and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--vllm-router", type=Path, required=True, help="path of the vllm-router program")
    parser.add_argument("--asgi", action="store_true", help="measure the gateway without its fast lane, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as home, ExitStack() as stack:
        directory = Path(home)
        bench = Bench(directory, given.seconds)
        direct = stack.enter_context(peers.mock_engine(directory))
        others = [
            stack.enter_context(peers.nginx(directory, direct.port)),
            stack.enter_context(peers.vllm_router(directory, direct.port, given.vllm_router)),
            stack.enter_context(peers.hone(directory, direct.port, Path(sys.executable))),
        ]
        if given.asgi:
            others.append(
                stack.enter_context(peers.hone(directory, direct.port, Path(sys.executable), fast_lane=False))
            )
        for peer in others:
            bench.hold(peer)
        for number in range(given.rounds):
            for workload in WORKLOADS:
                for peer in (direct, *others):
                    bench.run(peer, workload)
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
        print(report(bench, ["direct", *(peer.name for peer in others)]))


if __name__ == "__main__":
    main()
