"""Submits the studies and jobs of a preset so that the same command again finds what it has begun."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from itertools import islice
from typing import Any

from api.client import Client, Study
from ode_core.specs import StudySpec

_LOOKED_AT = 20  # newest studies of the name


def submit_study(client: Client, spec: StudySpec, *, again: bool = False) -> Study:
    """Return the server's study of this spec: the newest there is, or a new one.

    One that has failed or was cancelled is resumed. The idempotency key is derived from the content, so that of two
    commands at the same time one finds the other's study; the server remembers keys for a day, and its studies longer.

    Args:
        client: of the server.
        spec: the study.
        again: start a new one in any case.
    """
    key = idempotency_key(spec.document())
    if again:
        return client.submit_study(spec.document(), idempotency_key=f"{key}-{secrets.token_hex(8)}")
    found = _find(client, spec) or client.study(client.submit_study(spec.document(), idempotency_key=key)["id"])
    return client.resume_study(found["id"]) if found["status"] in ("failed", "cancelled") else found


def submit_job(client: Client, document: Mapping[str, Any]) -> str:
    """Return the id of the server's job of this spec; in place of one that failed or was cancelled a new one."""
    key = idempotency_key(document)
    while True:
        job_id = client.submit_evaluation(document, idempotency_key=key)["id"]
        if client.job(job_id)["status"] not in ("failed", "cancelled"):
            return job_id
        key = idempotency_key({**document, "in_place_of": job_id})


def idempotency_key(document: Mapping[str, Any]) -> str:
    """Return a key that is the same for the same content."""
    content = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return f"odeness-paper-{hashlib.sha256(content.encode()).hexdigest()}"


def _find(client: Client, spec: StudySpec) -> Study | None:
    for summary in islice(client.studies(name=spec.name), _LOOKED_AT):
        study = client.study(summary["id"])
        if StudySpec.model_validate(study["spec"]) == spec:
            return study
    return None
