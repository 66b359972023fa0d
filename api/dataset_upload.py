"""Takes an uploaded data set in: streamed to a file, read in a process of its own, stored as a version."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.idempotent_requests import Answer, Made, answer_once
from api.problems import Problem, invalid
from api.schemas.catalogue import UploadedVersion
from api.services import Services
from ode_core.specs import UploadedFacts
from store.unit_of_work import Transaction

log = logging.getLogger(__name__)

# Types that a page of another site cannot send without this server's leave.
MEDIA_TYPES = ("application/octet-stream", "application/zip", "application/vnd.apache.parquet")
AT_ONCE = 2
RECEIVE_SECONDS = 600
_READ_SECONDS = 400
_WRITTEN_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class UploadOptions:
    """What goes with an uploaded file.

    Attributes:
        name: of the data set.
        input_scale: factor from its own units to what a model computes with.
        label: the column of labels in a Parquet file.
        test_fraction: of the samples, where the file has no test samples of its own.
        split_seed: of the draw of the test samples.
    """

    name: str
    input_scale: float
    label: str | None
    test_fraction: float | None
    split_seed: int | None


async def take_in(request: Request, services: Services, options: UploadOptions, idempotency_key: str | None) -> Answer:
    """Store the body of a request as the next version of a data set.

    Raises:
        Problem: it is no data set, or the server is busy with others.
    """
    async with received_file(request, services) as (source, checksum):
        return await run_in_threadpool(_store, services, source, checksum, options, idempotency_key)


@asynccontextmanager
async def received_file(request: Request, services: Services) -> AsyncIterator[tuple[Path, str]]:
    """Receive the body of a request into a file of its own, which goes at the end; yield it and its SHA-256.

    Raises:
        Problem: the body does not arrive, or the server is busy with others.
    """
    slot = object()
    try:
        services.uploads.acquire_on_behalf_of_nowait(slot)
    except anyio.WouldBlock:
        raise Problem(
            503,
            "busy",
            f"{AT_ONCE} uploads are already in progress: try again in a moment",
            headers={"Retry-After": "5"},
        ) from None
    try:
        with tempfile.TemporaryDirectory(prefix="odeness-upload-") as folder:
            source = Path(folder) / "upload"
            yield source, await _receive(request, source)
    finally:
        services.uploads.release_on_behalf_of(slot)


async def _receive(request: Request, target: Path) -> str:
    """Write the body to a file; return its SHA-256."""
    digest = hashlib.sha256()
    pending = bytearray()
    try:
        with anyio.fail_after(RECEIVE_SECONDS), target.open("wb") as file:
            async for part in request.stream():
                pending += part
                if len(pending) >= _WRITTEN_AT_ONCE:
                    await run_in_threadpool(_write, file, digest, pending)
                    pending = bytearray()
            _write(file, digest, pending)
    except TimeoutError:  # an OSError, too
        raise Problem(
            408,
            "upload_too_slow",
            f"the file did not arrive within {RECEIVE_SECONDS} s",
            headers={"Connection": "close"},
        ) from None
    except OSError as error:
        log.warning("no room for an upload: %s", error)
        raise Problem(
            503, "no_room", "the server has no room for the file now: try again later", headers={"Retry-After": "60"}
        ) from None
    except ClientDisconnect:
        raise Problem(400, "unreadable_body", "the upload ended before the file did: send it again") from None
    return digest.hexdigest()


def _write(file: Any, digest: Any, data: bytearray) -> None:
    digest.update(data)
    file.write(data)


def _store(
    services: Services, source: Path, checksum: str, options: UploadOptions, idempotency_key: str | None
) -> Answer:
    target = source.with_name("arrays")
    read = _read_in_own_process(source, target, options, services.settings.max_upload_bytes)
    facts = UploadedFacts.model_validate(read["facts"] | {"input_scale": options.input_scale})
    described = {"bytes": source.stat().st_size, "sha256": checksum, **read["how"]}
    blob_id = services.store.save_file(target)

    def make(tx: Transaction) -> Made:
        version = tx.datasets.register_version(options.name, facts, source=described, blob_id=blob_id)
        return Made(UploadedVersion.of(version).model_dump(mode="json"))

    answer = answer_once(services, ["upload", asdict(options), checksum], idempotency_key, status=201, make=make)
    if answer.replayed:
        with services.store.transaction() as tx:
            tx.blobs.remove([blob_id])
    return answer


def _read_in_own_process(source: Path, target: Path, options: UploadOptions, limit: int) -> dict[str, Any]:
    """Return what the reader says of the file.

    Raises:
        Problem: the file is no data set, or its reader did not survive it.
    """
    how = {
        "limit": limit,
        "label": options.label,
        "test_fraction": options.test_fraction,
        "split_seed": options.split_seed,
    }
    command = [sys.executable, "-m", "ode_core.datasets.upload_reader", str(source), str(target), json.dumps(how)]
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_READ_SECONDS,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        ended = "took too long" if isinstance(error, subprocess.TimeoutExpired) else f"ended with {done.returncode}"
        last = "" if isinstance(error, subprocess.TimeoutExpired) else done.stderr.decode(errors="replace")[-500:]
        log.warning("the reader of an upload %s: %s", ended, last)
        raise invalid(
            "body", "the file cannot be read: it is damaged, or takes too much time or memory", code="invalid_file"
        ) from None
    if "refused" in answer:
        if answer["too_large"]:
            raise Problem(413, "dataset_too_large", f"{answer['refused']}, or raise ODENESS_MAX_UPLOAD_BYTES")
        raise invalid("body", answer["refused"], code="invalid_file")
    return answer


def _environment() -> dict[str, str]:
    """Return this process's environment for the reader: without our secrets, and with one thread for its libraries."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ODENESS_")}
    # Each thread of these libraries takes address space, which is bounded.
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
