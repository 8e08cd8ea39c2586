"""`GET /v1/models`: the names a project may ask for, in OpenAI's shape.

Aliases come first, then their versions, then `ft:` names; what an engine calls them is never shown.
"""

from typing import Any

from serving.auth import Caller
from serving.routing import ModelRoute, RoutingTable, Version, find_pinned


def list_models(table: RoutingTable, caller: Caller) -> dict[str, Any]:
    """Every model and version of the caller's project."""
    routes = [route for (project, _), route in table.models.items() if project == caller.project]
    routes.sort(key=lambda route: route.model)
    data = [_alias(route) for route in routes]
    data += [_version(route, route.versions[number]) for route in routes for number in sorted(route.versions)]
    names = sorted(name for project, name in table.fine_tuned if project == caller.project)
    data += [_fine_tuned(table, caller.project, name) for name in names]
    return {"object": "list", "data": data}


def show_model(table: RoutingTable, caller: Caller, name: str) -> dict[str, Any]:
    """One model, or one version of it.

    Raises:
        ApiError: 404 when there is none of that name.
    """
    route = table.models.get((caller.project, name))
    if route is not None:
        return _alias(route)
    if (caller.project, name) in table.fine_tuned:
        return _fine_tuned(table, caller.project, name)
    version = find_pinned(table, caller.project, name)
    return _version(table.models[caller.project, version.model], version)


def _alias(route: ModelRoute) -> dict[str, Any]:
    """The alias; `root` is the version that answers it outside experiments."""
    return {**_entry(route, route.model), "root": route.champion.name, "parent": None}


def _version(route: ModelRoute, version: Version) -> dict[str, Any]:
    return {**_entry(route, version.name), "root": version.name, "parent": route.model}


def _fine_tuned(table: RoutingTable, project: str, name: str) -> dict[str, Any]:
    """An `ft:` name; `root` is the version that it pins."""
    version = table.fine_tuned[project, name]
    return {
        **_entry(table.models[project, version.model], name),
        "root": version.name,
        "parent": version.model,
    }


def _entry(route: ModelRoute, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": route.created_at, "owned_by": route.project}
