"""Reachability of the Hugging Face hub, whose libraries would else retry for a minute."""

import os
import socket
import sys
import threading
from functools import cache
from urllib.parse import urlsplit

from promptstage.utilities.processes import note

SECONDS = 5.0
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


@cache
def use_cache_if_offline() -> None:
    """Make the hub's libraries read only their cache if the hub cannot be reached within five seconds.

    Not checked behind a proxy, where direct connections fail.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or any(os.environ.get(name) for name in PROXIES):
        return
    endpoint = urlsplit(constants.ENDPOINT)
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    if not _is_reachable(endpoint.hostname or "", port):
        note(f"the hub ({endpoint.hostname}) cannot be reached: only cached files are used")
        constants.HF_HUB_OFFLINE = True
        if datasets := sys.modules.get("datasets"):
            datasets.config.HF_HUB_OFFLINE = True


def _is_reachable(host: str, port: int) -> bool:
    """Return whether a connection can be opened in time; resolving a name has no timeout of its own."""
    opened = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=SECONDS).close()
        except OSError:
            done.set()
        else:
            opened.set()
            done.set()

    done = threading.Event()
    threading.Thread(target=connect, daemon=True).start()
    done.wait(SECONDS)
    return opened.is_set()
