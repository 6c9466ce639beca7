"""What the API costs, as ratios in one run: `python -m benchmarks.api`.

1. `GET /v1/jobs/{id}` of a job that many clients poll, against a bare Starlette route that sends the same JSON: requests a second and
   processor time a request. Both servers run in turns, so that a busy machine slows both.
2. Memory and delay of clients that follow one job's event stream.
3. Time and memory of importing the API.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import uvloop

from benchmarks.servers import api_server, cpu_seconds, free_port, process, rss_bytes
from core import jobs
from core.access import projects
from core.library import datasets, models
from core.service import Service
from core.settings import Settings

HOT_READ = 0.9
"""What a read of a polled job may cost beside a bare route: requests a second over those of the route."""
BARE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
import json, sys, uvicorn
body = json.load(open(sys.argv[1]))
async def job(request): return JSONResponse(body)
app = Starlette(routes=[Route("/v1/jobs/{job_id}", job)])
uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning")
"""
CONNECTIONS = 16
WARM_UP_SECONDS = 0.3


class Poller(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.count = 0
        self.length = 0
        self.received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP connection's transport is one
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.length:
            head, _, _ = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), data[:200]
            size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.length = len(head) + 4 + int(size.split(b":")[1])
        self.received += len(data)
        if self.received >= self.length:
            self.count += 1
            self.received = self.length = 0
            self.transport.write(self.request)


async def _load(port: int, path: str, seconds: float, pid: int) -> tuple[float, float]:
    """Requests a second, and milliseconds of the server's processor time for each."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nAccept: application/json\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    pollers = [(await loop.create_connection(lambda: Poller(request), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)]
    await asyncio.sleep(WARM_UP_SECONDS)
    before, cpu, began = sum(poller.count for poller in pollers), cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    took, used = time.perf_counter() - began, cpu_seconds(pid) - cpu
    count = sum(poller.count for poller in pollers) - before
    for poller in pollers:
        poller.transport.abort()
    return count / took, used * 1000 / count


def _running_job(service: Service) -> jobs.Claim:
    """A job under way, with a realistic spec."""
    blob = service.blobs.put_bytes(b"not read here")
    with service.database.unit_of_work() as session:
        project = projects.default(session).id
        model = models.create(session, service.settings, project, name="m", format="onnx", metadata={}, blob=blob)
        data = datasets.create(session, service.settings, project, name="d", format="npz", metadata={}, blob=blob)
        steps = [{"method": "structured_pruning"}, {"method": "distillation", "epochs": 5}, {"method": "static_quantization"}]
        jobs.create(session, service.settings, project, {"model": model.id, "dataset": data.id, "steps": steps})
    with service.database.unit_of_work() as session:
        claim = jobs.claim(session, "cpu", worker="bench", device="cpu", lease_seconds=3600)
    assert claim is not None
    return claim


def hot_job(folder: Path, seconds: float, rounds: int) -> dict[str, float]:
    """Requests a second of the job's route and of the bare one, in turns."""
    settings = Settings(data_dir=folder, auth="off", min_free_bytes=0)
    with ExitStack() as stack:
        port, pid = stack.enter_context(api_server(settings))
        service = stack.enter_context(Service.open(settings))
        path = f"/v1/jobs/{_running_job(service).job_id}"
        body = urllib.request.urlopen(f"http://localhost:{port}{path}").read()
        (folder / "body.json").write_bytes(body)
        bare_port = free_port()
        bare_pid = stack.enter_context(process([sys.executable, "-c", BARE, str(folder / "body.json"), str(bare_port)], bare_port))
        ours, bare = [], []
        for _ in range(rounds):
            ours.append(uvloop.run(_load(port, path, seconds, pid)))
            bare.append(uvloop.run(_load(bare_port, path, seconds, bare_pid)))
    return {
        "requests_per_second": statistics.median(rate for rate, _ in ours),
        "bare_requests_per_second": statistics.median(rate for rate, _ in bare),
        "cpu_ms": statistics.median(cpu for _, cpu in ours),
        "bare_cpu_ms": statistics.median(cpu for _, cpu in bare),
        "ratio": statistics.median(mine[0] / other[0] for mine, other in zip(ours, bare, strict=True)),
        "body_bytes": len(body),
    }


