"""Commands of a comparison's rows, with their output in a log."""

import gc
import shlex
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import promptstage
from promptstage.command_line.main import main
from promptstage.comparisons.command_log import errors_in, output_to
from promptstage.comparisons.flags import starts_processes
from promptstage.utilities.errors import printable

# Lightning starts further ranks by running the program again, which must be a file.
PROGRAM = Path(promptstage.__file__).with_name("cli.py")


class Commands:
    """Runs subcommands of promptstage.

    Attributes:
        log: file that their output is appended to; None: they print to the terminal.
        child: running command that has a process of its own, if any.
    """

    def __init__(self, log: Path | None = None) -> None:
        self.log = log
        self.child: subprocess.Popen[bytes] | None = None

    def run(self, arguments: list[str]) -> float:
        """Run a subcommand and return its duration in seconds.

        On one device it runs in this process, to save the time of importing torch again. Lightning starts
        other ranks by running the program again, which must then be the subcommand, not the comparison.

        Raises:
            SystemExit: if the command failed.
        """
        command = printable(f"$ promptstage {shlex.join(arguments)}")
        started = time.monotonic()
        with nullcontext() if self.log is None else output_to(self.log):
            print(command, flush=True)
            if starts_processes(arguments):
                code = self._run_process([sys.executable, str(PROGRAM), *arguments])
            else:
                code = main(arguments)
                gc.collect()  # model and trainer are a reference cycle; free its memory for the next backbone
        if code:
            if self.log is not None:
                print("\n".join(errors_in(self.log)), file=sys.stderr)
                print(f"the failed command is: {command[2:]}; its output is in {self.log}", file=sys.stderr)
            raise SystemExit(code)
        return round(time.monotonic() - started, 1)

    def _run_process(self, command: list[str]) -> int:
        with subprocess.Popen(command) as self.child:
            try:
                return self.child.wait()
            except BaseException:
                self.child.kill()
                raise
            finally:
                self.child = None
