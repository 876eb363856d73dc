"""promptstage on the command line: ``python cli.py`` in a checkout is the installed ``promptstage``."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

if __name__ == "__main__":
    # Import this folder as the package, whatever its name is and whatever else is installed.
    spec = spec_from_file_location("promptstage", Path(__file__).resolve().with_name("__init__.py"))
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules["promptstage"] = module_from_spec(spec)
    spec.loader.exec_module(package)
    sys.path[:] = [path for path in sys.path if path != package.__path__[0]]

from promptstage.command_line.main import main as main

if __name__ == "__main__":
    sys.exit(main())
