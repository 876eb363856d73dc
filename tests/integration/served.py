"""A server of trained prompts in a thread of this process."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from promptstage.serving.application import Limits, create_application
from promptstage.serving.models import ServedModel
from promptstage.serving.server import bind, server_of


class Served(NamedTuple):
    """Address and application of a running server."""

    url: str
    application: Any


@contextmanager
def serving(
    models: Mapping[str, ServedModel], limits: Limits = Limits(), api_key: str | None = None
) -> Iterator[Served]:
    """Run a server on a free port."""
    own = bind("127.0.0.1", 0)
    port = own.getsockname()[1]
    application = create_application(models, limits, api_key, local=True)
    server = server_of(application)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [own]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Served(f"http://127.0.0.1:{port}/v1", application)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()
