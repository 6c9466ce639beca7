"""Documents that cost more to read than to send, and lists of what is long."""

import json
from random import Random

from core import jobs
from core.database.tables import Job
from core.jobs import NewEvent, Point, Report
from tests.attack.target import Target

SECONDS = 3.0


def a_key_that_stands_twice(target: Target, random: Random) -> None:
    pairs = [f'"k{random.randrange(10**6)}_{number}":1' for number in range(50_000)]
    body = f"{{{','.join([*pairs, pairs[-1]])}}}".encode()
    target.repeat(lambda _: target.call("POST", "/v1/jobs", body), seconds=SECONDS, threads=8)
    assert set(target.answers.statuses) <= {400, 429, 503}, target.answers.statuses


def many_unknown_fields(target: Target, random: Random) -> None:
    body = json.dumps({**target.spec(), **{f"sparsitiy_{random.random()}": 1 for _ in range(8000)}}).encode()

    def ask(_: int) -> None:
        status, _, content = target.call("POST", "/v1/jobs/validate", body)
        assert len(content) < 2**20, f"an answer of {len(content)} bytes"
        assert status in (200, 429, 503), f"{status} for unknown fields"

    target.repeat(ask, seconds=SECONDS, threads=8)


def many_values(target: Target, random: Random) -> None:
    bodies = [b"[" + b"1," * 500_000 + b"1]", b"[" + b"{}," * 300_000 + b"{}]", b"[" * 500_000, b'"' + b"\xc3\xa4" * 500_000 + b'"']
    target.repeat(lambda _: target.call("POST", "/v1/jobs", random.choice(bodies)), seconds=SECONDS, threads=8)


def documents_of_odd_shapes(target: Target, random: Random) -> None:
    """Deep, long or wrong in one place, to every route that takes one."""
    names = json.dumps([f"class {number}" for number in range(60_000)])
    bodies = [
        b"1" * 10**6,
        b"[" * 31 + b'"' + b"\\u0041" * 150_000 + b'"' + b"]" * 31,
        b'{"a":' * 32 + b"1" + b"}" * 32,
        b'{"' + b"k" * 900_000 + b'":1}',
        b'{"a":1e' + b"9" * 900_000 + b"}",
        b'{"steps":[' + b'{"method":"magnitude_pruning"},' * 9000 + b"{}]}",
        b'{"labels":{' + b",".join(b'"k%d":"v"' % number for number in range(9000)) + b"}}",
        b" " * 10**6 + b"{}",
        b'{"a":"\\ud800"}',
        b"\xff" * 10**5,
        b"[" + b" ," * 400_000,
        f'{{"upload_id":"upl_1","metadata":{{"class_names":{names}}}}}'.encode(),
        f'{{"architecture":{{"name":"mlp","arguments":{{"x":[{"1," * 9000}1]}}}}}}'.encode(),
    ]
    paths = ["/v1/jobs", "/v1/jobs/validate", "/v1/models", "/v1/datasets", "/v1/uploads"]
    target.repeat(lambda _: target.call("POST", random.choice(paths), random.choice(bodies)), seconds=SECONDS, threads=8)


def slow_yaml(target: Target, random: Random) -> None:
    bodies = [
        b"a: [" + b"1," * 19_000 + b"]",
        "\n".join(f"key{number}: v" for number in range(9_900)).encode(),
        b'a: "' + b"\\x41" * 60_000 + b'"',
        b"- " * 60_000,
        b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b"*a%d," % (n - 1) * 9) for n in range(1, 16)),
        b"a: &a {x: 1}\n" + b"".join(b"k%d: {<<: *a}\n" % number for number in range(3000)),
        b"".join(b"k%d: !!python/object:os.system x\n" % number for number in range(3000)),
        b"a: |\n" + b" x\n" * 40_000,
        b"#\n" * 60_000 + b"a: 1",
        b"{" * 5000,
        b"&a " * 30_000 + b"b",
        b'"' + b"a\n\n" * 30_000 + b'"',
    ]
    ask = lambda _: target.call("POST", "/v1/jobs", random.choice(bodies), content_type="application/yaml")  # noqa: E731
    target.repeat(ask, seconds=SECONDS, threads=8)


def many_unknown_parameters(target: Target, random: Random) -> None:
    query = "&".join(f"limt{random.randrange(1000)}_{number}=1" for number in range(3000))
    target.repeat(lambda _: target.call("GET", f"/v1/jobs?{query}"), seconds=SECONDS, threads=8)


def lists_of_long_specs(target: Target, random: Random) -> None:
    names = [f"layer_{random.random()}_{'x' * 70}" for _ in range(8500)]
    body = json.dumps(target.spec(steps=[{"method": "magnitude_pruning", "sparsity": 0.5, "ignore": names}])).encode()
    made = []
    for _ in range(60):
        status, _, content = target.call("POST", "/v1/jobs", body)
        assert status in (202, 422, 429), content[:200]
        if status == 202:
            made.append(json.loads(content)["id"])
    assert made, "no long spec was taken, so that nothing is attacked"

    def ask(_: int) -> None:
        query = random.choice(["", "&expand=spec&expand=normalized_spec"])
        _, _, content = target.call("GET", f"/v1/jobs?limit=100{query}")
        assert len(content) < 8 * 2**20, f"a page of {len(content)} bytes"
        target.call("GET", f"/v1/jobs/{random.choice(made)}")

    target.repeat(ask, seconds=SECONDS, threads=6)
    for job_id in made:
        target.call("POST", f"/v1/jobs/{job_id}/cancel")


def a_job_that_never_stops_warning(target: Target, random: Random) -> None:
    """A child may say what it likes: the record of its job stays short."""
    job_id = target.job()
    warnings = [{"code": "w", "message": "m" * 500, "step_index": None, "details": {"at": random.random()}} for _ in range(40_000)]
    report = Report(
        warnings=warnings, events=[NewEvent("warning", {"message": "m" * 20_000})] * 2000, metrics=[Point("loss", random.random())] * 5000
    )
    with target.service.database.unit_of_work() as session:
        while (claim := jobs.claim(session, "cpu", worker="w", device="cpu", lease_seconds=600)) is not None and claim.job_id != job_id:
            pass
        jobs.heartbeat(session, job_id, 1, lease_seconds=600, report=report)

    def ask(_: int) -> None:
        for path in ("", "/events?limit=100", "/metrics?max_points=10000"):
            _, _, content = target.call("GET", f"/v1/jobs/{job_id}{path}")
            assert len(content) < 4 * 2**20, f"{path}: {len(content)} bytes"

    target.repeat(ask, seconds=SECONDS, threads=4)
    with target.service.database.unit_of_work() as session:
        jobs.finish(session, job_id, session.get_one(Job, job_id).fence, outcome="no_constraints", result={"baseline": {}, "result": {}})


ATTACKS = (
    a_key_that_stands_twice,
    many_unknown_fields,
    many_values,
    documents_of_odd_shapes,
    slow_yaml,
    many_unknown_parameters,
    lists_of_long_specs,
    a_job_that_never_stops_warning,
)
