"""What an operator can set: environment variables `MODELPRESS_<NAME>`, or a `.env` file."""

import re
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.egress import Policy

MIB = 2**20
GIB = 2**30


class Settings(BaseSettings):
    """One immutable object for every process of the service."""

    model_config = SettingsConfigDict(env_prefix="MODELPRESS_", env_file=".env", extra="ignore", frozen=True)

    data_dir: Path = Path("data")
    """Folder of the embedded database, the local blobs, staged uploads and work directories."""
    database_url: str = ""
    """SQLAlchemy URL, `sqlite:///…` or `postgresql://…`; empty: a SQLite file in `data_dir`."""
    broker_url: str = ""
    """Celery broker, `redis://…` or `redis+socket://…`; empty: no doorbell, which `modelpress serve` replaces by its own Valkey."""
    blob_url: str = ""
    """`file:///…` or `s3://bucket/prefix`; empty: the folder `blobs` in `data_dir`. S3 reads the usual `AWS_*` variables."""

    auth: Literal["required", "off"] = "required"
    """Whether every request needs an API key; off is allowed on a loopback bind only."""
    cors_origins: tuple[str, ...] = ()
    """Origins (`https://lab.example`) whose pages may call the API with a key of their own; `*`: any, which needs `auth=required`. Never with
    the cookies of a browser."""
    session_seconds: float = Field(43_200, gt=0)
    """How long a browser stays logged in with a key on the pages; never longer than the key is valid."""
    max_upload_bytes: int = Field(64 * GIB, ge=1)
    """Largest model or dataset."""
    requests_per_second: float = Field(500, ge=0)
    """Requests of one key, or of one address without a key, to one API process; twice as many at once. 0: no limit. Jobs that are polled
    are answered from memory and do not count."""
    max_requests_at_once: int = Field(256, ge=1)
    """Requests of one project that one API process answers at a time, event streams and waiting polls included."""
    max_connections: int = Field(1000, ge=16)
    """Open connections of one API process; fewer where the system grants it too few descriptors."""
    keep_alive_seconds: float = Field(15, ge=1)
    """How long a connection without a request stays open; longer than the proxy in front keeps its own."""
    max_spec_bytes: int = Field(1 * MIB, ge=1024)
    """Largest JSON or YAML body."""
    redirect_downloads: bool = False
    """Answer downloads with a redirect to a presigned URL, where the blob store has such and clients can reach it."""
    min_free_bytes: int = Field(512 * MIB, ge=0)
    """Low watermark of the disks that hold blobs and staged uploads: below it uploads are refused with `storage_full`."""

    lease_seconds: float = Field(15, gt=0)
    """How long a job stays with a worker that is not heard of."""
    heartbeat_seconds: float = Field(2, gt=0)
    """How often a worker renews its leases and reports its progress."""
    reconcile_seconds: float = Field(1, gt=0)
    """How often lost jobs are looked for."""
    retry_delay_seconds: float = Field(2, ge=0)
    """Pause before another attempt after a transient failure; doubled with each attempt."""
    drain_seconds: float = Field(30, ge=0)
    """How long a worker that was asked to stop waits for its job's next checkpoint."""
    checkpoint_seconds: float = Field(60, gt=0)
    """Time between two checkpoints of a training: what is lost at most when its worker dies."""
    upload_expiry_seconds: float = Field(86_400, gt=0)
    """An upload without a new part for this long is dropped."""
    staging_expiry_seconds: float = Field(86_400, gt=0)
    """A staged file that was not touched for this long belongs to a dead process and is removed."""
    blob_grace_seconds: float = Field(3600, gt=0)
    """A blob that nothing refers to is kept at least this long."""
    idempotency_seconds: float = Field(86_400, gt=0)
    """How long an `Idempotency-Key` is remembered."""

    webhook_lease_seconds: float = Field(60, ge=1)
    """When an attempt to deliver a webhook that nobody ended counts as lost; longer than an attempt takes (15 s)."""

    cpu_queue: str = "cpu"
    gpu_queue: str = "gpu"
    inspect_queue: str = "inspect"
    webhook_queue: str = "webhooks"
    gpus_per_worker: int = Field(1, ge=1, le=16)
    """How many GPUs `modelpress serve` gives to each worker: the most `devices` of a job there."""
    isolation_minimum: int = Field(0, ge=0, le=3)
    """Lowest isolation tier (0..3) under which a worker may run a job; a lower one fails closed."""

    inspection_seconds: float = Field(300, gt=0)
    """Longest look into an uploaded file."""
    inspections_at_once: int = Field(3, ge=1, le=64)
    """Uploads that one inspector looks into side by side, each of another project."""
    job_memory_bytes: int = Field(0, ge=0)
    """Memory of one job, whatever its spec asks for; 0: an equal share of the machine's for each worker."""
    job_disk_bytes: int = Field(0, ge=0)
    """Disk space that one job may fill with scratch files and results; 0: half of what is free when it begins."""
    job_files: int = Field(100_000, ge=100)
    """Files and folders that one job may have at a time."""
    workers_here: int = Field(1, ge=1)
    """Workers that share this machine's memory, for the share of each; `modelpress serve` sets it for its own."""

    egress_networks: tuple[str, ...] = ()
    """Private networks (`10.1.0.0/16`) that URIs and webhooks of clients may reach all the same; each opens itself and nothing else."""
    egress_plain_http: bool = False
    """Whether `http:` may be used there."""
    egress_s3_endpoint: str = "https://s3.amazonaws.com"
    """Where `s3://bucket/key` is read, path-style and without credentials."""
    egress_seconds: float = Field(900, gt=0)
    """Longest import of a file that a URI names."""

    otlp_endpoint: str = ""
    """Collector of OpenTelemetry (`http://collector:4318`) that traces are sent to, from requests to the steps of jobs; needs the extra `otel`.
    Empty: none are kept. Sampling is OpenTelemetry's own: `OTEL_TRACES_SAMPLER`."""

    lock_wait_seconds: float = Field(10, gt=0)
    """How long a writer of the database waits for another one before its request is answered with an error."""
    log_format: Literal["json", "console"] = "json"
    verbose: bool = False
    """Log what libraries and the embedded broker say below a warning, too."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("egress_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for text in networks:
            ip_network(text)
        return networks

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for text in origins:
            if text != "*" and not re.fullmatch(r"https?://[a-z0-9.\-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?", text):
                raise ValueError(f"{text!r} is no origin: write scheme, host and port, such as https://lab.example, or *")
        return origins

    @model_validator(mode="after")
    def _keys_before_everybody(self) -> "Settings":
        if self.auth == "off" and "*" in self.cors_origins:
            raise ValueError(
                "MODELPRESS_CORS_ORIGINS=* needs keys: without them any page that is open in a browser could change anything here"
            )
        return self

    @model_validator(mode="after")
    def _lease_outlives_a_heartbeat(self) -> "Settings":
        if self.lease_seconds < self.heartbeat_seconds:
            raise ValueError(
                f"MODELPRESS_LEASE_SECONDS ({self.lease_seconds:g}) is shorter than MODELPRESS_HEARTBEAT_SECONDS ({self.heartbeat_seconds:g}): "
                "every lease would end before it is renewed"
            )
        return self

    @cached_property
    def egress(self) -> Policy:
        """What the service may connect to on behalf of clients."""
        return Policy(networks=tuple(ip_network(text) for text in self.egress_networks), plain_http=self.egress_plain_http)

    @cached_property
    def resolved_database_url(self) -> str:
        """The database in use."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'modelpress.db'}"

    @cached_property
    def resolved_blob_url(self) -> str:
        """The blob store in use."""
        return self.blob_url or (self.data_dir.resolve() / "blobs").as_uri()

    @property
    def staging_dir(self) -> Path:
        """Where uploads are written before their hash is known; on the local store's own disk, so that publishing is a rename."""
        return self.data_dir.resolve() / "staging"
