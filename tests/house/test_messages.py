"""What refusals say: never a temporary path, which is gone when it is read, and never the system's bare number.

The fixture `refused` of conftest.py looks at each message that a test brings about; here each that stands in the code.
"""
import ast
import builtins

import pytest

from tests.house.test_architecture import FILES, tree

RAISED = {"InputError", "OSError", "type(error)", "parser.error", "self.error", "Broken", "NotFound", "Stale",
          "_unreadable"}
# Expressions that are, or hold, the name of a file that nobody knows.
TEMPORARY = ("temporary", "tempfile", "unfinished", "part.name", ".tmp")
PUT_RIGHT = ".replace(str(temporary), str(known_as))"


def system_errors(handler: ast.ExceptHandler) -> bool:
    """Whether a handler may catch an OSError, whose text begins with its number."""
    names = ["BaseException"] if handler.type is None else [
        ast.unparse(kind) for kind in getattr(handler.type, "elts", [handler.type])]
    kinds = [getattr(builtins, name, None) for name in names]
    return any(isinstance(kind, type) and (issubclass(kind, OSError) or issubclass(OSError, kind)) for kind in kinds)


def messages(name: str):
    """(line, expression in an f-string or argument, whether it is an exception of the system) of all refusals."""
    def walk(node, caught):
        if isinstance(node, ast.ExceptHandler) and node.name:
            caught = caught | {node.name: system_errors(node)}
        if isinstance(node, ast.Call) and ast.unparse(node.func) in RAISED:
            for part in ast.walk(node):
                if isinstance(part, ast.FormattedValue) or part in node.args:
                    value = part.value if isinstance(part, ast.FormattedValue) else part
                    text = ast.unparse(value)
                    yield node.lineno, text, text in (*caught, *(f"str({one})" for one in caught)) and \
                        any(known for one, known in caught.items() if one in text)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, caught)
    yield from walk(tree(name), {})


@pytest.mark.parametrize("name", FILES)
def test_no_message_holds_a_temporary_path_or_a_bare_number(name):
    found = list(messages(name))
    assert [f"line {line}: {text}" for line, text, bare in found if bare] == []
    assert [f"line {line}: {text}" for line, text, _ in found
            if not text.startswith(("'", '"', "f'", 'f"')) and PUT_RIGHT not in text
            and any(word in text for word in TEMPORARY)] == []


def test_the_walk_finds_them():
    """What it would be blind to, it could not keep out."""
    assert sum(len(list(messages(name))) for name in FILES) > 300
    found = {text for name in FILES for _, text, _ in messages(name)}
    assert {"path", "folder", "error", "where"} <= found
