"""What `/openapi.json`, `/asyncapi.json` and `/docs` give.

Rules of the file:
- Every route of these stands here once.
"""

from typing import Final

from edge.shapes import FREE_OBJECT, Answer, Operation, Parameter, json_answer

PAGE_FILES: Final = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
"""What the page loads: nothing else of its folder is served."""
PAGE: Final = "text/html; charset=utf-8"

OPERATIONS: Final[dict[str, Operation]] = {
    "GET /openapi.json": Operation(
        "documents", "OpenAPI 3.1, for both lanes.", json_answer("The document.", FREE_OBJECT)
    ),
    "GET /asyncapi.json": Operation(
        "documents", "AsyncAPI 3.0, for the WebSockets.", json_answer("The document.", FREE_OBJECT)
    ),
    "GET /docs": Operation(
        "documents",
        "Swagger UI, served from here: it needs no other network.",
        {200: Answer("The page.", {PAGE: {"type": "string"}})},
    ),
    "GET /docs/{file}": Operation(
        "documents",
        "",
        {200: Answer("The file.", {media: {"type": "string"} for media in dict.fromkeys(PAGE_FILES.values())})},
        parameters=(Parameter("file", "Its name.", "path", {"type": "string", "enum": list(PAGE_FILES)}, True),),
    ),
}
