"""Files that the client sends and receives."""

import io
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from api.client.errors import ServerUnreachable
from api.client.transport import Transport

_UPLOAD_SECONDS = 600.0  # the server reads and stores the whole file before it answers


class FileTransport(Transport):
    """A connection that files travel on, too."""

    def _upload(self, path: str, content: bytes, query: Mapping[str, Any], idempotency_key: str | None) -> Any:
        headers = {
            "Content-Type": "application/octet-stream",
            "Idempotency-Key": idempotency_key or uuid.uuid4().hex,
        }
        return self._request(
            "POST", path, params=query, content=content, headers=headers, timeout=_UPLOAD_SECONDS, repeatable=True
        ).json()

    def _download(self, path: str, to: Path | str | None, query: Mapping[str, Any] | None = None) -> Path:
        """Write an answer into the file ``to``, by default one of the server's name in the current folder."""
        response = self._request("GET", path, params=query, repeatable=True)
        written = _file_for(response, to)
        written.write_bytes(response.content)
        return written

    def _download_in_pieces(self, path: str, to: Path | str | None, query: Mapping[str, Any]) -> Path:
        """Do the same with an answer that may be larger than the memory; one that breaks off is not repeated."""
        response = self._request("GET", path, params=query, repeatable=True, stream=True)
        written = _file_for(response, to)
        try:
            with written.open("wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece)
        except httpx.TransportError as error:
            written.unlink()
            raise ServerUnreachable(f"{self.url} broke off within the file ({error}): ask for it again") from error
        finally:
            response.close()
        return written


def file_content(file: Path | str | bytes | Mapping[str, Any]) -> bytes:
    """Return the bytes of a file: given as they are, by its path, or as an npz of arrays by name."""
    if isinstance(file, bytes):
        return file
    if isinstance(file, Path | str):
        return Path(file).read_bytes()
    import numpy as np  # noqa: PLC0415  # the client is otherwise small

    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **file)
    return content.getvalue()


def _file_for(response: httpx.Response, to: Path | str | None) -> Path:
    """Return ``to``, by default the name that the server gives the file, without a folder."""
    if to is not None:
        return Path(to)
    return Path(Path(response.headers["content-disposition"].partition('filename="')[2].rstrip('"')).name)
