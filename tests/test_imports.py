"""Imports run one way, and the trainer needs neither torch nor vLLM."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "curiojax"
LEAVES = {
    *("errors", "objectives", "sections", "stages", "config", "yaml_files", "sharding", "progress"),
    "folders",
    "distributed",
}
ALLOWED = {
    "errors": set(),
    "distributed": {"errors", "progress"},
    "folders": {"errors"},
    "objectives": set(),
    "progress": set(),
    "sections": set(),
    "stages": {"objectives", "sections"},
    "yaml_files": {"errors", "stages"},
    "config": {"errors", "objectives", "sections", "stages", "yaml_files"},
    "sharding": {"errors"},
    "losses": set(),
    "models": {"config", "errors", "sharding"},
    "data": LEAVES,
    "rewards": LEAVES | {"data"},
    "rollout": LEAVES | {"models", "losses"},
    "reports": LEAVES,
    "evaluation": LEAVES | {"models", "losses", "data", "rewards", "rollout", "reports"},
    "training": LEAVES
    | {"models", "losses", "data", "rewards", "rollout", "reports", "evaluation"},
    "planning": LEAVES | {"models", "training"},
}
ENTRY_POINTS = {"train", "evaluate", "quickstart", "__init__"}


def runtime_imports(path):
    """Modules of ours that a file imports, apart from `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("curiojax."):
                yield name.split(".")[1]


def test_imports_run_one_way():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in ENTRY_POINTS:
            continue
        for imported in runtime_imports(path):
            if imported != part and imported not in ALLOWED[part]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {imported}")
    assert not wrong


def test_only_models_know_flax():
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if "import flax" in path.read_text() or "from flax" in path.read_text()
    }
    assert users == {"models"}


def test_the_trainer_imports_neither_torch_nor_vllm():
    code = (
        "import sys, curiojax.train, curiojax.quickstart, curiojax.training.sft;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_vllm_is_looked_at_only_when_asked_for():
    code = (
        "import sys, curiojax.rollout as r; assert 'curiojax.rollout.vllm' not in sys.modules;"
        "from curiojax.rollout import VllmRollout; assert r.VllmSettings is not None;"
        "import curiojax.rollout.vllm as v; assert VllmRollout is v.VllmRollout;"
        "sys.exit(hasattr(r, 'Nothing'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_pickle_no_eval():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile"}, path
            if isinstance(node, ast.Import):
                assert all(alias.name != "pickle" for alias in node.names), path
