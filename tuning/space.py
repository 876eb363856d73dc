"""Search space of a method: learning rates on a logarithmic scale, lengths and initializations."""

import inspect
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from promptstage.lightning_modules.base import SoftPromptModule
from promptstage.lightning_modules.initialization import Kind, PromptInit
from promptstage.lightning_modules.optimization import LARGEST
from promptstage.tuning.halving import FIRST
from promptstage.utilities.checks import check_minimum
from promptstage.utilities.errors import UserError, choose


@dataclass(frozen=True)
class Values:
    """Values that a trial is trained with; None: that of the configuration.

    Attributes:
        lr: learning rate.
        num_virtual_tokens: length of the prompt.
        init: kind of its initialization.
    """

    lr: float
    num_virtual_tokens: int | None = None
    init: Kind | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the values that are set by their names."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class SearchSpace:
    """Values to choose from.

    Attributes:
        lr: smallest and largest learning rate.
        lengths: numbers of virtual tokens; empty: that of the configuration.
        inits: kinds of initialization; empty: that of the configuration.
    """

    lr: tuple[float, float]
    lengths: tuple[int, ...] = ()
    inits: tuple[Kind, ...] = ()

    @classmethod
    def of(
        cls,
        prompt: SoftPromptModule,
        lr_range: Sequence[float] | None,
        lengths: Sequence[int] | None,
        inits: Sequence[str] | None,
    ) -> "SearchSpace":
        """Check the search space of a method.

        Args:
            lr_range: smallest and largest learning rate; None: the method's ``lr_range``.

        Raises:
            UserError: if a value is not allowed, or the method has no such option.
        """
        low, high = _checked_range(prompt.lr_range if lr_range is None else lr_range)
        lengths, inits = tuple(lengths or ()), tuple(inits or ())
        for option, argument, values in (
            ("lengths", "num_virtual_tokens", lengths),
            ("inits", "init", inits),
        ):
            if values and argument not in prompt.constructor_arguments:
                raise UserError(f"{option}: {type(prompt).__name__} has no option {argument}")
            if len(set(values)) < len(values):
                raise UserError(f"{option} must not have a value twice, got {list(values)}")
        for length in lengths:
            check_minimum({"lengths": length}, 1)
        for init in inits:
            choose("inits: prompt init", init, get_args(Kind))
        space = cls((low, high), lengths, inits)  # type: ignore[arg-type]  # kinds were checked
        for kind in space.inits:
            changed_arguments(prompt, Values(low, init=kind))
        return space

    def first_values(self, count: int, given: Values, seed: int) -> list[Values]:
        """Return the values of the first round: the given ones, then learning rates that cover the range.

        The given values are left out if they are not in the space. The range is divided into equal parts on
        the logarithmic scale, and the middle of each is used. Lengths and initializations are used equally
        often, in an order that depends on the seed.

        >>> space = SearchSpace((1e-4, 1.0))
        >>> [round(values.lr, 5) for values in space.first_values(3, Values(5.0), 0)]
        [0.00046, 0.01, 0.21544]
        """
        own = [given] if self.contains(given) else []
        count -= len(own)
        low, high = (math.log(end) for end in self.lr)
        rates = [math.exp(low + (high - low) * (part + 0.5) / count) for part in range(count)]
        generator = random.Random(seed)
        choices = [(length, init) for length in self.lengths or (None,) for init in self.inits or (None,)]
        assigned: list[tuple[int | None, Kind | None]] = []
        while len(assigned) < count:
            assigned += generator.sample(choices, len(choices))
        return own + [Values(rate, *choice) for rate, choice in zip(rates, assigned, strict=False)]

    def around(self, lr: float, number: int) -> tuple[float, float]:
        """Return the learning rates of a later round, around the best one so far.

        Its first such range reaches to the rates beside it in the first round; the next ones are half as wide
        each, on the logarithmic scale.

        Args:
            lr: best learning rate so far.
            number: number of the round, >= 1; 0 is the first round.
        """
        reach = (self.lr[1] / self.lr[0]) ** (2.0 ** (1 - number) / (FIRST - 1))
        return max(self.lr[0], lr / reach), min(self.lr[1], lr * reach)

    def contains(self, values: Values) -> bool:
        """Return whether values are in the space."""
        return (
            self.lr[0] <= values.lr <= self.lr[1]
            and (values.num_virtual_tokens in self.lengths if self.lengths else True)
            and (values.init in self.inits if self.inits else True)
        )


def given_values(prompt: SoftPromptModule, space: SearchSpace) -> Values:
    """Return the values of a prompt's own configuration."""
    arguments = prompt.constructor_arguments
    return Values(
        prompt.optimizer_config.lr,
        arguments["num_virtual_tokens"] if space.lengths else None,
        arguments["init"].kind if space.inits else None,
    )


def changed_arguments(prompt: SoftPromptModule, values: Values) -> dict[str, Any]:
    """Return the constructor's arguments of a prompt with a trial's values.

    Raises:
        UserError: if the method has no optimizer, or an initialization lacks its text.
    """
    arguments = dict(prompt.constructor_arguments)
    if "optimizer" not in inspect.signature(type(prompt).__init__).parameters:
        raise UserError(f"tune needs a method with the option optimizer, got {type(prompt).__name__}")
    arguments["optimizer"] = replace(prompt.optimizer_config, lr=values.lr)
    if values.num_virtual_tokens is not None:
        arguments["num_virtual_tokens"] = values.num_virtual_tokens
    if values.init is not None:
        given: PromptInit = arguments["init"]
        same = values.init == given.kind
        texts = values.init in ("text", "hybrid")
        arguments["init"] = (
            given
            if same
            else PromptInit(values.init, given.text if texts else "", given.preset if texts else None)
        )
    return arguments


def _checked_range(lr_range: Sequence[float]) -> tuple[float, float]:
    """
    Raises:
        UserError: if it is not two ascending positive numbers.
    """
    if len(lr_range) != 2 or not 0 < lr_range[0] < lr_range[1] <= LARGEST:
        raise UserError(f"lr_range must be two ascending numbers > 0, got {list(lr_range)}")
    return lr_range[0], lr_range[1]
