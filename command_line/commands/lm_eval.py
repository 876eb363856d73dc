"""``lm-eval``: tasks of lm-evaluation-harness on a trained prompt.

  promptstage lm-eval runs/first --tasks gsm8k,arc_easy --limit 100
  promptstage lm-eval runs/first --tasks my_task --include-path my_tasks

RUN is a run folder, a checkpoint or a folder written by prompt.save. Any method is evaluated. The prompt
stands before the tasks' own texts, which need not have the format of its training data. The table is printed,
and results.json and the samples are written to RUN/lm_eval.

Task files can name Python code, which is run: use only files that you trust.
"""

from promptstage.command_line.commands.base import DirectCommand
from promptstage.command_line.extras import import_extra
from promptstage.command_line.one_line_parser import OneLineParser
from promptstage.utilities.errors import UserError, printable, shown_path


class LMEval(DirectCommand):
    """Evaluate a prompt on tasks of lm-evaluation-harness."""

    def main(self, name: str, options: list[str]) -> int:
        parser = OneLineParser(name, (__doc__ or "").partition("\n\n")[2])
        parser.add_argument("run", metavar="RUN", nargs="?", help="run folder, checkpoint or saved prompt")
        parser.add_argument("--tasks", metavar="TASK[,TASK]", help="names, patterns or YAML files of tasks")
        parser.add_argument("--include-path", metavar="FOLDER", help="folder with YAML files of own tasks")
        parser.add_argument("--limit", type=float, help="questions of each task, or a share below 1")
        parser.add_argument("--num-fewshot", type=int, help="number of demonstrations; default: the task's")
        parser.add_argument("--batch-size", type=int, default=16, help="texts at a time; default: 16")
        parser.add_argument(
            "--apply-chat-template", action="store_true", help="render contexts with the chat template"
        )
        parser.add_argument("--system", metavar="TEXT", help="system message of the chat template")
        parser.add_argument(
            "--gen-kwargs", metavar="NAME=VALUE", help="generation options that replace the tasks' own"
        )
        parser.add_argument("--seed", type=int, default=0, help="seed of demonstrations and samples")
        parsed = parser.parse(options)
        if parsed.run is None:
            raise UserError("lm-eval needs a trained prompt: promptstage lm-eval RUN --tasks TASK")
        tasks = [task for task in (parsed.tasks or "").split(",") if task]
        if not tasks:
            raise UserError("lm-eval needs tasks: --tasks gsm8k,arc_easy")
        import_extra("lm_eval", "lm-eval")
        from promptstage.harness.evaluation import RESULTS, HarnessOptions, evaluate_run

        table, folder = evaluate_run(
            parsed.run,
            HarnessOptions(
                tasks,
                parsed.include_path,
                parsed.limit if parsed.limit is None or parsed.limit % 1 else int(parsed.limit),
                parsed.num_fewshot,
                parsed.batch_size,
                parsed.apply_chat_template,
                parsed.system,
                parsed.gen_kwargs,
                parsed.seed,
            ),
        )
        for line in table.splitlines():
            print(printable(line))
        print(f"results are in {shown_path(folder / RESULTS)}")
        return 0


COMMAND = LMEval()
