"""Removal against upload of the same bytes, on both databases: whoever was told that its bytes are stored can read them."""

import threading
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import update

from core.blobs import Blob
from core.database.clock import db_now
from core.database.tables import StoredBlob
from core.library import models
from core.service import Service
from tests.core.conftest import make_world


def test_collecting_while_the_same_bytes_are_uploaded(service: Service) -> None:
    world = make_world(service)
    barrier = threading.Barrier(3)

    def upload() -> Blob:
        barrier.wait()
        blob = service.blobs.put_bytes(b"the same bytes")
        with service.database.unit_of_work() as session:
            models.create(session, service.settings, world.project_id, name="m", format="onnx", metadata={}, blob=blob)
        return blob

    def collect() -> None:
        barrier.wait()
        service.blobs.collect()

    for _ in range(5):
        blob = service.blobs.put_bytes(b"the same bytes")
        with service.database.unit_of_work() as session:
            for model in models.search(session, world.project_id).data:
                if model.sha256 == blob.sha256:
                    models.delete(session, world.project_id, model.id)
            session.execute(update(StoredBlob).where(StoredBlob.sha256 == blob.sha256).values(touched_at=db_now(-(10**6))))
        with ThreadPoolExecutor(3) as pool:
            uploads = [pool.submit(upload), pool.submit(upload)]
            pool.submit(collect).result()
            for done in uploads:
                assert service.blobs.read_all(done.result()) == b"the same bytes"
