"""The README's section of results: what lies between two markers is replaced, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from curiojax.errors import ConfigError
from curiojax.folders import write_text

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def write_readme(path: Path, summary: Path) -> None:
    """Puts a summary between the markers of a README, and its pictures into `.github` beside it.

    Args:
      path: of the README.
      summary: the file, whose pictures lie beside it.

    Raises:
      ConfigError: the file or its markers are missing.
    """
    try:
        old = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--write-readme: {path} cannot be read ({error.strerror}); name a README"
        ) from None
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise ConfigError(
            f"--write-readme: {path} needs one line {BEGIN} and, after it, one line {END}"
        )
    text = summary.read_text(encoding="utf-8").strip()
    folder = path.parent / ".github"
    for name in re.findall(r"\]\((\w+\.png)\)", text):
        folder.mkdir(exist_ok=True)
        shutil.copyfile(summary.parent / name, folder / f"reproduction-{name}")
        text = text.replace(f"]({name})", f"]({folder.name}/reproduction-{name})")
    block = f"{BEGIN}\n\n{text}\n\n{END}"
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    write_text(path, pattern.sub(lambda _: block, old))
