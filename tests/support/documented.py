"""Holds an answer to the OpenAPI document that the gateway gave.

Rules of the file:
- Closed: a member that no schema names is a mistake, though clients are told to ignore what they do not know.
"""

import json
from typing import Any

import jsonschema

OPEN_SCHEMAS = {"Problem", "Engine"}
"""Their descriptions say that more members may be there."""


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """Give a copy of the document whose objects have the members that are named, and no others."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    for name, schema in copy["components"]["schemas"].items():
        if name not in OPEN_SCHEMAS and "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return copy


def check_answer(
    document: dict[str, Any], method: str, template: str, status: int, content_type: str, body: bytes
) -> None:
    """Assert that an answer is one that the document describes.

    Args:
        document: as `closed` gives it.
        method: of the request.
        template: the path as the document writes it.
        status: of the answer.
        content_type: its header.
        body: its bytes.
    """
    where = f"{method} {template} answered {status}"
    answers = document["paths"][template][method.lower()]["responses"]
    assert str(status) in answers, f"{where}, which is not described: {body[:500]!r}"
    content = answers[str(status)].get("content", {})
    described = {_plain(one): value for one, value in content.items()}
    assert _plain(content_type) in described, f"{where} with {content_type}; described: {', '.join(described)}"
    if status >= 400 and _plain(content_type) != "application/problem+json":
        assert template == "/readyz", (
            f"{where} without a problem: {body[:500]!r}"
        )  # its body is its own (RELIABILITY 4)
    if _plain(content_type).endswith(("/json", "+json")):
        schema = described[_plain(content_type)]["schema"] | {"components": document["components"]}
        try:
            jsonschema.Draft202012Validator(schema).validate(json.loads(body))
        except jsonschema.ValidationError as problem:
            raise AssertionError(f"{where} with another body: {problem.message}: {body[:500]!r}") from None


def _plain(media: str) -> str:
    return media.partition(";")[0].strip().lower()
