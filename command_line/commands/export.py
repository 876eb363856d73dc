"""``export``: a trained prompt for other programs.

  promptstage export runs/pt --to peft FOLDER
  promptstage export runs/pt --to vllm FOLDER
  promptstage export runs/pt --to hub OWNER/NAME --dry-run FOLDER

peft: adapter_config.json and adapter_model.safetensors, which PEFT and programs that use it can load. vllm:
the prompt's embeddings and an example that serves them. hub: a repository on the Hugging Face Hub with a
model card; new repositories are public, unless your organization has another default.
"""

import os
from pathlib import Path

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.one_line_parser import OneLineParser
from promptstage.utilities.errors import UserError, choose, shown_path
from promptstage.utilities.files import check_new


class Export(DirectCommand):
    """Export a trained prompt for PEFT, vLLM or the Hugging Face Hub."""

    def main(self, name: str, options: list[str]) -> int:
        parser = OneLineParser(name, (__doc__ or "").partition("\n\n")[2])
        parser.add_argument(
            "prompt",
            metavar="RUN",
            nargs="?",
            help="run folder (best checkpoint), checkpoint, or saved folder of promptstage or PEFT",
        )
        parser.add_argument(
            "--to", nargs=2, metavar=("FORMAT", "TARGET"), help="peft FOLDER, vllm FOLDER or hub OWNER/NAME"
        )
        parser.add_argument(
            "--dry-run", metavar="FOLDER", help="hub: write the repository's files to FOLDER, upload nothing"
        )
        parsed = parser.parse(options)
        if parsed.prompt is None:
            raise UserError("export needs a trained prompt: promptstage export RUN --to peft FOLDER")
        if parsed.to is None:
            raise UserError("export needs --to peft FOLDER, --to vllm FOLDER or --to hub OWNER/NAME")
        from promptstage.composition.exports.formats import FORMATS, HUB, export
        from promptstage.composition.quiet import be_quiet, hide_loading_bar
        from promptstage.runs import load

        kind, target = parsed.to
        choose("format", kind, FORMATS)
        if parsed.dry_run is not None and kind != HUB:
            raise UserError(f"--dry-run is for --to hub: {kind} writes a folder anyway")
        is_folder = kind != HUB or parsed.dry_run is not None
        if is_folder:
            check_new(Path(target if kind != HUB else parsed.dry_run).expanduser())
        be_quiet()
        hide_loading_bar()
        prompt = load(parsed.prompt)
        run = parsed.prompt if os.path.isdir(parsed.prompt) else None
        written = export(prompt, kind, target, dry_run=parsed.dry_run, run=run)
        where = shown_path(written) if is_folder else written
        note = "" if parsed.dry_run is None else ": nothing was uploaded"
        print(f"prompt is in {where}{note}")
        return 0


COMMAND = Export()
