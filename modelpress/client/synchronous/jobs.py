"""Written by `make docs` from the module of this name in `modelpress.client.asynchronous`; do not edit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from engine.contract.partial import AnyReport, PartialReport
from engine.contract.report import Report
from modelpress.client.errors import ApiError, JobFailed, WaitTimeout
from modelpress.client.synchronous.transport import Transport
from modelpress.client.wire import Call, Deadline, HttpEvent, Spec, inside, keyed, spec_call
from modelpress.resources.common import Page
from modelpress.resources.jobs import TERMINAL, Artifact, Event, Job, ListedJob, Series, SeriesList, Status, Template, Verdict

OnEvent = Callable[[HttpEvent], object]
_POLL_SECONDS = 30
_MARGIN_SECONDS = 30.0
_UNDRAWN = frozenset({"report_too_large", "report_unreadable"})


class JobHandle(Job):
    """A job as it was when it was asked for, with what can be done about it."""

    _jobs: "Jobs" = PrivateAttr()

    @classmethod
    def read(cls, content: bytes, jobs: "Jobs") -> "JobHandle":
        """The job in an answer."""
        handle = cls.model_validate_json(content)
        handle._jobs = jobs
        return handle

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in TERMINAL

    def ensure_succeeded(self) -> "JobHandle":
        """The same job. Raises JobFailed where it has not succeeded; a missed constraint is no failure (see `outcome`)."""
        if self.status != "succeeded":
            raise JobFailed(self)
        return self

    def wait(self, *, on_event: OnEvent | None = None, timeout_seconds: float | None = None) -> "JobHandle":
        """The job once it has ended. `on_event` is called with its history and with every progress. Raises WaitTimeout."""
        return self._jobs.wait(self.id, on_event=on_event, timeout_seconds=timeout_seconds)

    def refresh(self) -> "JobHandle":
        """The job as it is now."""
        return self._jobs.get(self.id)

    def cancel(self) -> "JobHandle":
        """Stop it; a running job ends as soon as its worker hears of it."""
        return self._jobs.cancel(self.id)

    def retry(self) -> "JobHandle":
        """The same spec as a new job."""
        return self._jobs.retry(self.id)

    def rerun(self, patch: Spec) -> "JobHandle":
        """Its spec with changes as a new job."""
        return self._jobs.rerun(self.id, patch)

    def events(self, *, follow: bool = True) -> Iterator[HttpEvent]:
        """Its history, and what happens further."""
        return self._jobs.events(self.id, follow=follow)

    def logs(self, *, tail: int | None = None) -> str:
        """Its log."""
        return self._jobs.logs(self.id, tail=tail)

    def metrics(self, *names: str) -> Sequence[Series]:
        """What was measured while it ran, such as `train.loss`."""
        return self._jobs.metrics(self.id, *names)

    def artifacts(self) -> Sequence[Artifact]:
        """What it published."""
        return self._jobs.artifacts(self.id)

    def report(self) -> Report:
        """Before and after, steps, layers."""
        return self._jobs.report(self.id)

    def partial_report(self) -> PartialReport:
        """How far it came, where it failed or was cancelled."""
        return self._jobs.partial_report(self.id)

    def download(self, folder: str | Path) -> Sequence[Path]:
        """Save everything that it published, and the report as pages, in a folder that is made where it is missing."""
        return self._jobs.download(self.id, folder)


class Jobs:
    """Compressions."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, spec: Spec, *, idempotency_key: str | None = None) -> JobHandle:
        """Submit a spec: a mapping, the text of a YAML or JSON document, or a file. It is stored safely when this returns.

        Under one `idempotency_key` there is one job, however often it is asked for; without one, a key of this call keeps its own
        repetitions from making another. Raises ApiError with everything that is wrong with the spec.
        """
        return self._handle(spec_call("/v1/jobs", spec, headers=keyed(idempotency_key)))

    def validate(self, spec: Spec) -> Verdict:
        """What `create` would say and do: the spec with every default, the plan, warnings, a rough estimate."""
        return self._transport.fetch(Verdict, spec_call("/v1/jobs/validate", spec))

    def get(self, job_id: str) -> JobHandle:
        """One job."""
        return self._handle(Call("GET", f"/v1/jobs/{job_id}"))

    def list(
        self,
        *,
        status: Sequence[Status] = (),
        label: Sequence[str] = (),
        model_id: str | None = None,
        created_after: datetime | None = None,
        **filters: Any,
    ) -> Iterator[ListedJob]:
        """Jobs of the project, newest first. `label` holds `key=value` or `key`; all must hold. Further filters are those of the list:
        `name outcome dataset_id created_before sort expand`."""
        moment = None if created_after is None else created_after.astimezone().isoformat()
        asked = {"status": tuple(status), "label": tuple(label), "model_id": model_id, "created_after": moment, "limit": 100, **filters}
        return self._transport.every(ListedJob, Call("GET", "/v1/jobs", asked))

    def wait(self, job_id: str, *, on_event: OnEvent | None = None, timeout_seconds: float | None = None) -> JobHandle:
        """The job once it has ended. Raises WaitTimeout, ApiError and ConnectionFailed; the job goes on then."""
        deadline = Deadline(timeout_seconds)
        if on_event is not None:
            for event in self._transport.follow(f"/v1/jobs/{job_id}/events/stream", None, deadline):
                if event is not None:
                    on_event(event)
        while True:
            seconds = int(deadline.left(_POLL_SECONDS))
            headers = {"Prefer": f"wait={seconds}"} if seconds else {}
            job = self._handle(Call("GET", f"/v1/jobs/{job_id}", headers=headers, timeout_seconds=seconds + _MARGIN_SECONDS))
            if job.ended:
                return job
            if deadline.passed or not seconds:
                raise WaitTimeout(f"{job_id} is {job.status} after {timeout_seconds:g} s; it goes on")

    def cancel(self, job_id: str) -> JobHandle:
        """Stop a job. Doing it twice changes nothing."""
        return self._handle(Call("POST", f"/v1/jobs/{job_id}/cancel"))

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> JobHandle:
        """Run the spec of an ended job again, as a new job."""
        return self._handle(Call("POST", f"/v1/jobs/{job_id}/retry", headers=keyed(idempotency_key)))

    def rerun(self, job_id: str, patch: Spec, *, idempotency_key: str | None = None) -> JobHandle:
        """Run the spec of a job with changes, as a new job. The patch is a JSON Merge Patch: None takes a field away, lists are replaced."""
        return self._handle(spec_call(f"/v1/jobs/{job_id}/rerun", patch, headers=keyed(idempotency_key)))

    def delete(self, job_id: str) -> None:
        """Remove an ended job with what it published."""
        self._transport.remove(f"/v1/jobs/{job_id}")

    def events(self, job_id: str, *, follow: bool = True, after: str | None = None) -> Iterator[HttpEvent]:
        """The history of a job after the event `after`; with `follow` also what happens further, and progress, until it has ended."""
        if follow:
            for event in self._transport.follow(f"/v1/jobs/{job_id}/events/stream", after, Deadline(None)):
                if event is not None:
                    yield event
            return
        while True:
            page = self._transport.fetch(Page[Event], Call("GET", f"/v1/jobs/{job_id}/events", {"limit": 100, "after": after}))
            for found in page.data:
                yield found
            if page.next_cursor is None:
                return
            after = page.next_cursor

    def logs(self, job_id: str, *, tail: int | None = None) -> str:
        """The log of a job; of a long one perhaps only the last lines."""
        return (self._transport.send(Call("GET", f"/v1/jobs/{job_id}/logs", {"tail": tail}))).text

    def metrics(self, job_id: str, *names: str, max_points: int = 500) -> Sequence[Series]:
        """Everything that was measured while the job ran, as series such as `train.loss`."""
        return (
            self._transport.fetch(SeriesList, Call("GET", f"/v1/jobs/{job_id}/metrics", {"name": names, "max_points": max_points}))
        ).data

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """What a job published, in order."""
        return (self._transport.fetch(Page[Artifact], Call("GET", f"/v1/jobs/{job_id}/artifacts"))).data

    def report(self, job_id: str) -> Report:
        """Before and after: figures measured the same way on both files, steps, constraints, layers, environment.

        Raises JobFailed for a job that ended without them: `partial_report` has how far it came.
        """
        found = self._transport.fetch(AnyReport, Call("GET", f"/v1/jobs/{job_id}/report.json"))
        if isinstance(found.root, PartialReport):
            raise JobFailed(self.get(job_id))
        return found.root

    def partial_report(self, job_id: str) -> PartialReport:
        """How far a job came that failed or was cancelled: phases, steps, series, the uploaded model's metrics, and the error."""
        return self._transport.fetch(PartialReport, Call("GET", f"/v1/jobs/{job_id}/report.json"))

    def download(self, job_id: str, folder: str | Path) -> Sequence[Path]:
        """Save everything that a job published, and its report as HTML and Markdown; returns the files in the order of the artifacts.

        Each file appears when all its bytes are there and hash to what the service states. Raises ApiError, ConnectionFailed and TransferError.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        published = self.artifacts(job_id)
        saved = []
        for artifact in published:
            place = inside(target, artifact.filename)
            saved.append(self._transport.save(f"/v1/artifacts/{artifact.id}/content", place, sha256=artifact.sha256))
        if any(artifact.kind == "report" for artifact in published):
            for form in ("html", "md"):
                try:
                    saved.append(self._transport.save(f"/v1/jobs/{job_id}/report.{form}", target / f"report.{form}"))
                except ApiError as error:
                    if error.code not in _UNDRAWN:
                        raise
        return saved

    def submitted(self, call: Call) -> JobHandle:
        """The job in the answer of any request that makes one."""
        return self._handle(call)

    def _handle(self, call: Call) -> JobHandle:
        return JobHandle.read((self._transport.send(call)).content, self)


class Templates:
    """Specs, or parts of one, that jobs are made of."""

    def __init__(self, transport: Transport, jobs: Jobs) -> None:
        self._transport = transport
        self._jobs = jobs

    def create(self, name: str, spec: Mapping[str, Any], *, description: str | None = None) -> Template:
        """Keep a spec; `model` and `dataset` may be left to the jobs."""
        body = {"name": name, "spec": dict(spec), "description": description}
        return self._transport.fetch(Template, Call.of("POST", "/v1/templates", body, repeatable=False))

    def get(self, template_id: str) -> Template:
        """One template."""
        return self._transport.fetch(Template, Call("GET", f"/v1/templates/{template_id}"))

    def list(self, *, name: str | None = None) -> Iterator[Template]:
        """Those of the project, newest first."""
        return self._transport.every(Template, Call("GET", "/v1/templates", {"name": name, "limit": 100}))

    def submit(self, template_id: str, patch: Spec, *, idempotency_key: str | None = None) -> JobHandle:
        """Make a job of a template, with the model, the dataset and whatever else the patch gives."""
        return self._jobs.submitted(spec_call(f"/v1/templates/{template_id}/jobs", patch, headers=keyed(idempotency_key)))

    def delete(self, template_id: str) -> None:
        """Forget a template; jobs that were made of it stay."""
        self._transport.remove(f"/v1/templates/{template_id}")
