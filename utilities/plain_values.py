"""Type of option values that a parser must leave as they are."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Plain = Any
else:

    class Plain:
        """Any value of YAML.

        The command line's parser reads a text of type ``Any`` as YAML again, so that ``yes`` becomes true and
        ``007`` becomes 7, both when it parses a configuration and when it writes one.
        """

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            return handler(Any)
