"""Alerts: what needs a person, what drifts, and how the champion does since its promotion.

A drift report has a page of Evidently's with scripts of its own. It is shown in a sandbox without an origin: it can
read nothing of the console, not even that somebody is signed in.
"""

from fastapi import APIRouter, Response

from feedback import adapters, champion_reports
from feedback.errors import HoneError, NotFound
from monitoring import alerts, drift
from monitoring.console import standing
from monitoring.console.page import Changed, Seen, console_of

router = APIRouter(prefix="/alerts")

REPORTS_SHOWN = 15
HOURS_MAX = 24 * 30
SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; frame-ancestors 'none'"
)


@router.get("")
async def show(page: Seen) -> Response:
    """The page."""
    model, connection = page.model, page.connection
    if model is None:
        return page.show("start.html")
    champion = await adapters.champion(connection, page.project, model.model)
    health = await standing.health(connection, model, champion)
    return page.show(
        "alerts.html",
        champion=champion,
        health=health,
        alerts=await alerts.listed(connection, page.project, model.model, limit=50),
        rules=model.policy.alerts.rules,
        reports=await drift.newest(connection, page.project, model.model, limit=REPORTS_SHOWN),
        watched=await champion_reports.of_champion(connection, champion.adapter_id),
    )


@router.post("/silence")
async def silence(page: Changed) -> Response:
    """Tell nobody of a rule's alerts for some hours."""
    hours = page.form.get("hours", "")
    if not hours.isdecimal() or not 0 < int(hours) <= HOURS_MAX:
        raise HoneError(
            f"The silence is '{hours}' hours long; expected a whole number from 1 to {HOURS_MAX}."
        )
    await alerts.silence(
        page.connection,
        page.project,
        page.required_model().model,
        rule=page.form.get("rule", ""),
        hours=float(hours),
        by=page.visitor.actor,
        reason=page.form.get("reason", "").strip(),
    )
    return page.go("/alerts", done="silence")


@router.get("/drift/{report_id}")
async def drift_page(report_id: str, page: Seen) -> Response:
    """Evidently's page about one window."""
    model = page.required_model()
    reports = await drift.newest(page.connection, page.project, model.model, limit=1000)
    report = next((one for one in reports if one.report_id == report_id), None)
    state_dir = console_of(page.request).record.absolute_state_dir.resolve()
    path = None if report is None or report.page is None else (state_dir / report.page).resolve()
    # What the record says is a path is believed only below the state directory.
    if path is None or not path.is_relative_to(state_dir) or not path.is_file():
        raise NotFound(
            f"There is no page for '{report_id}' on this machine; the worker that compared it has it."
        )
    headers = {"content-security-policy": SANDBOX, "cross-origin-resource-policy": "same-origin"}
    return Response(path.read_bytes(), media_type="text/html; charset=utf-8", headers=headers)
