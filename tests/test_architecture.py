"""Imports run one way, and `import transformer` does nothing."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


def imported(path: Path) -> set[str]:
    """Names of the kit's own modules that a file imports, those inside functions too: files for transformer.files."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" if node.module == "transformer" else node.module
                     for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.removeprefix("transformer.") for name in names
                  if name.startswith("transformer.") or name in SCRIPTS}
    return found


def test_imports_run_one_way_as_the_readme_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sentence = re.search(r"Imports run one way: scripts, then (.*?)\.\n\n", text, re.S)[1]
    levels = [re.findall(r"\w+", level.replace(" and ", " ")) for level in re.split(r",\s+then\s+", sentence)]
    level_of = {module: number for number, level in enumerate(levels) for module in level}
    assert sorted(level_of) == sorted(path.stem for path in (ROOT / "transformer").glob("[a-z]*.py"))
    for path in (ROOT / "transformer").glob("[a-z]*.py"):
        for other in imported(path):
            assert level_of[other] > level_of[path.stem], f"{path.stem} imports {other}"


def test_no_script_imports_a_script():
    assert len(SCRIPTS) == 10
    for script in SCRIPTS:
        assert not imported(ROOT / f"{script}.py") & set(SCRIPTS)


def test_importing_the_package_loads_nothing_else():
    code = "import sys; before = set(sys.modules); import transformer; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["transformer"] and not run.stderr
