"""The mistakes that can be made in a source file: each is one small change of its text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: (rb"<", b"<="),
    ast.LtE: (rb"<=", b"<"),
    ast.Gt: (rb">", b">="),
    ast.GtE: (rb">=", b">"),
    ast.Eq: (rb"==", b"!="),
    ast.NotEq: (rb"!=", b"=="),
    ast.Is: (rb"\bis\b", b"is not"),
    ast.IsNot: (rb"\bis\s+not\b", b"is"),
    ast.In: (rb"\bin\b", b"not in"),
    ast.NotIn: (rb"\bnot\s+in\b", b"in"),
}
NEGATED_BY_TURNING = {ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn}
# What is said to people, and how, no test pins down.
UNHEARD = re.compile(r"^(await )?(logger|logging|warnings|log|super\(\))\b")


@dataclass(frozen=True)
class Mutant:
    """A source file with one mistake in it.

    Attributes:
        line: Where it begins, from 1.
        kind: What was done.
        before, after: The lines that it changes.
        text: The whole file.
    """

    path: str
    line: int
    kind: str
    before: str
    after: str
    text: bytes


def mutants_of(path: str, text: bytes) -> list[Mutant]:
    """All mistakes of a file, in the order of its lines."""
    edits = _lua_edits(text) if path.endswith(".lua") else _Python(text).edits
    return [_mutant(path, text, *edit) for edit in sorted(edits)]


def _mutant(path: str, text: bytes, start: int, end: int, new: bytes, kind: str) -> Mutant:
    def shown(part: bytes) -> str:
        return re.sub(r"\s+", " ", part.decode()).strip()[:110]

    line_start, line_end = text.rfind(b"\n", 0, start) + 1, text.find(b"\n", end)
    before, after = text[line_start:line_end], text[line_start:start] + new + text[end:line_end]
    line = text.count(b"\n", 0, start) + 1
    return Mutant(path, line, kind, shown(before), shown(after), text[:start] + new + text[end:])


Edit = tuple[int, int, bytes, str]


class _Python(ast.NodeVisitor):
    """Gathers the changes of a Python file, as places of its text."""

    def __init__(self, text: bytes) -> None:
        self.edits: list[Edit] = []
        self._text = text
        self._line_starts = [0, *(match.end() for match in re.finditer(rb"\n", text))]
        self._functions: list[str] = []
        self.visit(ast.parse(text))

    def _start(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self._line_starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._line_starts[node.end_lineno - 1] + node.end_col_offset

    def _source(self, node: ast.expr | ast.stmt) -> bytes:
        return self._text[self._start(node) : self._end(node)]

    def _replace(self, node: ast.expr | ast.stmt, new: bytes, kind: str) -> None:
        self.edits.append((self._start(node), self._end(node), new, kind))

    def _negate(self, test: ast.expr) -> None:
        if isinstance(test, ast.Compare) and type(test.ops[0]) in NEGATED_BY_TURNING:
            return
        self._replace(test, b"not (" + self._source(test) + b")", "condition negated")

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name == "__repr__":
            return
        self._functions.append(node.name)
        # Its annotations and decorators are passed by, its defaults are not.
        for part in (*node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None:
                self.visit(part)
        self._functions.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        # Its decorators are passed by, too: that what is frozen isn't changed, the type checker watches.
        for part in node.body:
            self.visit(part)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self._negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            pattern, new = COMPARISONS[type(operator)]
            found = re.search(pattern, self._text[self._end(left) : self._start(right)])
            if found is not None:
                at = self._end(left)
                self.edits.append((at + found.start(), at + found.end(), new, "comparison turned"))
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if isinstance(value, ast.Call):
            if UNHEARD.match(ast.unparse(node)):
                return
            self._replace(node, b"pass", "call dropped")
        if not isinstance(value, ast.Constant):
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, b"pass", "change dropped")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not self._functions:
            return  # a setting: what else it could be is a matter of taste
        if self._functions[-1] != "__init__" and all(
            isinstance(each, ast.Attribute | ast.Subscript) for each in node.targets
        ):
            self._replace(node, b"pass", "change dropped")
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if self._functions and node.value is not None:
            self.visit(node.value)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self._replace(node.type, b"()", "except dropped")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """What an error says is for people."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """So is most text."""

    def visit_Call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg is not None and isinstance(keyword.value, ast.Constant):
                start, end = self._start(keyword), self._end(keyword)
                if comma := re.match(rb"\s*,\s*", self._text[end:]):
                    end += comma.end()
                elif comma := re.search(rb",\s*$", self._text[:start]):
                    start = comma.start()
                self.edits.append((start, end, b"", "argument dropped"))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int:
            self._replace(node, str(node.value + 1).encode(), "constant off by one")


_LUA = [
    (re.compile(rb" (==|~=|<=|>=|<|>) "), "comparison turned"),
    (re.compile(rb"\bif (.+) then\b"), "condition negated"),
    (re.compile(rb" (and|or) "), "condition negated"),
    (re.compile(rb"^\s*((?:redis\.call|[a-z_]+)\(.*\))$"), "call dropped"),
    (re.compile(rb"[ (,](\d+)\b"), "constant off by one"),
]
_LUA_TURNED = {
    b"==": b"~=",
    b"~=": b"==",
    b"<=": b"<",
    b">=": b">",
    b"<": b"<=",
    b">": b">=",
    b"and": b"or",
    b"or": b"and",
}


def _lua_edits(text: bytes) -> Iterator[Edit]:
    at = 0
    for line in text.splitlines(keepends=True):
        code = line.partition(b"--")[0].rstrip()
        for pattern, kind in _LUA:
            for match in pattern.finditer(code):
                start, end = match.span(1)
                if code[:start].count(b"'") % 2 == 0:  # not within a string
                    yield at + start, at + end, _lua_mistake(match[1], kind), kind
        at += len(line)


def _lua_mistake(found: bytes, kind: str) -> bytes:
    if found in _LUA_TURNED:
        return _LUA_TURNED[found]
    if kind == "condition negated":
        return b"not (" + found + b")"
    return b"do end" if kind == "call dropped" else str(int(found) + 1).encode()
