"""One form for every path that an event or a probe names.

Scanners run on Windows, macOS and Linux and write the same file in different ways. The cache and
the catalog need one spelling, so a path becomes canonical before it goes anywhere.

Rules of the file:
- Text in, text out; no file system is asked.
- `..` stays as it is: resolving it on text is wrong below a symbolic link.
"""


def canonical_path(text: str) -> str:
    """Give the one spelling of a path.

    `\\` becomes `/`, repeated slashes collapse, `.` segments drop, a leading `//server/share` stays,
    no trailing slash remains except for a root (`/`, `C:/`). `C:\\show\\a.exr` gives `C:/show/a.exr`.

    Args:
        text: the path as the scanner wrote it.

    Returns:
        The canonical path; the very same object when it was canonical already.
    """
    if is_canonical(text):
        return text
    slashed = text.replace("\\", "/")
    lead = "//" if slashed.startswith("//") and not slashed.startswith("///") else "/" if slashed[:1] == "/" else ""
    segments = [segment for segment in slashed.split("/") if segment and segment != "."]
    if not segments:
        return lead[:1] or ("." if text else "")
    if len(segments) == 1 and not lead and _is_drive_root(segments[0] + slashed[-1]):
        return segments[0] + "/"
    return lead + "/".join(segments)


def is_canonical(text: str) -> bool:
    """Say that a path needs no change; exact, and cheap for the common case.

    The hot path of ingest asks this for every event: `bench/scenarios/ingest.py`.
    """
    if "\\" in text or text.endswith("/") or text.startswith("./") or text == ".":
        return text in {"/", "."} or _is_drive_root(text)
    if "//" in text and text.find("//", 1) != -1:
        return False
    if "//" in text and text[2:3] in {"", "/"}:
        return False
    return not ("/." in text and ("/./" in text or text.endswith("/.")))


def _is_drive_root(text: str) -> bool:
    return len(text) == 3 and text[1:] == ":/" and text[0].isalpha()