async def _follow(server: tuple[int, int], count: int, service: Service, claim: jobs.Claim) -> dict[str, float]:
    port, pid = server
    request = f"GET /v1/jobs/{claim.job_id}/events/stream HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode()
    before = rss_bytes(pid)
    streams = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        streams.append((reader, writer))
    await asyncio.gather(*(reader.readuntil(b"event: progress") for reader, _ in streams))
    grown = rss_bytes(pid) - before

    def tell(index: int) -> float:
        with service.database.unit_of_work() as session:
            report = jobs.Report(events=[jobs.NewEvent("phase", {"phase": f"phase-{index}"})])
            jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=3600, report=report)
        return time.perf_counter()

    async def heard(reader: asyncio.StreamReader, index: int, told: float) -> float:
        await reader.readuntil(f'"phase-{index}"'.encode())
        return time.perf_counter() - told

    delays: list[float] = []
    cpu, began = cpu_seconds(pid), time.perf_counter()
    for index in range(5):
        told = await asyncio.to_thread(tell, index)
        delays += await asyncio.gather(*(heard(reader, index, told) for reader, _ in streams))
        await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - told)))
    share = (cpu_seconds(pid) - cpu) / (time.perf_counter() - began)
    for _, writer in streams:
        writer.close()
    delays.sort()
    return {
        "clients": count,
        "kb_per_client": grown / count / 1000,
        "delay_p50_ms": delays[len(delays) // 2] * 1000,
        "delay_p99_ms": delays[int(len(delays) * 0.99)] * 1000,
        "core_share_at_1_event_a_second": share,
    }


def followers(folder: Path, count: int) -> dict[str, float]:
    """Memory a client, and delay from commit to arrival, for clients that follow one job."""
    # All followers are of one project, and open at once: more than a service grants one by default.
    most = {"max_requests_at_once": 2 * count, "max_connections": 2 * count, "requests_per_second": 0}
    settings = Settings(data_dir=folder, auth="off", min_free_bytes=0, **most)
    with ExitStack() as stack:
        server = stack.enter_context(api_server(settings))
        service = stack.enter_context(Service.open(settings))
        claim = _running_job(service)
        for _ in range(100):
            urllib.request.urlopen(f"http://localhost:{server[0]}/v1/jobs/{claim.job_id}").read()
        return asyncio.run(_follow(server, count, service, claim))


_IMPORT = """
import time
began = time.perf_counter()
import api.app
took = time.perf_counter() - began
rss = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(took, time.process_time(), rss / 1024)
"""


def cold_import(rounds: int) -> dict[str, float]:
    """Least time of importing `api.app` in a fresh interpreter, and the memory that it then has."""
    found = []
    for _ in range(rounds):
        text = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True).stdout
        found.append([float(item) for item in text.split()])
    seconds, cpu, mib = (min(values) for values in zip(*found, strict=True))
    return {"seconds": seconds, "cpu_seconds": cpu, "rss_mib": mib}


def main() -> None:
    """Measure, print, and end with 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=2000, help="followers of the event stream")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        hot = hot_job(Path(one), arguments.seconds, arguments.rounds)
        sse = followers(Path(two), arguments.clients)
    cold = cold_import(arguments.rounds)
    print(
        f"GET /v1/jobs/{{id}}: {hot['requests_per_second']:.0f}/s ({hot['cpu_ms']:.3f} ms of CPU each), bare Starlette "
        f"{hot['bare_requests_per_second']:.0f}/s ({hot['bare_cpu_ms']:.3f} ms): ratio {hot['ratio']:.2f}, target {HOT_READ}"
    )
    print(
        f"event stream: {sse['clients']} clients, {sse['kb_per_client']:.0f} KB each (target < 100), delay p50 {sse['delay_p50_ms']:.0f} ms, "
        f"p99 {sse['delay_p99_ms']:.0f} ms, {sse['core_share_at_1_event_a_second']:.0%} of a core at one event a second"
    )
    print(f"import api.app: {cold['seconds']:.2f} s (target < 1.5), {cold['rss_mib']:.0f} MiB (target < 120)")
    if arguments.json:
        arguments.json.write_text(json.dumps({"hot_job": hot, "events": sse, "import": cold}, indent=1))
    met = hot["ratio"] >= HOT_READ and sse["kb_per_client"] < 100 and cold["seconds"] < 1.5 and cold["rss_mib"] < 120
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
