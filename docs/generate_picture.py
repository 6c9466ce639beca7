"""The picture in the README: the page of the newest job that ended well, as Chromium draws it.

`make demo && python docs/generate_picture.py` serves the demo's data and writes `docs/pictures/job.png`; `--url` takes a service that
runs already, and asks for no keys.
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1180, "height": 900}


def take(url: str, out: Path) -> None:
    """Write the picture of the newest job at `url`."""
    from playwright.sync_api import sync_playwright

    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(f"{url}/?status=succeeded")
        page.locator("#jobs .name a").first.click()
        page.locator(".cards").wait_for()
        page.screenshot(path=out)
        browser.close()


@contextlib.contextmanager
def served(data_dir: Path) -> Iterator[str]:
    """The API over a data directory, without keys."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = {"MODELPRESS_DATA_DIR": str(data_dir), "MODELPRESS_AUTH": "off", "MODELPRESS_LOG_LEVEL": "error"}
    process = subprocess.Popen([sys.executable, "-m", "api.server", "--port", str(port)], cwd=ROOT, env={**os.environ, **settings})
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    """Read the arguments and write the picture."""
    parser = argparse.ArgumentParser(description="Write the picture of a job's page.")
    parser.add_argument("--url", help="a service that runs, instead of the data of the demo")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "build" / "demo" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "job.png")
    asked = parser.parse_args()
    with contextlib.nullcontext(asked.url) if asked.url else served(asked.data_dir.resolve()) as url:
        take(url, asked.out)
    print(f"{asked.out}: {asked.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
