"""T31: what a real gateway answers is what its documents say.

Rules of the file:
- The documents are fetched from the gateway: they are what is tested.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis import Case, GenerationMode

from edge.docs_offline import bare_table, offline_documents
from edge.documents import ALIAS
from tests.support.documented import check_answer, closed
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask

ROUTES = [(one.method, one.path) for one in bare_table().routes]
OWN_ROUTES = [one for one in ROUTES if not one[1].startswith(ALIAS)]
EXAMPLES = 4
LONG_EXAMPLES = 60
NOT_HERE = {501}
"""The one answer above 499 that a healthy gateway may give: what this one was started without."""


@pytest.fixture(scope="module")
def document(gateway: Gateway) -> dict[str, Any]:
    """The gateway's own OpenAPI document."""
    answer = requests.get(f"{gateway.url}/openapi.json", timeout=10)
    assert answer.status_code == 200
    value: dict[str, Any] = answer.json()
    return value


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """Connections that stay open: the gateway sees many requests on one."""
    with requests.Session() as open_session:
        open_session.trust_env = False
        yield open_session


async def test_the_gateway_serves_what_the_command_line_prints(gateway: Gateway) -> None:
    """`/openapi.json` and `/asyncapi.json` are the documents of the route table, on the wire."""
    for path, document in zip(("/openapi.json", "/asyncapi.json"), offline_documents(), strict=True):
        answer = await ask(gateway.url, "GET", path)
        assert (answer.status, answer.header("content-type")) == (200, "application/json")
        assert answer.json() == json.loads(json.dumps(document))


async def test_every_get_without_parameters_answers_as_described(gateway: Gateway, document: dict[str, Any]) -> None:
    """The plainest request of each is a described answer, and HEAD is its head, but where a GET takes messages."""
    strict = closed(document)
    for path, methods in document["paths"].items():
        if "get" not in methods or "{" in path:
            continue
        answer = await ask(gateway.url, "GET", path)
        check_answer(strict, "GET", path, answer.status, answer.header("content-type") or "", answer.body)
        head = await ask(gateway.url, "HEAD", path)
        status = 405 if path.endswith("/stream/pull") else answer.status
        assert (head.status, head.body) == (status, b"")


async def test_the_examples_work(gateway: Gateway, document: dict[str, Any]) -> None:
    """A body that the document shows is one that the gateway takes."""
    for path in ("/ingest", "/cache/batch", "/api/ingest", "/api/cache/batch"):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        answer = await ask(
            gateway.url, "POST", path, {"Content-Type": "application/json"}, json.dumps(content["example"]).encode()
        )
        check_answer(closed(document), "POST", path, answer.status, answer.header("content-type") or "", answer.body)
        assert answer.status == 200


async def test_answers_about_what_is_there_are_as_described(
    gateway: Gateway, document: dict[str, Any], own_subject: str, own_durable: str
) -> None:
    """A consumer, a token, a pulled batch: the answers that generated requests do not reach."""
    strict = closed(document)

    async def check(method: str, template: str, body: object = None, *, query: str = "", **headers: str) -> Any:
        target = template.replace("{durable}", own_durable) + query
        sent = None if body is None else json.dumps(body).encode()
        answer = await ask(gateway.url, method, target, headers, sent)
        check_answer(strict, method, template, answer.status, answer.header("content-type") or "", answer.body)
        assert answer.status == 200, (target, answer.body)
        return answer.json()

    await check("POST", "/auth/token", authorization="Bearer demo-api-key-2024")
    await ask(gateway.url, "POST", f"/ingest?subject={own_subject}", (), b'{"events":[{"type":"t","data":{}}]}')
    about = f"?subject={own_subject}&durable={own_durable}&from=all&wait=5"
    pulled = await check("GET", "/stream/pull", query=about)
    assert len(pulled["messages"]) == 1
    await check("POST", "/stream/settle", {"durable": own_durable, "batch": pulled["batch"], "ack": [0]})
    assert (await check("GET", "/consumers"))["consumers"]
    await check("GET", "/consumers/{durable}")
    await check("POST", "/consumers/{durable}/pause", {"for_s": 60})
    await check("POST", "/consumers/{durable}/resume")
    await check("POST", "/consumers/{durable}/reset", {"to": "all"})
    await check("DELETE", "/consumers/{durable}")


@pytest.mark.long
async def test_queries_and_probes_answer_as_described_with_a_catalog(tmp_path: Path) -> None:
    """The answers that need a PostgreSQL, in each of their formats."""
    async with open_gateway(tmp_path / "data", env={"HEADGATE_CATALOG": "on"}) as gateway:
        strict = closed((await ask(gateway.url, "GET", "/openapi.json")).json())

        async def check(method: str, path: str, accept: str, body: bytes | None = None) -> int:
            answer = await ask(gateway.url, method, path, {"accept": accept}, body)
            check_answer(strict, method, path, answer.status, answer.header("content-type") or "", answer.body)
            return answer.status

        for accept in ("application/json", "text/csv", "application/x-ndjson"):
            query = b'{"sql":"SELECT 1 AS one, :two AS two","params":{"two":2}}'
            assert await check("POST", "/query/sql", accept, query) == 200
            assert await check("POST", "/query/sql", accept, b'{"sql":"DELETE FROM files"}') in {400, 403}
        for path in ("/readyz", "/ready", "/health", "/api/v1/health", "/actors"):
            for accept in ("*/*", "application/health+json"):
                assert await check("GET", path, accept) == 200


async def test_what_nobody_described_is_a_problem(gateway: Gateway) -> None:
    """A path or a method that is not in the document is refused, as a problem."""
    (await ask(gateway.url, "GET", "/no/such/path")).problem(404)
    (await ask(gateway.url, "DELETE", "/openapi.json")).problem(405)
    (await ask(gateway.url, "GET", "/docs/swagger-ui.LICENSE")).problem(404)


@pytest.mark.parametrize(("method", "path"), OWN_ROUTES)
def test_generated_requests_are_answered_as_described(
    method: str, path: str, gateway: Gateway, document: dict[str, Any], session: requests.Session, seed: int
) -> None:
    """T31: whatever fits the document, or nearly does, gets a described answer, and none is our fault."""
    _try_operation(method, path, gateway, document, session, seed, EXAMPLES)


@pytest.mark.long
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_many_generated_requests_are_answered_as_described(
    method: str, path: str, gateway: Gateway, document: dict[str, Any], session: requests.Session, seed: int
) -> None:
    """T31, the long form."""
    _try_operation(method, path, gateway, document, session, seed, LONG_EXAMPLES)


def _try_operation(
    method: str, path: str, gateway: Gateway, document: dict[str, Any], session: requests.Session, seed: int, most: int
) -> None:
    strict = closed(document)
    operation = schemathesis.openapi.from_dict(document)[path][method]

    def send(case: Case[Any]) -> None:
        answer = case.call(base_url=gateway.url, session=session, timeout=30)
        media = ", ".join(answer.headers.get("content-type", []))
        check_answer(strict, method, path, answer.status_code, media, answer.content)
        assert answer.status_code < 500 or answer.status_code in NOT_HERE, answer.content
        assert answer.headers.get("x-request-id"), "every answer has its id"

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        try:
            strategy = operation.as_strategy(generation_mode=mode)
        except schemathesis.errors.InvalidSchema:  # it takes nothing that could be wrong
            continue
        run = hypothesis.given(case=strategy)(send)
        run = hypothesis.settings(
            max_examples=most, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
        )(run)
        with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # it takes nothing that could be wrong
            hypothesis.seed(seed)(run)()
    assert gateway.is_running
