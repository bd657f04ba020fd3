"""The house is as README draws it: imports run downwards, flags do something, public names say what they are."""
from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
MODULES = {path.stem: path for path in sorted((ROOT / "transformer").glob("[a-z]*.py"))}
FILES = SCRIPTS | MODULES

# Nothing in a later group may reach an earlier one, by whatever way.
ORDER = [set(SCRIPTS), {"runtime", "glue", "features", "distillation", "corpus", "download"},
         {"checkpoint", "optimization"}, {"modeling", "tokenization"}]


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@functools.cache
def imported(name: str) -> frozenset[str]:
    """What a script or module imports of the kit, inside functions too: files for transformer.files."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports are not looked at here"
            found |= {f"{node.module}.{alias.name}" if node.module == "transformer" else node.module
                      for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset({full.removeprefix("transformer.") for full in found
                               if full.startswith("transformer.") or full in SCRIPTS})


@functools.cache
def reached(name: str) -> frozenset[str]:
    """What a script or module imports, and what that imports, and so on."""
    return imported(name).union(*(reached(other) for other in imported(name)))


def drawn_levels() -> list[list[str]]:
    """The levels of README's drawing of transformer/, from the top."""
    drawing = re.search(r"^```text\nthe ten scripts(.*?)^```$", README, re.M | re.S)[1]
    return [re.findall(r"(\w+)\.py", level) for level in drawing.split("▼")[1:]]


def test_imports_run_down_the_drawing():
    levels = drawn_levels()
    assert sorted(module for level in levels for module in level) == sorted(MODULES)
    level_of = {module: number for number, level in enumerate(levels) for module in level}
    upwards = [f"{name} imports {other}" for name in MODULES for other in imported(name)
               if other in SCRIPTS or level_of[other] <= level_of[name]]
    assert not upwards


def test_the_order_of_the_house():
    for number, group in enumerate(ORDER):
        earlier = set().union(*ORDER[:number])
        for name in group:
            assert not reached(name) & earlier, f"{name} reaches {reached(name) & earlier}"


def test_scripts_stand_alone():
    assert len(SCRIPTS) == 10
    for name in SCRIPTS:
        assert not imported(name) & set(SCRIPTS)
        functions = {node.name: ast.unparse(node.args) for node in tree(name).body if isinstance(node, ast.FunctionDef)}
        assert functions["parse_args"] == functions["main"] == "argv: list[str] | None=None", name
        assert ast.unparse(tree(name).body[-1]).splitlines() == ["if __name__ == '__main__':",
                                                                 "    sys.exit(run_script(main))"]


def test_importing_the_package_loads_nothing_else():
    code = "import sys; before = set(sys.modules); import transformer; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["transformer"] and not run.stderr


@functools.cache
def flags_of(script: str) -> list[list[str]]:
    """The names of each flag of a script, as --help lists them: ["--weight_decay", "--wd"]."""
    run = subprocess.run([sys.executable, SCRIPTS[script], "--help"], capture_output=True, text=True, check=True)
    entries = re.findall(r"^  (-.*?)(?:  |$)", run.stdout, re.M)
    return [re.findall(r"--\w+", entry) for entry in entries if "--help" not in entry]


def read_of_args(name: str) -> set[str]:
    """The attributes of `args` that a file reads, other than to refuse a combination in parse_args."""
    refusals = {id(node) for function in tree(name).body if getattr(function, "name", "") == "parse_args"
                for branch in ast.walk(function) if isinstance(branch, ast.If) for node in ast.walk(branch.test)}
    found = set()
    for node in ast.walk(tree(name)):
        match node:
            case _ if id(node) in refusals:
                pass
            case ast.Attribute(value=ast.Name(id="args"), attr=attribute, ctx=ast.Load()):
                found.add(attribute)
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id="args"), ast.Constant(value=attribute), *_]):
                found.add(attribute)
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read_and_tried(script):
    """Read by the script or a module that it reaches; named, whole, in a test that knows the script, or in a command of
    README that test_readme.py runs. Every script takes --seed, also those that draw nothing."""
    read = set().union(*(read_of_args(name) for name in {script, *reached(script)}), {"seed"})
    texts = [path.read_text(encoding="utf-8") for folder in (".", "miniworld")
             for path in (ROOT / "tests" / folder).glob("*.*") if path.suffix in (".py", ".sh")]
    texts = [*(text for text in texts if script in text), *re.findall(r"^```bash\n(.*?)^```$", README, re.M | re.S)]
    tried = {flag for text in texts for flag in re.findall(r"(?<![\w-])--\w+", text)}
    flags = flags_of(script)
    assert [names[0] for names in flags if names[0].removeprefix("--") not in read] == []
    assert [names for names in flags if not tried & set(names)] == []


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """(name, node) of the public classes, functions and methods, and of methods with a name of Python's."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            yield from public(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name.endswith("__")):
            yield prefix + node.name, node


# told elsewhere: what a script does, in its first lines; its flags, in --help; what a module of a model computes, in
# its class; what a method with a name of Python's or argparse's is for, there
TOLD_ELSEWHERE = r"main|parse_args|(.*\.)?(forward|__\w+__|Parser\.error)"


@pytest.mark.parametrize("name", FILES)
def test_public_names_have_docstring_and_hints(name):
    missing = [] if ast.get_docstring(tree(name)) else ["docstring of the file"]
    for full, node in public(tree(name).body):
        if not ast.get_docstring(node) and not re.fullmatch(TOLD_ELSEWHERE, full):
            missing.append(f"docstring of {full}")
        if isinstance(node, ast.ClassDef):
            continue
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
        missing += [f"type of {argument.arg} in {full}" for argument in arguments
                    if argument.annotation is None and argument.arg not in ("self", "cls")]
        if node.returns is None and node.name not in ("__init__", "__post_init__"):
            missing.append(f"type of what {full} returns")
    assert missing == []
