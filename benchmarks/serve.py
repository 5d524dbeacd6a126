"""The server against `mlflow models serve` of the same model and the bare model call: ``python -m benchmarks.serve``.

Clients run in a process of their own and send requests without a pause; they share the machine's cores with the server,
so the CPU time of both is told. Every figure is the median of several rounds, in which the servers take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import uvloop
import yaml

from benchmarks.machine import machine
from components.register.settings import RegisterSettings
from serving.patients import parse_patients, parse_patients_json
from serving.predictor import Predictor, find_model_folder

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "serving" / "page" / "examples"
CHAMPION = "champion"
CLIENTS = (1, 8, 32)
START_SECONDS = 180
# What is aimed at: p99 in ms and times MLflow's throughput, both at 8 clients; times the bare call, at one client.
AIM_CLIENTS, AIM_P99, AIM_TIMES_MLFLOW, AIM_TIMES_BARE = 8, 50, 5, 1.5
MLFLOW = "mlflow models serve"


@dataclass(frozen=True)
class Figures:
    """What one round of requests took.

    Attributes:
        p50: Median latency, ms.
        p99: 99th percentile of the latency, ms.
        throughput: Answers a second.
        answers: How many answers there were.
        cpu: CPU time of an answer in the server, or of a call in this process, ms.
        client_cpu: CPU time of an answer in the clients, ms.
    """

    p50: float
    p99: float
    throughput: float
    answers: int
    cpu: float = 0.0
    client_cpu: float = 0.0


def figures(milliseconds: list[float], seconds: float, **cpu_seconds: float) -> Figures:
    """Sum up one round.

    Args:
        milliseconds: Latency of each answer.
        seconds: Length of the round.
        cpu_seconds: CPU time of all answers together, by the name of the figure.
    """
    ordered = sorted(milliseconds)
    count = len(ordered)
    each = {name: 1000 * used / count for name, used in cpu_seconds.items()}
    return Figures(
        statistics.median(ordered), ordered[min(count - 1, int(count * 0.99))], count / seconds, count, **each
    )


def median(rounds: list[Figures]) -> Figures:
    """Return the median of each figure over the rounds."""
    names = [item.name for item in fields(Figures)]
    return Figures(*(statistics.median(getattr(one, name) for one in rounds) for name in names))


def example_patients() -> list[dict[str, Any]]:
    """Return the page's synthetic patients, as the server takes them."""
    return [json.loads(path.read_text())["patient"] for path in sorted(EXAMPLES.glob("*.json")) if path.stem != "index"]


