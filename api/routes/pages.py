"""Two plain pages for people: what is going on, and what the API offers. No scripts, nothing from other hosts."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from api.services import ServicesOfApp
from store.jobs import Job
from store.models import Model
from store.unit_of_work import Transaction

router = APIRouter(include_in_schema=False)

_SHOWN_JOBS = 15
_SHOWN_MODELS = 15

_templates = Environment(
    loader=PackageLoader("api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True)
class JudgedModel:
    """A model with what its last audit said."""

    model: Model
    verdict: str | None
    sentence: str | None
    audited_version: int | None
    audit_id: str | None


@router.get("/")
def home(services: ServicesOfApp) -> Response:
    """Show the latest jobs and the models with their verdicts; only a hint where an API key is needed."""
    protected = services.settings.api_key is not None
    jobs: list[Job] = []
    models: list[JudgedModel] = []
    if not protected:
        with services.store.reading() as tx:
            jobs = tx.jobs.list(limit=_SHOWN_JOBS).items
            models = [_judged(tx, model) for model in tx.models.list(limit=_SHOWN_MODELS).items]
    return HTMLResponse(_templates.get_template("home.html").render(protected=protected, jobs=jobs, models=models))


@router.get("/docs")
def docs(request: Request) -> Response:
    """Show the operations of the API."""
    operations = list(_operations(request.app.openapi()))
    return HTMLResponse(_templates.get_template("docs.html").render(operations=operations))


@router.get("/odeness.css")
def style() -> Response:
    """Return the pages' style sheet."""
    text = (files("api") / "templates" / "odeness.css").read_text(encoding="utf-8")
    return Response(text, media_type="text/css", headers={"Cache-Control": "max-age=3600"})


def _judged(tx: Transaction, model: Model) -> JudgedModel:
    audits = tx.jobs.list(kind="audit", status="succeeded", model=model.name, limit=1).items
    result = (audits[0].result or {}) if audits else {}
    return JudgedModel(
        model,
        result.get("verdict"),
        result.get("sentence"),
        audits[0].model_version if audits else None,
        audits[0].id if audits else None,
    )


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield {
                "method": method.upper(),
                "path": path,
                "summary": operation.get("summary", ""),
                "description": operation.get("description", ""),
                "parameters": operation.get("parameters", []),
                "body": "requestBody" in operation,
                "responses": operation["responses"],
            }
