"""The tools' libraries lie beside them; a tool puts its own folder on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
