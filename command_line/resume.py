"""Options that a resumed fit cannot change, since its checkpoint fixes them."""

from collections.abc import Mapping

from promptstage.utilities.errors import UserError, shown

# A method's other options are fixed once its parameters are created.
_FREE_OF_MODEL = (
    "model.init_args.objective.",
    "model.init_args.optimizer.",
    "model.init_args.val_generations",
)
_KIND = "model.init_args.optimizer.kind"  # of the states in the checkpoint


def is_fixed(key: str) -> bool:
    """Return whether the checkpoint fixes an option of the flattened configuration.

    The objective and other options of optimizer, early stopping, data, trainer and backbone take effect when
    a fit is resumed. Values that do not fit the checkpoint (another backbone, or batch size within an epoch)
    are refused at loading.
    """
    return key in ("seed_everything", _KIND) or (
        key.startswith("model.init_args.") and not key.startswith(_FREE_OF_MODEL)
    )


def check_resume(stored: Mapping[str, object], used: Mapping[str, object]) -> None:
    """Check that the configuration of a resumed fit changes no fixed option.

    Args:
        stored: flattened configuration in the checkpoint.
        used: that of this fit.

    Raises:
        UserError: naming the first option that cannot change. A change of method is left to the checkpoint's
            own check.
    """
    if stored.get("model.class_path") != used.get("model.class_path"):
        return
    for key in sorted(stored.keys() & used.keys()):
        if is_fixed(key) and stored[key] != used[key]:
            option = f"--{key}".replace(".init_args", "")
            raise UserError(
                f"{option} must be {shown(stored[key])} as in the checkpoint, got {shown(used[key])}: a "
                "resumed fit cannot change it (start a new fit without --ckpt_path)"
            )
