"""``serve``: an OpenAI-compatible server of trained prompts.

  promptstage serve runs/first                      # http://127.0.0.1:8000/v1, model 'first'
  promptstage serve runs/first fast=runs/second     # models 'first' and 'fast', which share a backbone
  promptstage serve runs/first --dpc                # and 'first-dpc', with the calibrated threshold

RUN is a run folder, a checkpoint or a folder written by prompt.save. Requests join a running batch, and give
the same texts as alone. Chats are rendered in the format of the prompt's training data, completions are not.

The server is bound to 127.0.0.1. An API key is read from the environment variable PROMPTSTAGE_API_KEY or
given by --api-key, which other users of the machine can see; another --host needs one. Ctrl-C and SIGTERM let
the running requests finish.
"""

import os

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.extras import import_extra
from promptstage.command_line.one_line_parser import OneLineParser
from promptstage.utilities.checks import check_between, check_minimum
from promptstage.utilities.errors import UserError, printable

KEY = "PROMPTSTAGE_API_KEY"
NUMBERS = {
    "--max-batch": (64, "generations of a model that run at a time"),
    "--max-queue": (256, "generations of a model that wait besides"),
    "--max-body": (1 << 20, "bytes of a request's body"),
}


class Serve(DirectCommand):
    """Serve trained prompts."""

    def main(self, name: str, options: list[str]) -> int:
        parser = OneLineParser(name, (__doc__ or "").partition("\n\n")[2])
        parser.add_argument(
            "runs", metavar="[NAME=]RUN", nargs="*", help="run folder, checkpoint or saved prompt"
        )
        parser.add_argument("--host", default="127.0.0.1", help="address to bind to; default: 127.0.0.1")
        parser.add_argument("--port", type=int, default=8000, help="port; 0: a free one; default: 8000")
        parser.add_argument("--api-key", metavar="KEY", help=f"key of requests; default: {KEY}, or none")
        parser.add_argument(
            "--dpc", action="store_true", help="serve each run also with its calibrated DPC, as NAME-dpc"
        )
        parser.add_argument(
            "--act", metavar="FOLDER", help="serve each run also with the heads of an act.json, as NAME-act"
        )
        for flag, (default, text) in NUMBERS.items():
            parser.add_argument(
                flag, type=int, metavar="N", default=default, help=f"{text}; default: {default}"
            )
        parser.add_argument(
            "--max-tokens",
            type=int,
            metavar="N",
            help="new tokens of a generation; default: what the context has room for",
        )
        parsed = parser.parse(options)
        if not parsed.runs:
            raise UserError("serve needs a trained prompt: promptstage serve RUN")
        check_between({"--port": parsed.port}, 0, 65535)
        counts = {"--max-batch": parsed.max_batch, "--max-body": parsed.max_body}
        check_minimum(counts | {"--max-tokens": parsed.max_tokens}, 1)
        check_minimum({"--max-queue": parsed.max_queue}, 0)
        key = parsed.api_key if parsed.api_key is not None else os.environ.get(KEY)
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise UserError("the API key must be a text of printable ASCII characters")
        import_extra("fastapi", "serve")
        import_extra("uvicorn", "serve")
        from promptstage.serving.server import bind, is_local, run

        own = bind(parsed.host, parsed.port)  # before anything is loaded
        local = is_local(own)
        if not local and key is None:
            raise UserError(f"--host {parsed.host} can be reached from other machines: set {KEY}")
        from promptstage.composition.quiet import be_quiet, hide_loading_bar
        from promptstage.serving.application import Limits, create_application
        from promptstage.serving.models import load_models

        be_quiet()
        hide_loading_bar()
        models = load_models(parsed.runs, parsed.max_batch, parsed.dpc, parsed.act)
        limits = Limits(parsed.max_batch, parsed.max_queue, parsed.max_tokens, parsed.max_body)
        host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        address = f"http://{host}:{own.getsockname()[1]}/v1"
        print(printable(f"serving {', '.join(models)} at {address} (Ctrl-C stops)"), flush=True)
        return run(create_application(models, limits, key, local), own)


COMMAND = Serve()
