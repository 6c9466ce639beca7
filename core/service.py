"""The parts of the service as one process holds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.blobs import Blobs
from core.database.db import Database
from core.library.subnets import Subnets
from core.library.uploads import Uploads
from core.queue import Doorbell
from core.settings import Settings
from core.webhooks import outbox


@dataclass(frozen=True)
class Service:
    """Settings, database, blobs and doorbell; made once a process."""

    settings: Settings
    database: Database
    blobs: Blobs
    uploads: Uploads
    subnets: Subnets
    doorbell: Doorbell

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator["Service"]:
        """Open every part, and close them at the end.

        Raises `service_unavailable` when the database was not migrated to the revision of this code.
        """
        from core.database.migrate import require_current  # loads Alembic, which nothing else in the API needs

        require_current(settings)
        doorbell = Doorbell(settings)
        queues = {outbox.BELL: settings.webhook_queue}
        database = Database(settings, lambda bell: doorbell.ring(queues.get(bell, bell)))
        try:
            blobs = Blobs(settings, database)
            yield cls(settings, database, blobs, Uploads(settings, database, blobs), Subnets(blobs), doorbell)
        finally:
            doorbell.close()
            database.close()
