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
        # Linux tells the peak of the largest process exactly; that of several together is sampled.
        resident_mb=max(sampler.resident_kb, usage.ru_maxrss) / 1024,
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
                self.memory_kb = max(self.memory_kb, sum(memory for memory, _ in tree))
                self.resident_kb = max(self.resident_kb, sum(resident for _, resident in tree))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _memory(pid: int) -> tuple[int, int]:
    """Return the memory of a process that no file backs, and all that is resident, in KiB; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("Rss", "VmRSS")))
    anonymous = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem") if name in fields)
    return anonymous, int(fields["VmRSS"].split()[0]) if "VmRSS" in fields else 0


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
