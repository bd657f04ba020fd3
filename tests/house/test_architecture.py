"""The house is as README draws it: imports run downwards, flags do something, public names say what they are."""
from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
MODULES = {".".join(path.relative_to(ROOT / "transformer").with_suffix("").parts): path
           for path in sorted((ROOT / "transformer").rglob("[a-z]*.py"))}
WINGS = {path.parent.name: path for path in sorted((ROOT / "transformer").glob("*/__init__.py"))}
FILES = SCRIPTS | MODULES

# of the modules at the root of transformer/, each may import those before it
BASE = ("stopwatch families kinds files cli config pieces sentencepieces tokenization weights modeling distillation "
        "optimization checkpoint inspection").split()


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@functools.cache
def imported(name: str) -> frozenset[str]:
    """What a script or module imports of the kit, inside functions too: files for transformer.files, data.parts for
    transformer.data.parts."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports are not looked at here"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found & set(SCRIPTS) | {full.removeprefix("transformer.") for full in found} & set(MODULES))


@functools.cache
def reached(name: str) -> frozenset[str]:
    """What a script or module imports, and what that imports, and so on."""
    return imported(name).union(*(reached(other) for other in imported(name)))


def wing(module: str) -> str:
    """The folder of a module; of those at the root of transformer/, the empty string."""
    return module.rpartition(".")[0]


def drawn_arrows() -> dict[str, set[str]]:
    """README's drawing of transformer/: the wings that each wing imports, beside the modules at the root."""
    drawing = re.search(r"^```text\n(the scripts .*?)^```$", README, re.M | re.S)[1]
    assert len(drawing.splitlines()) <= 15
    lines = re.findall(r"^(\w+)/ +[^>]*?(?:-> ([\w, ]+))?$", drawing, re.M)
    return {name: set(re.findall(r"\w+", arrows)) for name, arrows in lines if name != "transformer"}


def test_imports_between_the_wings_are_those_of_the_drawing():
    assert not any(set(SCRIPTS) & imported(name) for name in MODULES)
    drawn = drawn_arrows()
    assert list(drawn) == list(dict.fromkeys(drawn)) and set(drawn) == set(WINGS)
    assert {name: {wing(other) for module in MODULES if wing(module) == name for other in imported(module)} - {name, ""}
            for name in WINGS} == drawn
    below: set[str] = set()  # the drawing has no arrow up or sideways
    for name, arrows in reversed(drawn.items()):
        assert arrows <= below, f"{name} points at {arrows - below}, which does not stand below it"
        below.add(name)


def test_imports_within_the_wings_run_one_way():
    assert sorted(BASE) == sorted(name for name in MODULES if not wing(name))
    for number, name in enumerate(BASE):
        assert imported(name) <= set(BASE[:number]), f"{name} imports {imported(name) - set(BASE[:number])}"
    assert not [name for name in MODULES if name in reached(name)]


def test_each_wing_says_what_belongs_there():
    for name, path in WINGS.items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1 and ast.get_docstring(ast.Module(body, [])), name


def test_each_wing_has_its_tests():
    files = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {str(path.parent) for path in files} == {*WINGS, "base", "chain", "house"}
    for folder in {path.parent for path in files}:
        text = (ROOT / "tests" / folder / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), folder


def module_level_names(name: str) -> Iterator[str]:
    """The functions, classes and constants that a file defines."""
    for node in tree(name).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


def test_one_name_one_thing():
    defined: dict[str, set[str]] = {}
    for name in FILES:
        for own in set(module_level_names(name)) - {"main", "parse_args"}:
            defined.setdefault(own, set()).add(name)
    assert {own: names for own, names in defined.items() if len(names) > 1} == {}


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.Lambda]:
    return (part for part in ast.walk(node) if isinstance(part, (ast.FunctionDef, ast.Lambda)))


def lines_of(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def from_outside(function: ast.FunctionDef | ast.Lambda, around: ast.FunctionDef) -> set[str]:
    """The local names of the function around another that this one reads."""
    def stored(node: ast.AST) -> set[str]:
        names = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
        return {part.id for part in names} | {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}

    read = {part.id for part in ast.walk(function) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
    return read & stored(around) - stored(function)


@pytest.mark.parametrize("name", FILES)
def test_functions_can_be_read_at_a_sitting(name):
    for function in functions(tree(name)):
        if getattr(function, "name", "") == "main":
            assert lines_of(function) <= 80, f"main() has {lines_of(function)} lines"
        for inner in functions(function):
            outside = from_outside(inner, function) if inner is not function else set()
            assert len(outside) <= 4, f"{getattr(inner, 'name', 'lambda')} of {function.name} reads {sorted(outside)}"


@pytest.mark.parametrize("script", ["general_distill", "task_distill", "finetune_teacher"])
def test_the_method_is_one_short_loop(script):
    loops = [node for node in ast.walk(tree(script))
             if isinstance(node, ast.For) and ast.unparse(node.iter) == "training"]
    assert len(loops) == 1 and lines_of(loops[0]) <= 20
    text = ast.unparse(loops[0])
    steps = ("in shares", "in training.turns()", "run.backward(", "run.update()", "run.is_due", "run.log(", "run.keep(")
    assert sorted(steps, key=text.index) == list(steps)


def test_only_the_head_knows_the_kind_of_an_answer():
    disguises = re.compile(r"is_regression|task\.labels is None|metric [!=]= .corr|isinstance\([^)]*(Classes|Score)\)")
    assert [name for name, path in FILES.items()
            if name != "tasks.head" and disguises.search(path.read_text(encoding="utf-8"))] == []


def test_scripts_stand_alone():
    assert len(SCRIPTS) == 11
    for name in SCRIPTS:
        assert not imported(name) & set(SCRIPTS)
        given = {node.name: ast.unparse(node.args) for node in tree(name).body if isinstance(node, ast.FunctionDef)}
        assert given["parse_args"] == given["main"] == "argv: list[str] | None=None", name
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
    """The attributes of `args` that a file reads, other than to refuse a combination of flags."""
    refusing = ("parse_args", "check_flags", "refuse_idle_flags")
    refusals = {id(node) for function in tree(name).body if getattr(function, "name", "") in refusing
                for branch in ast.walk(function) if isinstance(branch, ast.If) for node in ast.walk(branch.test)}
    found = set()
    for node in ast.walk(tree(name)):
        match node:
            case _ if id(node) in refusals:
                pass
            case ast.Attribute(value=ast.Name(id="args") | ast.Attribute(attr="args"), attr=attribute, ctx=ast.Load()):
                found.add(attribute)
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id="args"), ast.Constant(value=attribute), *_]):
                found.add(attribute)
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read_and_tried(script):
    """Read by the script or a module that it reaches; named, whole, in a test that knows the script, or in a command of
    README that test_readme.py runs. Every script takes --seed, also those that draw nothing."""
    read = set().union(*(read_of_args(name) for name in {script, *reached(script)}), {"seed"})
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*")
             if path.suffix in (".py", ".sh")]
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
