"""``validate``: loss and accuracy on the validation split."""

from promptstage.command_line.commands.base import Invocation, TrainerCommand


class Validate(TrainerCommand):
    """Evaluate a prompt on the validation split."""

    description = "Compute loss and accuracy on the validation split."
    loop = "validate"
    loop_options = ("ckpt_path", "verbose", "weights_only")
    own_options = ("verbose",)
    evaluates = "limit_val_batches"
    results = "validate"

    def run(self, invocation: Invocation) -> None:
        from promptstage.composition.jobs import validate

        validate(invocation.session, invocation.module, invocation.data, invocation.config.verbose)


COMMAND = Validate()
