"""The console's own style, script and icon, from memory, under names that change with their content.

`asset("console.css")` is the address to write into a page; a browser may keep what it names for ever.
"""

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

STATIC = Path(__file__).parent / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
FOR_EVER = "public, max-age=31536000, immutable"


@cache
def asset(name: str) -> str:
    """The address of a file in `static`."""
    return f"/static/{hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}/{name}"


def assets_router(folder: Path) -> APIRouter:
    """The routes of the files in `folder`."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in TYPES}
    router = APIRouter()

    @router.get("/static/{mark}/{name}")
    async def show(mark: str, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "Not Found")
        media_type = f"{TYPES[Path(name).suffix]}; charset=utf-8"
        return Response(files[name], media_type=media_type, headers={"cache-control": FOR_EVER})

    return router
