"""The route table and its documents say the same.

Rules of the file:
- No gateway: what the table and the descriptions say, read as data.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from edge.cli import main
from edge.docs_offline import bare_table, offline_documents
from edge.documents import ALIAS, CHANNELS, OPERATIONS, describe_route, describe_socket, openapi_of
from edge.http import Request, Response
from edge.routes import Lane, Route
from engine.errors import KINDS
from engine.events import FileEvent, FileFacts
from engine.limits import policy_names

ASYNCAPI_SCHEMA = Path(__file__).parents[1] / "support" / "asyncapi" / "3.0.0.json"
"""From the npm package @asyncapi/specs 6.11.1, unchanged."""
HOW_TO = (
    "add an entry to OPERATIONS (a WebSocket: to CHANNELS) of edge/shapes_<word>.py, and where that file is new, name "
    "it in edge/documents.py; edge/shapes_core.py shows how"
)


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    """The OpenAPI document of this release, as a client gets it."""
    document: dict[str, Any] = json.loads(json.dumps(offline_documents()[0]))
    return document


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    """The AsyncAPI document of this release, as a client gets it."""
    document: dict[str, Any] = json.loads(json.dumps(offline_documents()[1]))
    return document


def test_every_route_is_described() -> None:
    """T31: a route that nobody described is a mistake, and the message says what to do."""
    missing = [
        f"{one.method} {one.path}" for one in bare_table().routes if describe_route(one.method, one.path) is None
    ]
    assert not missing, f"routes without a description: {', '.join(missing)}: {HOW_TO}"
    silent = [path for path in bare_table().sockets if not describe_socket(path)]
    assert not silent, f"WebSocket paths without a description: {', '.join(silent)}: {HOW_TO}"


def test_every_description_has_its_route() -> None:
    """T31: a description of what is not there is a lie."""
    table = bare_table()
    there = {f"{one.method} {one.path}" for one in table.routes}
    assert sorted(OPERATIONS.keys() - there) == []
    assert sorted({one.path for one in CHANNELS} - table.sockets.keys()) == []


def test_a_route_without_a_description_is_in_the_document_all_the_same() -> None:
    """Nothing is hidden by forgetting to describe it."""

    async def handler(_: Request) -> Response:
        return Response(200)

    document = openapi_of([Route("GET", "/forgotten", handler, Lane.QUART, "Forgotten", scope=None)])
    assert document["paths"]["/forgotten"]["get"]["summary"] == "Forgotten"


def test_the_openapi_document_is_valid(openapi: dict[str, Any]) -> None:
    """The document keeps to OpenAPI 3.1, its examples included."""
    OpenAPIV31SpecValidator(openapi).validate()
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in content:
                    schema = content["schema"] | {"components": openapi["components"]}
                    jsonschema.Draft202012Validator(schema).validate(content["example"])
            assert operation["operationId"], (method, path)


def test_the_asyncapi_document_is_valid(asyncapi: dict[str, Any]) -> None:
    """The document keeps to AsyncAPI 3.0's own JSON Schema, and its examples to their payloads' schemas."""
    jsonschema.Draft7Validator(json.loads(ASYNCAPI_SCHEMA.read_text())).validate(asyncapi)
    for channel in asyncapi["channels"].values():
        for message in channel["messages"].values():
            for example in message.get("examples", []):
                schema = message["payload"] | {"components": asyncapi["components"]}
                jsonschema.Draft202012Validator(schema).validate(example["payload"])


def test_every_reference_leads_somewhere(openapi: dict[str, Any], asyncapi: dict[str, Any]) -> None:
    """No `$ref` of either document points into the void."""
    for document in (openapi, asyncapi):
        for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
            at: Any = document
            for part in reference.split("/"):
                at = at[part.replace("~1", "/").replace("~0", "~")]


def test_the_names_of_operations_are_theirs_alone(openapi: dict[str, Any]) -> None:
    """A generated client has one function for each."""
    names = [one["operationId"] for methods in openapi["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))


def test_every_operation_says_how_it_may_fail(openapi: dict[str, Any]) -> None:
    """Each has problem answers, their codes are of the one table, and stand under their status."""
    for path, methods in openapi["paths"].items():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                problem = answer.get("content", {}).get("application/problem+json")
                for code in problem["schema"]["properties"]["code"]["enum"] if problem else []:
                    assert KINDS[code].status == int(status), (path, code)
            assert {"400", "500", "503"} <= operation["responses"].keys(), path


def test_path_templates_name_their_parameters(openapi: dict[str, Any]) -> None:
    """Each `{name}` of a path is a described parameter, and each described one stands in the path."""
    for path, methods in openapi["paths"].items():
        for operation in methods.values():
            named = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path


def test_scopes_stand_in_the_document(openapi: dict[str, Any]) -> None:
    """What the table asks for, the document says."""
    for route in bare_table().routes:
        operation = openapi["paths"][route.path][route.method.lower()]
        assert operation.get("x-headgate-scope") == route.scope
        assert tuple(operation.get("x-headgate-limits", ())) == policy_names(route.scope, route.limits)
        assert ("RateLimit" in operation["responses"].get("429", {}).get("headers", {})) == bool(
            policy_names(route.scope, route.limits)
        )
        assert ("security" in operation) == (route.scope is not None)
        assert ("401" in operation["responses"]) >= (route.scope is not None)


def test_twins_are_described_by_what_they_are_twins_of(openapi: dict[str, Any]) -> None:
    """A path under /api takes and gives what the path without it does."""
    for path, methods in openapi["paths"].items():
        twin = openapi["paths"].get(path.removeprefix(ALIAS))
        for method, operation in methods.items():
            if path.startswith(ALIAS + "/") and twin and method in twin:
                assert operation["responses"] == twin[method]["responses"], path


def test_shapes_that_decode_are_the_shapes_that_are_shown(openapi: dict[str, Any]) -> None:
    """The schema of an ingest body is that of the decoder's own type."""
    for kind in (FileEvent, FileFacts):
        shown = openapi["components"]["schemas"][kind.__name__]
        assert list(shown["properties"]) == [one.name for one in msgspec.structs.fields(kind)]


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    """`headgate openapi` needs no gateway, and says what one serves."""
    for arguments, document in zip((["openapi"], ["openapi", "--asyncapi"]), offline_documents(), strict=True):
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(document))
