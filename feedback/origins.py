"""Which web pages may send feedback (CORS), decided by origin.

A page's browser asks first (a preflight, which names no project), and says where a request comes from. A page of the
gateway's own origin always may; another may when the project's policy names its origin. Credentials in the browser's
sense, cookies, are never allowed: what authorises a page is the feedback token that it sends itself.
"""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

ORIGIN = re.compile(r"https?://(?:\*\.)?[a-z0-9.-]+(?::\d{1,5})?|https?://\[[0-9a-f:.]+\](?::\d{1,5})?")
ANY = "*"

PREFLIGHT_SECONDS = 600
METHODS = "POST, GET, DELETE"
HEADERS = "authorization, content-type, idempotency-key, x-hone-feedback-token"


def check_origin(origin: str) -> None:
    """Refuse what no browser would send as an origin.

    Raises:
        ValueError: it has a path, capitals, or no scheme.
    """
    if origin != ANY and not ORIGIN.fullmatch(origin):
        raise ValueError(
            f"allowed origin '{origin}' cannot match: expected scheme and host in lower case and nothing after them, "
            "such as https://shop.example, https://*.shop.example, http://localhost:5173, or *"
        )


def is_allowed(origin: str, allowed: Collection[str]) -> bool:
    """Whether a page of this origin may send feedback, by these entries of policies."""
    if origin in allowed or ANY in allowed:
        return True
    scheme, _, host = origin.partition("://")
    wild = (entry.partition("*")[2] for entry in allowed if entry.startswith(f"{scheme}://*."))
    return any(host.endswith(domain) for domain in wild)


def is_own(origin: str, scheme: str, host: str) -> bool:
    """Whether a page came from this gateway itself: same scheme, host and port."""
    parts = urlsplit(origin)
    return parts.scheme == scheme and parts.netloc == host
