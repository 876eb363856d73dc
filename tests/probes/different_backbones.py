"""A command whose ranks load the backbones of different folders."""

import os

from promptstage import cli


def main(arguments: list[str]) -> int:
    """Run the command with the backbone in the folder that is named after the rank."""
    return cli.main([*arguments, f"--backbone.name={os.environ['BACKBONES']}/{os.environ['RANK']}"])
