"""What a process of its own costs: wall time, CPU seconds, peak memory of it and its children."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Short enough to see a peak that lasts, long enough to cost nothing.
SAMPLE_SECONDS = 0.1
_TAIL = 2000


@dataclass(frozen=True)
class Cost:
    """What a process cost, from its start to its end, with its children.

    Attributes:
        wall_s: Wall time, s.
        cpu_s: CPU time of user and system, s.
        memory_mb: Highest sampled memory that is not backed by files, MiB: what the kernel cannot take back.
        resident_mb: Highest resident memory, MiB; pages of files that are mapped or written count too.
    """

    wall_s: float
    cpu_s: float
    memory_mb: float
    resident_mb: float


def run_measured(command: list[str], environment: dict[str, str], log: Path) -> Cost:
    """Run a command and measure it.

    Args:
        command: The command.
        environment: Its environment.
        log: File for what it prints.

    Returns:
        What it cost.

    Raises:
        RuntimeError: It failed; the message ends with what it printed last.
    """
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    sampler = _Sampler(process.pid)
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    sampler.stop()
    if process.returncode:
        last = log.read_text(errors="replace")[-_TAIL:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{last}")
    return Cost(
        wall_s=wall,
        cpu_s=usage.ru_utime + usage.ru_stime,
        memory_mb=sampler.memory_kb / 1024,
        resident_mb=sampler.resident_kb / 1024,
    )


class _Sampler(threading.Thread):
    """Samples the memory of a process and its children until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.memory_kb = 0
        self.resident_kb = 0

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            with suppress(psutil.Error, OSError):
                process = psutil.Process(self._pid)
                tree = [_memory(one.pid) for one in [process, *process.children(recursive=True)]]
                self.memory_kb = max(self.memory_kb, sum(one.anonymous for one in tree))
                # Linux tells the peak of each process; that of several together is sampled.
                self.resident_kb = max(self.resident_kb, sum(one.resident for one in tree), *(one.peak for one in tree))

    def stop(self) -> None:
        self._ended.set()
        self.join()


@dataclass(frozen=True)
class _Memory:
    """Memory of one process, in KiB: not backed by files, resident, and the most that was resident since it began."""

    anonymous: int = 0
    resident: int = 0
    peak: int = 0


def _memory(pid: int) -> _Memory:
    """Return the memory of a process; zeros where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return _Memory()
    # Not getrusage's peak, which begins with that of the process that started this one.
    sizes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.endswith(" kB")
    }
    return _Memory(sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0), sizes.get("VmRSS", 0), sizes.get("VmHWM", 0))


class DiskPeak:
    """Samples how many bytes lie below a folder, while a block runs.

    Args:
        folder: The folder.

    Attributes:
        peak: Most bytes seen.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self) -> DiskPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.peak = max(self.peak, folder_bytes(self._folder))

    def _watch(self) -> None:
        while not self._ended.wait(5 * SAMPLE_SECONDS):
            self.peak = max(self.peak, folder_bytes(self._folder))


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
