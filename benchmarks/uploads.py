"""Large uploads and downloads against copying and hashing the same file, in one run: `python -m benchmarks.uploads --gib 2`.

The reference copies the file, brings the copy to the disk and hashes it, which is what the service has to do as well; `cp` alone
leaves the copy in memory. The client sends with `sendfile`, so that it costs little. Rounds alternate, because disks vary.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from benchmarks.servers import api_server, cpu_seconds, rss_bytes
from core.settings import Settings

GIB = 2**30
_BUFFER = 2**20


def make_file(path: Path, size_bytes: int) -> None:
    """A safetensors file of one random tensor: valid, and not compressible."""
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}}).encode()
    generator = random.Random(0)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, size_bytes, _BUFFER):
            file.write(generator.randbytes(min(_BUFFER, size_bytes - start)))


def copy_and_hash(source: Path, target: Path, *, sync: bool) -> float:
    """Seconds of `cp`, of bringing the copy to the disk where wanted, and of SHA-256 over it."""
    began = time.perf_counter()
    shutil.copyfile(source, target)
    if sync:
        with target.open("rb") as file:
            os.fsync(file.fileno())
    with target.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    took = time.perf_counter() - began
    target.unlink()
    return took


def upload(port: int, source: Path) -> tuple[float, str]:
    """Seconds until the model is answered for, and its path."""
    query = urllib.parse.urlencode({"name": "big", "format": "safetensors", "metadata": '{"architecture": "resnet20"}'})
    size = source.stat().st_size
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection, source.open("rb") as file:
        head = f"POST /v1/models?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        connection.sendfile(file)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    took = time.perf_counter() - began
    head_text, _, body = answer.partition(b"\r\n\r\n")
    if b" 201 " not in head_text.splitlines()[0]:
        raise SystemExit(answer.decode())
    return took, json.loads(body)["urls"]["content"]


def download(port: int, path: str, size_bytes: int) -> float:
    """Seconds until every byte has arrived."""
    buffer = bytearray(_BUFFER)
    received = 0
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        while count := connection.recv_into(buffer):
            received += count
    if received < size_bytes:
        raise SystemExit(f"{received} of {size_bytes} bytes arrived")
    return time.perf_counter() - began


class Memory:
    """The highest resident memory of a process while the block runs, above what it was before."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.before = rss_bytes(pid)
        self.peak = self.before
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def grown_mib(self) -> float:
        return (self.peak - self.before) / 2**20

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.peak = max(self.peak, rss_bytes(self.pid))


def measure(folder: Path, gib: float, rounds: int) -> dict[str, float]:
    """Median seconds of each way, processor time of the service, and its growth in memory."""
    source = folder / "source"
    make_file(source, int(gib * GIB))
    size = source.stat().st_size
    figures: dict[str, list[float]] = {"copied": [], "copied_synced": [], "uploaded": [], "downloaded": [], "upload_cpu": []}
    settings = Settings(data_dir=folder / "data", auth="off", min_free_bytes=0)
    with ExitStack() as stack:
        port, pid = stack.enter_context(api_server(settings))
        small = folder / "small"
        make_file(small, 2**20)
        upload(port, small)
        memory = stack.enter_context(Memory(pid))
        for _ in range(rounds):
            figures["copied"].append(copy_and_hash(source, folder / "copy", sync=False))
            figures["copied_synced"].append(copy_and_hash(source, folder / "copy", sync=True))
            before = cpu_seconds(pid)
            took, path = upload(port, source)
            figures["uploaded"].append(took)
            figures["upload_cpu"].append(cpu_seconds(pid) - before)
            figures["downloaded"].append(download(port, path, size))
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path.removesuffix('/content')}", method="DELETE")
            urllib.request.urlopen(request).close()
    return {name: statistics.median(values) for name, values in figures.items()} | {"bytes": size, "grown_mib": memory.grown_mib}


def main() -> None:
    """Measure, print, and end with 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.uploads")
    parser.add_argument("--gib", type=float, default=2.0, help="size of the file")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="where to write; three times the file's size is needed")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        found = measure(Path(folder), arguments.gib, arguments.rounds)
    rate = {name: found["bytes"] / 1e6 / found[name] for name in ("copied", "copied_synced", "uploaded", "downloaded")}
    ratio = rate["uploaded"] / rate["copied_synced"]
    print(
        f"{arguments.gib:g} GiB: upload {rate['uploaded']:.0f} MB/s ({found['upload_cpu']:.1f} s of CPU), cp + fsync + sha256 "
        f"{rate['copied_synced']:.0f} MB/s: ratio {ratio:.2f}, target 0.8; cp + sha256 without fsync {rate['copied']:.0f} MB/s: "
        f"ratio {rate['uploaded'] / rate['copied']:.2f}"
    )
    print(
        f"download {rate['downloaded']:.0f} MB/s: ratio {rate['downloaded'] / rate['copied']:.2f}; API grew by {found['grown_mib']:.0f} MiB"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({**found, "ratio": ratio}, indent=1))
    sys.exit(0 if ratio >= 0.8 and found["grown_mib"] < 64 else 1)


if __name__ == "__main__":
    main()
