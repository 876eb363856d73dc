"""``test``: generate and grade answers to the test split."""

from promptstage.command_line.commands.base import Invocation, TrainerCommand


class Test(TrainerCommand):
    """Evaluate a prompt on the test split."""

    description = "Generate and grade an answer to each question of the test split."
    loop = "test"
    loop_options = ("ckpt_path", "verbose", "weights_only")
    own_options = ("verbose",)
    defaults = {"verbose": False}  # the results have a line of their own
    evaluates = "limit_test_batches"
    results = "test"

    def run(self, invocation: Invocation) -> None:
        from promptstage.composition.jobs import test

        test(invocation.session, invocation.module, invocation.data, invocation.config.verbose)


COMMAND = Test()
