"""A service of its own whose messages are sent out by a deliverer in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.database import migrate
from core.service import Service
from core.settings import Settings
from worker.deliverer import Deliverer

LOOPBACK: dict[str, Any] = {"egress_networks": ("127.0.0.0/8",), "egress_plain_http": True}
"""Receivers may be on this machine."""


@contextmanager
def delivering(folder: Path, *, join_seconds: float, **options: Any) -> Iterator[tuple[Service, Deliverer]]:
    """With `options` of its settings, such as `LOOPBACK`; the deliverer has to end within `join_seconds`."""
    settings = Settings(data_dir=folder, min_free_bytes=0, **options)
    migrate.upgrade(settings)
    with Service.open(settings) as service:
        deliverer = Deliverer(service)
        service.database.doorbell = lambda _: deliverer.ring()
        deliverer.start()
        yield service, deliverer
        deliverer.drain()
        deliverer.join(join_seconds)
        assert not deliverer.is_alive()
