"""`python -m edge.healthcheck`: is the gateway of this container ready? The image's HEALTHCHECK.

Rules of the file:
- The standard library alone: it is run every few seconds, and an import of the product would cost more than the answer.
- It asks the address that the gateway's own environment names, on loopback; its certificate is not looked at, because
  it names another host. A gateway whose port or TLS was set on the command line is not found.
- Exit code 0 or 1, nothing else: Docker reserves the others.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

WITHIN_S = 2.0


def is_ready(environment: Mapping[str, str]) -> bool:
    """Ask `/readyz` once, as the environment says.

    Returns:
        False where nobody answers in time, too.
    """
    host = environment.get("HEADGATE_HOST", "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # not listened on
    has_tls = bool(environment.get("HEADGATE_TLS_CERT")) or environment.get("HEADGATE_TLS_SELF_SIGNED") == "on"
    try:
        port = int(environment.get("PORT", "8000"))
        connection: http.client.HTTPConnection
        if has_tls:
            unverified = ssl._create_unverified_context()  # noqa: S323, SLF001  # loopback: see above
            connection = http.client.HTTPSConnection(host, port, timeout=WITHIN_S, context=unverified)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=WITHIN_S)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    sys.exit(0 if is_ready(os.environ) else 1)
