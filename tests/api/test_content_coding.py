"""Compressed bodies and answers of /v1: unpacked where inputs come, refused in words everywhere else."""

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from tests.api.conftest import SPHERES_JOB, Served, assert_problem, train

PATH = "/v1/models/spheres/predict"
BODY = json.dumps({"inputs": [[[0.1, 0.12]], [[-0.4, 0.3]]], "times": [0, 0.5]}).encode()
JSON = {"Content-Type": "application/json"}
_MEDIA_TYPE = {"/v1/datasets?name=coded": "application/vnd.apache.parquet"}


def raw_deflate(content: bytes) -> bytes:
    """Return what Java's ``Deflater(nowrap)`` and .NET's ``DeflateStream`` send: RFC 1951 without RFC 1950 around."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate), ("GZip", gzip.compress)],
)
@pytest.mark.parametrize("path", [PATH, "/v1/models/spheres/aliases/latest/predict"])
def test_a_packed_request_is_answered_as_a_plain_one(
    refusing_client: httpx.Client, coding: str, pack: Any, path: str
) -> None:
    plain = refusing_client.post(path, content=BODY, headers=JSON)
    coded = refusing_client.post(path, content=pack(BODY), headers=JSON | {"Content-Encoding": coding})
    assert (plain.status_code, coded.status_code) == (200, 200), coded.text
    assert coded.json() == plain.json()


@pytest.mark.parametrize(
    ("coding", "content", "status", "code"),
    [
        ("br", BODY, 415, "unsupported_content_encoding"),
        ("gzip", BODY, 400, "unreadable_body"),
        ("gzip", gzip.compress(BODY)[:-9], 400, "unreadable_body"),
        ("deflate", gzip.compress(BODY), 400, "unreadable_body"),
        ("deflate", raw_deflate(BODY)[:-1], 400, "unreadable_body"),
        ("deflate", BODY, 400, "unreadable_body"),
        ("deflate", raw_deflate(bytes(20_000_000)), 413, "body_too_large"),
        ("gzip", gzip.compress(bytes(20_000_000)), 413, "body_too_large"),
    ],
)
def test_a_request_that_does_not_unpack_is_refused_and_the_connection_stays(
    refusing_client: httpx.Client, coding: str, content: bytes, status: int, code: str
) -> None:
    refused = refusing_client.post(PATH, content=content, headers=JSON | {"Content-Encoding": coding})
    assert_problem(refused, status, code)
    assert refused.headers.get("connection") != "close"
    if status == 415:
        assert refused.headers["accept-encoding"] == "gzip, deflate"
    assert refusing_client.post(PATH, content=BODY, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/training-jobs"),
        ("POST", "/v1/evaluation-jobs"),
        ("POST", "/v1/studies"),
        ("PUT", "/v1/models/spheres/aliases/best"),
        ("POST", "/v1/datasets?name=coded"),
        ("POST", "/v2/repository/index"),
    ],
)
def test_a_packed_body_that_nothing_unpacks_is_refused_as_that(
    refusing_client: httpx.Client, method: str, path: str
) -> None:
    refused = refusing_client.request(
        method,
        path,
        content=gzip.compress(b"{}"),
        headers={"Content-Encoding": "gzip", "Content-Type": _MEDIA_TYPE.get(path, "application/json")},
    )
    assert refused.status_code == 415, refused.text
    assert "Content-Encoding gzip is not supported" in refused.text
    assert refused.headers["accept-encoding"] == "identity"
    plain = refusing_client.request(method, path, content=b"{}", headers=JSON | {"Content-Encoding": "identity"})
    assert "Content-Encoding" not in plain.text


def test_a_request_without_a_body_is_answered_whatever_its_coding(refusing_client: httpx.Client) -> None:
    assert refusing_client.get("/v1/models", headers={"Content-Encoding": "gzip"}).status_code == 200


def test_large_answers_are_packed_as_the_client_accepts_and_small_ones_are_not(served: Served) -> None:
    train(served.store, SPHERES_JOB)
    times = [number / 500 for number in range(500)]
    with served.client() as client:
        small = client.post(PATH, content=BODY, headers=JSON | {"Accept-Encoding": "gzip"})
        large = [
            client.post(PATH, json={"inputs": [[[0.1, 0.12]]] * 4, "times": times}, headers={"Accept-Encoding": coding})
            for coding in ("gzip", "deflate", "identity")
        ]
    assert "content-encoding" not in small.headers
    assert [one.headers.get("content-encoding") for one in large] == ["gzip", "deflate", None]
    assert large[0].json() == large[1].json() == large[2].json()
    sizes = [int(one.headers["content-length"]) for one in large]
    assert max(sizes[:2]) < sizes[2]
    assert large[0].headers["vary"] == "Accept-Encoding"
