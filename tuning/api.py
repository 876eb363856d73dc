"""Search for the learning rate in Python.

import promptstage as ps

prompt = ps.PromptTuning(ps.Backbone("embedded"), num_virtual_tokens=16)
tuning = ps.tune(prompt, ps.Generated(task="last_letter"), max_steps=81, folder="runs/search")
run = ps.fit(prompt, ps.Generated(task="last_letter"), max_steps=81, lr=tuning.best.values.lr)
"""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import lightning as L

from promptstage.composition.configuration import config_of
from promptstage.composition.folders import resumed_folders, run_folders
from promptstage.composition.quiet import quiet
from promptstage.composition.session import Session
from promptstage.composition.trainer_options import check_option_names, check_trainer_options
from promptstage.datamodules.base import ReasoningDataModule
from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.initialization import Kind
from promptstage.tuning.report import Tuning
from promptstage.tuning.run import TRIALS, check_options, search_values
from promptstage.tuning.space import SearchSpace
from promptstage.tuning.study import FILE
from promptstage.utilities.errors import UserError
from promptstage.utilities.yaml_values import dump_yaml


def tune(
    prompt: SoftPromptModule,
    data: ReasoningDataModule,
    *,
    folder: str | os.PathLike[str] | None = None,
    trials: int = TRIALS,
    lr_range: Sequence[float] | None = None,
    lengths: Sequence[int] | None = None,
    inits: Sequence[Kind] | None = None,
    seed: int = 0,
    resume: bool = False,
    **options: Any,
) -> Tuning:
    """Search for the learning rate with the lowest validation loss, by successive halving.

    The prompt itself is not trained, and keeps its values.

    Args:
        folder: folder of the search, numbered if it already contains one; None: ``runs/tune-METHOD-DATASET``.
        trials: number of trials.
        lr_range: smallest and largest learning rate; None: those of the method.
        lengths: numbers of virtual tokens to try, too; None: that of the prompt.
        inits: kinds of initialization to try, too; None: that of the prompt.
        seed: random seed of the search and of all trials.
        resume: continue the interrupted search in ``folder``, with the same arguments.
        options: options of Lightning's trainer; ``max_steps`` is required.

    Raises:
        UserError: if a value is not allowed.
        RunFailure: if all trials diverge.
    """
    own = ("folder", "trials", "lr_range", "lengths", "inits", "seed", "resume")
    check_option_names(options, own)
    check_trainer_options(options)
    check_options(prompt, options, trials)
    space = SearchSpace.of(prompt, lr_range, lengths, inits)
    if resume and (folder is None or not (Path(folder) / FILE).is_file()):
        raise UserError(f"folder must have a search to continue, got {folder}")
    L.seed_everything(seed, verbose=False)
    data.set_chat_date(date.today())
    settings = {"seed_everything": seed, "trials": trials, "lr_range": list(space.lr)}
    settings |= {"lengths": list(space.lengths), "inits": list(space.inits)}
    config = dump_yaml(config_of(prompt, data, options, **settings))
    if resume:
        path = Path(folder or "")
        folders = resumed_folders(path)._replace(run=path)
    else:
        name = f"tune-{type(prompt).__name__}-{data.name}".lower()
        folders = run_folders(None if folder is None else str(folder), None, name)
    session = Session(folders=folders, options=options, config=config)
    try:
        with quiet():
            return search_values(session, prompt, data, space, trials)
    except BaseException:
        session.discard_unused()
        raise
    finally:
        session.folders.release()
