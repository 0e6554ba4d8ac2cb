"""One file of a Hugging Face repository: from the local cache, else from the server; a one-sentence error if neither has it. No torch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from svgbench.errors import BadWeights


def hub_file(repository: str, name: str, revision: str | None = None, *, what: str, advice: str) -> Path:
    """The local path of ``name`` in ``repository``. ``what`` starts the error message, ``advice`` ends it."""
    from huggingface_hub import constants, hf_hub_download

    wanted: dict[str, Any] = {"repo_id": repository, "filename": name, "revision": revision}
    try:
        return Path(hf_hub_download(**wanted, local_files_only=True))
    except Exception:  # not in the cache: each release of the hub's library has its own classes for this
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true"):
            raise BadWeights(f"{what} is not in the cache and HF_HUB_OFFLINE forbids fetching it; {advice}.") from None
    if not _reachable(constants.ENDPOINT):
        raise BadWeights(f"{what} is not in the cache and {constants.ENDPOINT} cannot be reached; {advice}.")
    try:
        return Path(hf_hub_download(**wanted, etag_timeout=10))
    except Exception as error:
        raise BadWeights(f"{what} cannot be fetched ({type(error).__name__}); {advice}.") from None


def _reachable(address: str) -> bool:
    """Whether a server answers at all: the hub's own library would retry for half a minute. With a proxy, this is not tested."""
    if getproxies():
        return True
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)), timeout=10):
            return True
    except OSError:
        return False
