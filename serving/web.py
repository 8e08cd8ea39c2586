"""The pages that a browser opens: `/chat`, and `/hone.js` for pages of others.

Both are read once and answered from memory, with an ETag. The chat page is one file under a strict
Content-Security-Policy: its own script and style are allowed by their hashes, and nothing is loaded from elsewhere, so
an answer that tries to be markup stays text even if the page had a mistake. No key is ever in a page: the browser asks
the person for it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

PAGES = Path(__file__).parent / "pages"
SCRIPT_SECONDS = 3600
"""How long a browser uses its copy of hone.js before it asks whether there is another."""


@dataclass(frozen=True, slots=True)
class Page:
    """One file as it is answered."""

    body: bytes
    headers: dict[str, str]

    def answer(self, request: Request) -> Response:
        """The file, or 304 to a browser that has it."""
        if request.headers.get("if-none-match") == self.headers["etag"]:
            return Response(status_code=304, headers=self.headers)
        return Response(self.body, headers=self.headers)


def web_router() -> APIRouter:
    """The routes of the pages."""
    router = APIRouter(tags=["pages"])
    chat, script = chat_page(), hone_script()

    @router.get("/chat", summary="Chat with a model in the browser, and rate its answers")
    async def show_chat(request: Request) -> Response:
        return chat.answer(request)

    @router.get("/hone.js", summary="The script that puts thumbs under an answer in any page")
    async def show_script(request: Request) -> Response:
        return script.answer(request)

    return router


def chat_page() -> Page:
    """The chat page, with the policy that allows exactly what it holds."""
    body = (PAGES / "chat.html").read_bytes()
    policy = [
        "default-src 'none'",
        f"script-src 'self' {' '.join(_hashes(body, b'script'))}",
        f"style-src {' '.join(_hashes(body, b'style'))}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
    return _page(
        body,
        "text/html; charset=utf-8",
        {
            "cache-control": "no-cache",
            "content-security-policy": "; ".join(policy),
            "referrer-policy": "no-referrer",
            "x-frame-options": "DENY",
        },
    )


def hone_script() -> Page:
    """The feedback widget, which pages of any origin may load: it holds nothing secret and does nothing by itself."""
    return _page(
        (PAGES / "hone.js").read_bytes(),
        "text/javascript; charset=utf-8",
        {
            "access-control-allow-origin": "*",
            "cache-control": f"public, max-age={SCRIPT_SECONDS}",
            "cross-origin-resource-policy": "cross-origin",
        },
    )


def _page(body: bytes, media_type: str, headers: dict[str, str]) -> Page:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    always = {"content-type": media_type, "etag": etag, "x-content-type-options": "nosniff"}
    return Page(body, always | headers)


def _hashes(body: bytes, element: bytes) -> list[str]:
    """What a policy calls each inline element: the SHA-256 of the text between its tags."""
    inline = re.findall(rb"<%b>(.*?)</%b>" % (element, element), body, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in inline]