async def _ask(url: str, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    import aiohttp

    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        turn = number
        while (started := time.perf_counter()) < end:
            async with session.post(url, data=bodies[turn % len(bodies)]) as answer:
                text = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{url} answered {answer.status}: {text[:200]!r}")
            taken.append((time.perf_counter() - started) * 1000)
            turn += 1

    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    return taken


def _load(url: str, bodies: list[bytes], clients: int, seconds: float) -> Figures:
    started, used = time.perf_counter(), time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        taken = runner.run(_ask(url, bodies, clients, seconds))
    return figures(taken, time.perf_counter() - started, client_cpu=time.process_time() - used)


def measure(server: Server, path: str, bodies: list[bytes], clients: int, seconds: float) -> Figures:
    """Send requests without a pause from a process of their own.

    Args:
        server: To whom.
        path: Where to.
        bodies: Requests, taken in turn.
        clients: Requests at a time.
        seconds: For how long.

    Returns:
        The figures.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        before = server.cpu_seconds()
        found = pool.apply(_load, (server.url + path, bodies, clients, seconds))
        return replace(found, cpu=1000 * (server.cpu_seconds() - before) / found.answers)


def bare(predictor: Predictor, bodies: list[bytes], seconds: float, parse: bool) -> Figures:
    """Call the model in this process, one patient after the other.

    Args:
        predictor: The model.
        bodies: Patients as JSON lists of one.
        seconds: For how long.
        parse: Whether the JSON is parsed each time.
    """
    patients = [parse_patients_json(body) for body in bodies]

    def call(turn: int) -> None:
        place = turn % len(bodies)
        predictor.diagnose(parse_patients_json(bodies[place]) if parse else patients[place])

    return _repeat(call, seconds)


def network(predictor: Predictor, seconds: float) -> Figures:
    """Run the network alone on one patient's arrays: onnxruntime without any preparation."""
    inputs = predictor.preparer.prepare(parse_patients(example_patients()[:1])).inputs
    return _repeat(lambda turn: predictor.session.run(None, inputs), seconds)


def _repeat(call: Callable[[int], object], seconds: float) -> Figures:
    taken: list[float] = []
    begun, used = time.perf_counter(), time.process_time()
    while (started := time.perf_counter()) < begun + seconds:
        call(len(taken))
        taken.append((time.perf_counter() - started) * 1000)
    return figures(taken, time.perf_counter() - begun, cpu=time.process_time() - used)


class Server:
    """A server in a process of its own.

    Args:
        command: How it is started; ``{port}`` stands for the port.
        ready: Path that answers 200 once it is ready.
        environment: Of the process.
    """

    def __init__(self, command: list[str], ready: str, environment: dict[str, str], log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        port = self.url.rpartition(":")[2]
        started = time.perf_counter()
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [part.format(port=port) for part in command], env=environment, stdout=stream, stderr=stream, cwd=ROOT
            )
        while not self._answers(ready):
            if self.process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                raise RuntimeError(f"{command[2]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        self.cold_start = time.perf_counter() - started

    def _answers(self, path: str) -> bool:
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(self.url + path, timeout=5) as answer,
        ):
            return answer.status == 200
        return False

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and its children so far."""
        times = [one.cpu_times() for one in self._processes()]
        return sum(one.user + one.system for one in times)

    def peak_memory(self) -> float:
        """Return the peak resident memory of the process and its children, in MB."""
        status = (Path(f"/proc/{one.pid}/status").read_text() for one in self._processes())
        peaks = (line.split()[1] for text in status for line in text.splitlines() if line.startswith("VmHWM"))
        return sum(int(peak) for peak in peaks) / 1024

    def stop(self) -> None:
        """End it and its children."""
        processes = self._processes()
        for one in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                one.terminate()
        psutil.wait_procs(processes, 30)


@contextmanager
def running(servers: dict[str, Callable[[], Server]]) -> Iterator[dict[str, Server]]:
    """Start servers one after the other, so that cold starts don't slow each other; stop all at the end."""
    started: dict[str, Server] = {}
    try:
        for name, start in servers.items():
            started[name] = start()
        yield started
    finally:
        for server in started.values():
            server.stop()


def main() -> None:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"), help="of `vitalfuse run`")
    parser.add_argument("--model", default=RegisterSettings().model_name)
    parser.add_argument("--seconds", type=float, default=5, help="of one round at one number of clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="measured beside one worker")
    options = parser.parse_args()
    database = options.workspace.absolute() / "mlflow.db"
    if not database.is_file():
        sys.exit(f"bench-serve: {options.workspace} holds no registered model; run `make run` first")

    import mlflow

    uri = f"sqlite:///{database}"
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    registered = f"models:/{options.model}/{client.get_model_version_by_alias(options.model, CHAMPION).version}"
    patients = example_patients()
    plain = [json.dumps({"patients": [patient]}).encode() for patient in patients]
    records = [json.dumps({"inputs": [patient]}).encode() for patient in patients]
    single = [json.dumps([patient]).encode() for patient in patients]
    with tempfile.TemporaryDirectory(prefix="vitalfuse-bench-") as temporary:
        folder = Path(temporary)
        downloaded = mlflow.artifacts.download_artifacts(registered, dst_path=str(folder / "m"))
        predictor = Predictor.load(find_model_folder(Path(downloaded)))
        environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
        own = [sys.executable, "-m", "pipelines.cli", "serve", "--workspace", str(options.workspace)]
        own += ["--model", options.model, "--port", "{port}", "--set", f"serve.cache={folder / 'cache'}"]
        # One address sends all requests here, so the limit for one address is lifted.
        own += ["--set", "serve.rate_limit=null", "--set", f"tracking.uri={uri}"]
        theirs = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--port", "{port}"]
        theirs += ["--model-uri", registered]
        # MLflow finds uvicorn by the path, and the code comes with the model.
        search = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
        outside = {name: value for name, value in environment.items() if name != "PYTHONPATH"} | {"PATH": search}
        commands: dict[str, Callable[[], Server]] = {
            own_name(workers): partial(
                Server,
                [*own, "--set", f"serve.workers={workers}"],
                "/v2/health/ready",
                environment,
                folder / f"{workers}.log",
            )
            for workers in sorted({1, options.workers})
        }
        commands[MLFLOW] = lambda: Server(theirs, "/ping", outside, folder / "mlflow.log")
        report(predictor, commands, {"plain": plain, "records": records, "single": single}, options)


def own_name(workers: int) -> str:
    """Return how the server is called in the table."""
    return f"vitalfuse serve, {workers} worker{'s' if workers > 1 else ''}"


def report(
    predictor: Predictor,
    commands: dict[str, Callable[[], Server]],
    bodies: dict[str, list[bytes]],
    options: argparse.Namespace,
) -> None:
    """Measure round by round, and print the tables and how they compare with the aims."""
    plain, records = ("/v1/diagnose", bodies["plain"]), ("/invocations", bodies["records"])
    ways = [(name, *way) for name in commands for way in ((records,) if name == MLFLOW else (plain, records))]
    rounds: dict[tuple[str, str, int], list[Figures]] = {}
    calls: dict[str, list[Figures]] = {"network alone": [], "model call": [], "model call and JSON": []}
    with running(commands) as servers:
        cold_memory = {name: server.peak_memory() for name, server in servers.items()}
        for name, path, sent in ways:
            measure(servers[name], path, sent, 2, 1)
        for _ in range(options.rounds):
            calls["network alone"].append(network(predictor, options.seconds / 2))
            calls["model call"].append(bare(predictor, bodies["single"], options.seconds / 2, parse=False))
            calls["model call and JSON"].append(bare(predictor, bodies["single"], options.seconds / 2, parse=True))
            for clients in CLIENTS:
                for name, path, sent in ways:
                    found = measure(servers[name], path, sent, clients, options.seconds)
                    rounds.setdefault((name, path, clients), []).append(found)
        memory = {name: server.peak_memory() for name, server in servers.items()}
        cold = {name: server.cold_start for name, server in servers.items()}
    medians = {key: median(found) for key, found in rounds.items()}
    in_process = {name: median(found) for name, found in calls.items()}
    print(f"Machine: {machine()}; load {os.getloadavg()[0]:.1f} at the end")
    sizes = sorted(len(body) for body in bodies["single"])
    print(f"Requests: one patient each, {len(sizes)} patients in turn, {sizes[0]:,} to {sizes[-1]:,} bytes of JSON.")
    print(f"{options.rounds} rounds of {options.seconds:g} s.\n")
    print("| | clients | p50 ms | p99 ms | answers/s | CPU ms an answer | of the clients |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for call, found in in_process.items():
        _row(f"{call}, in process", 1, found)
    for (name, path, clients), found in medians.items():
        _row(f"{name}, {path}", clients, found)
    print("\n| | cold start s | memory when ready MB | peak memory MB |\n| --- | ---: | ---: | ---: |")
    for name in servers:
        print(f"| {name} | {cold[name]:.1f} | {cold_memory[name]:.0f} | {memory[name]:.0f} |")
    paper = yaml.safe_load((ROOT / "evaluation" / "paper_results.yaml").read_text())["diagnosis_seconds"]
    print(f"\nThe paper's Fig. 7: {min(paper.values())} to {max(paper.values())} s for one diagnosis.\n")
    for name in servers:
        if name != MLFLOW:
            print(_against_aims(name, medians, in_process["model call"]))


def _row(name: str, clients: int, found: Figures) -> None:
    client = f"{found.client_cpu:.1f}" if found.client_cpu else "-"
    print(
        f"| {name} | {clients} | {found.p50:.1f} | {found.p99:.1f} | {found.throughput:.0f} | {found.cpu:.1f} "
        f"| {client} |"
    )


def _against_aims(name: str, found: dict[tuple[str, str, int], Figures], call: Figures) -> str:
    """Return one line that holds a server's figures against the aims."""
    alone, loaded = found[name, "/v1/diagnose", 1], found[name, "/v1/diagnose", AIM_CLIENTS]
    times_mlflow = loaded.throughput / found[MLFLOW, "/invocations", AIM_CLIENTS].throughput
    times_bare = alone.p50 / call.p50

    def verdict(met: bool) -> str:
        return "met" if met else "not met"

    return (
        f"Aims, {name}: p99 at {AIM_CLIENTS} clients {loaded.p99:.0f} ms, under {AIM_P99}: "
        f"{verdict(loaded.p99 < AIM_P99)}; {times_mlflow:.1f} times the throughput of {MLFLOW}, {AIM_TIMES_MLFLOW}: "
        f"{verdict(times_mlflow >= AIM_TIMES_MLFLOW)}; p50 at one client {times_bare:.2f} of the bare model call, "
        f"{AIM_TIMES_BARE}: {verdict(times_bare <= AIM_TIMES_BARE)} "
        f"(CPU time an answer at {AIM_CLIENTS} clients: {loaded.cpu / call.cpu:.2f} of it)."
    )


if __name__ == "__main__":
    main()
