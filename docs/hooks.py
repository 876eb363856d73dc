"""Hooks of the documentation site: formulas as MathML, and what lives in the repository's root."""

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files of the repository's root, and their pages; docs/security.md is another page.
ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}


def on_startup(command: Literal["build", "gh-deploy", "serve"], dirty: bool) -> None:
    """Link the package's folders into ``.venv/docs/promptstage`` for mkdocstrings.

    The repository itself is no search path for griffe, which follows the links in ``.venv``.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = settings["tool"]["setuptools"]["packages"]
    folder = ROOT / ".venv" / "docs" / "promptstage"
    folder.mkdir(parents=True, exist_ok=True)
    for name in {
        "__init__.py",
        "runs.py",
        *(package.split(".")[1] for package in packages if "." in package),
    }:
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / name)


def on_config(config: MkDocsConfig) -> None:
    """Render ``math`` fences, which GitHub renders too, without a script from the network."""
    fence = {"name": "math", "class": "math", "format": _mathml}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the repository's root, and ``CITATION.cff``."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    files.append(File.generated(config, "citation.md", content=f"# Citation\n\n```yaml\n{citation}```\n"))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between ``docs/`` and the root, where both are in one folder of the site."""
    root = page.file.src_uri in ROOT_PAGES.values()
    if root:
        markdown = markdown.replace("](docs/", "](")
    for name, target in ROOT_PAGES.items():
        markdown = markdown.replace(f"]({name})" if root else f"](../{name})", f"]({target})")
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Remove the roles of references such as ``:func:`` in docstrings, which Markdown does not have."""
    return re.sub(r":(class|func|meth|mod):(?=<code)", "", html)


def _mathml(source: str, *args: Any, **kwargs: Any) -> str:
    return f"<div>{convert(source, display='block')}</div>"
