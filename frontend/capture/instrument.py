"""Instrumented copies of user functions: the same source, lines, closure cells and globals, with hooks around what
operator overloading can't see.

Only the syntax is changed here; what a hook does is in `hooks.py`. Hooks wrap *operands* and keep the statement as it
was, so evaluation order, scoping and tracebacks stay those of the user's code. In the copy, `__tf__` is a closure cell:

    f(x)            __tf__.call(f, x)
    a + b           __tf__.binary("+", a, b)
    obj.name        __tf__.attribute(obj, "name")
    obj.name = v    __tf__.owner(obj, "name").name = v
    obj[k]          __tf__.indexed(obj)[k]
    obj[k] = v      __tf__.container(obj)[k] = v
    x += y          x = __tf__.augmented("+", x, y)
    if t:           if __tf__.test(t):
    for x in xs:    for x in __tf__.iterate(xs):
    with c:         with __tf__.context(c):
    [a, b]          __tf__.display([a, b])
    f"{x}"          __tf__.joined(__tf__.formatted(x))
    f(**d)          __tf__.call(f, **__tf__.unpacked(d))
    a < b           __tf__.compared(a) < __tf__.compared(b)
    a in b          __tf__.contained(a, b)

Reads of globals and closure cells need no hook: `hooks.enter` guards those that the code object names. Names that the
trace assigns outside become attributes (`namespaces.py`), `match` becomes `if` (`matching.py`).
"""

from __future__ import annotations
import __future__

import ast
import builtins
import copy
import inspect
import itertools
import types
from typing import Any

from . import loop_syntax, matching
from .namespaces import CELLS, GLOBALS, Namespace, conflict, declared
from .sources import Function, NoSource, code_objects, definitions, parse, rewritten_by_pytest, same, source_of

HOOKS = "__tf__"
_MADE = "__tf_made__"
_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag
_OPERATORS: dict[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
}
_UNARY: dict[type, str] = {ast.USub: "neg", ast.UAdd: "pos", ast.Invert: "invert"}
_FRAME_DEPENDENT = {"super"}  # they look at the calling frame: called as they are


def _hook(method: str, *args: ast.expr) -> Any:
    target = ast.Attribute(ast.Name(HOOKS, ast.Load()), method, ast.Load())
    return ast.Call(target, list(args), [])


def _key(node: ast.expr) -> ast.expr:
    """A key or index that a container keeps."""
    if isinstance(node, (ast.Constant, ast.Slice, ast.Tuple)):
        return node
    return ast.copy_location(_hook("key", node), node)


def _constant(value: Any) -> ast.Constant:
    return ast.Constant(value)


class _Instrument(ast.NodeTransformer):
    """Rewrites one function body. `names`: those that live in a namespace, and which; `owner`: its class, for private
    names."""

    def __init__(self, names: dict[str, str], owner: str | None, function: ast.AST | None = None):
        self.names, self.owner, self.matches = names, owner, 0
        self.function = function  # around the loops that are visited; None in a class body
        self.loops = itertools.count()

    def mangle(self, name: str) -> str:
        if self.owner and name.startswith("__") and not name.endswith("__") and "." not in name:
            return f"_{self.owner.lstrip('_')}{name}"
        return name

    def visit(self, node: ast.AST) -> Any:
        new = super().visit(node)
        if isinstance(new, ast.expr) and isinstance(node, ast.expr):
            ast.copy_location(new, node)
        return new

    # ---- names

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.mangle(node.id)
        namespace = self.names.get(node.id)
        return node if namespace is None else ast.Attribute(ast.Name(namespace, ast.Load()), node.id, node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg, node.annotation = self.mangle(node.arg), None
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        node.attr = self.mangle(node.attr)
        value = self.visit(node.value)
        name = ast.Constant(node.attr)
        if isinstance(node.ctx, ast.Load):
            return _hook("attribute", value, name)
        node.value = _hook("owner", value, name)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        value = self.visit(node.value)
        node.slice = self.visit(node.slice)
        if isinstance(node.ctx, ast.Load):
            node.value = _hook("indexed", value)
            if not isinstance(node.slice, (ast.Constant, ast.Slice, ast.Tuple)):
                node.slice = ast.copy_location(_hook("index", node.slice), node.slice)
        else:
            node.value, node.slice = _hook("container", value), _key(node.slice)
        return node

    # ---- expressions

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in _FRAME_DEPENDENT and not node.args:
            return node
        func = self.visit(node.func)
        args = [self.visit(a) for a in node.args]
        keywords = [ast.keyword(k.arg, self._keyword(k)) for k in node.keywords]
        call = _hook("call", func, *args)
        call.keywords = keywords
        return call

    def _keyword(self, node: ast.keyword) -> Any:
        value = self.visit(node.value)
        return value if node.arg is not None else _hook("unpacked", value)

    def visit_Dict(self, node: ast.Dict) -> ast.AST:
        self.generic_visit(node)
        node.values = [v if k is not None else _hook("unpacked", v) for k, v in zip(node.keys, node.values)]
        node.keys = [k if k is None else _key(k) for k in node.keys]
        return _hook("display", node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        self.generic_visit(node)
        node.key = _key(node.key)
        return _hook("display", node)

    def visit_List(self, node: ast.List) -> ast.AST:
        self.generic_visit(node)
        return _hook("display", node) if isinstance(node.ctx, ast.Load) else node

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        self.generic_visit(node)
        return _hook("display", node)

    def visit_Set(self, node: ast.Set) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(x, ast.Starred) for x in node.elts):
            return _hook("set_of", ast.List(node.elts, ast.Load()))
        node.elts = [_key(x) for x in node.elts]
        return _hook("display", node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        self.generic_visit(node)
        node.elt = _key(node.elt)
        return _hook("display", node)

    def visit_Starred(self, node: ast.Starred) -> ast.AST:
        node.value = self.visit(node.value)
        if isinstance(node.ctx, ast.Load):
            node.value = _hook("iterate", node.value)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        return _hook("binary", ast.Constant(_OPERATORS[type(node.op)]), self.visit(node.left), self.visit(node.right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        operand = self.visit(node.operand)
        if not isinstance(node.op, ast.Not):
            return _hook("unary", ast.Constant(_UNARY[type(node.op)]), operand)
        node.operand = _hook("test", operand)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            contained = _hook("contained", node.left, *node.comparators)
            return contained if isinstance(node.ops[0], ast.In) else ast.UnaryOp(ast.Not(), contained)
        if not all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            node.left = _hook("compared", node.left)
            node.comparators = [_hook("compared", c) for c in node.comparators]
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        node.values = [_hook("test", self.visit(v)) for v in node.values]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        return self._tested(node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        conversion = ast.Constant(chr(node.conversion) if node.conversion >= 0 else None)
        value = self.visit(node.value)
        return _hook(
            "formatted", value, conversion, self.visit(node.format_spec) if node.format_spec else _constant("")
        )

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return _hook("joined", *[self.visit(v) for v in node.values])

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.AST:
        node.value = _hook("iterate", self.visit(node.value))
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        if node.is_async:
            raise NoSource("it is asynchronous")
        self.generic_visit(node)
        node.iter = _hook("iterate", node.iter)
        node.ifs = [_hook("test", c) for c in node.ifs]
        return node

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.AST:
        self.generic_visit(node)
        return _hook("own", node)

    # ---- statements

    def _tested(self, node):
        self.generic_visit(node)
        node.test = _hook("test", node.test)
        return node

    visit_If = visit_Assert = _tested

    def visit_While(self, node: ast.While) -> Any:
        return self._closing(node) or self._tested(node)

    def _closing(self, node: loop_syntax.Loop) -> list[ast.stmt] | None:
        """The loop with attempts to close it, where it can be written as functions of what it assigns."""
        if self.function is None or not loop_syntax.can_close(node):
            return None
        for n in ast.walk(node):
            if isinstance(n, ast.Name):
                n.id = self.mangle(n.id)
        first = node.test if isinstance(node, ast.While) else node.target
        names = [n for n in loop_syntax.bound_names([first, *node.body]) if n not in self.names]
        if any(n in _declared(self.function) for n in names):
            return None
        read = {self.mangle(n) for n in node.read_outside}  # type: ignore[union-attr]
        read |= loop_syntax.read_names(n for n in ast.walk(node) if isinstance(n, (ast.Return, ast.Raise, ast.Assert)))
        read |= loop_syntax.exposed_names([node])
        free = [n not in read for n in names]
        make = loop_syntax.Rewriter(_hook, self.instrumented, copy.deepcopy)
        return loop_syntax.closing(node, next(self.loops), names, free, make)

    def visit_For(self, node: ast.For) -> Any:
        closing = self._closing(node)
        if closing is not None:
            return closing
        self.generic_visit(node)
        node.iter = _hook("iterate", node.iter)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(t, (ast.Tuple, ast.List)) for t in node.targets):
            node.value = _hook("iterate", node.value)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        node.target = self.visit(node.target)
        node.value = self.visit(node.value) if node.value else None
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        symbol, value = ast.Constant(_OPERATORS[type(node.op)]), self.visit(node.value)
        if isinstance(node.target, ast.Name):
            name = self.mangle(node.target.id)
            target, now = (self.visit(ast.Name(name, c)) for c in (ast.Store(), ast.Load()))
            return ast.copy_location(ast.Assign([target], _hook("augmented", symbol, now, value)), node)
        target = node.target
        if isinstance(target, ast.Attribute):
            key: ast.expr = ast.Constant(self.mangle(target.attr))
            method = "augment_attribute"
        else:
            key, method = self.visit(target.slice), "augment_item"
        new = ast.Expr(_hook(method, symbol, self.visit(target.value), key, value))
        return ast.copy_location(new, node)

    def visit_With(self, node: ast.With) -> ast.AST:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = _hook("context", item.context_expr)
        return node

    def visit_Import(self, node: ast.Import) -> ast.AST:
        names = _constant(tuple(a.name for a in node.names))
        return self._first(node, _hook("importing", names, _constant(())))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level:
            here = (_constant(node.level), _constant(node.module or ""), ast.Name(GLOBALS, ast.Load()))
            return self._first(node, _hook("importing_near", *here, _constant(tuple(a.name for a in node.names))))
        names = _constant(tuple(a.name for a in node.names))
        return self._first(node, _hook("importing", _constant((node.module,)), names))

    def _first(self, node: ast.stmt, call: ast.Call) -> ast.AST:
        """`node` after the hook, as one statement."""
        check = ast.copy_location(ast.Expr(call), node)
        return ast.copy_location(ast.If(ast.Constant(True), [check, node], []), node)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> ast.AST:
        node.names = [n for n in node.names if n not in self.names]
        return node if node.names else ast.copy_location(ast.Pass(), node)

    visit_Nonlocal = visit_Global

    def visit_Match(self, node: ast.Match) -> ast.AST:
        self.matches += 1
        subject = f"__tfm{self.matches}__"
        first = ast.copy_location(ast.Assign([ast.Name(subject, ast.Store())], self.visit(node.subject)), node)
        rest = matching.lower(node, subject, self.visit, lambda *args: _hook("match", *args))
        return ast.copy_location(ast.If(ast.Constant(True), [first, *rest], []), node)

    def _asynchronous(self, node: ast.AST) -> ast.AST:
        raise NoSource("it is asynchronous")

    visit_AsyncFunctionDef = visit_AsyncFor = visit_AsyncWith = visit_Await = _asynchronous

    # ---- nested functions and classes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name, node.returns = self.mangle(node.name), None
        node.decorator_list = [_hook("callable", self.visit(d)) for d in node.decorator_list]
        node.args = self.visit(node.args)
        before, self.function = self.function, node
        loop_syntax.note_outside(node)
        cells = declared(node, ast.Nonlocal) - self.names.keys()
        node.body = self.statements(node.body)
        if cells:  # variables of the copy around it
            node.body.insert(0, ast.copy_location(ast.Expr(_hook("assigning")), node.body[0]))
        self.function = before
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = [_hook("callable", self.visit(d)) for d in node.decorator_list]
        inner = _Instrument(self.names, node.name)
        node.body = inner.statements(node.body)
        return node

    def instrumented(self, part: Any) -> Any:
        """An expression, or a list of statements."""
        return self.statements(part) if isinstance(part, list) else self.visit(part)

    def statements(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Instrumented statements; one may become several."""
        out: list[ast.stmt] = []
        for s in body:
            new = self.visit(s)
            out += new if isinstance(new, list) else [new]
        return out


def _declared(function: ast.AST) -> set[str]:
    """Names that a function declares global or nonlocal."""
    found = (n for n in ast.walk(function) if isinstance(n, (ast.Global, ast.Nonlocal)))
    return {name for n in found for name in n.names}


# ------------------------------------------------------------------ compiling


def _build(node: Function, code: types.CodeType) -> types.CodeType:
    """The code object of `node`, compiled inside a factory whose parameters are its free variables."""
    own = (HOOKS, GLOBALS, CELLS)
    free = [*own, *(n for n in code.co_freevars if n not in own)]
    arguments = ast.arguments([], [ast.arg(n) for n in free], None, [], [], None, [])
    if isinstance(node, ast.FunctionDef):  # by another name: its own may be that of a global that it reads (recursion)
        node.name = _MADE
    body: list[ast.stmt] = [node] if isinstance(node, ast.FunctionDef) else [ast.copy_location(ast.Expr(node), node)]
    factory = ast.FunctionDef("factory", arguments, body, [], None)
    factory.lineno = factory.end_lineno = node.lineno
    factory.col_offset = factory.end_col_offset = 0
    if "type_params" in ast.FunctionDef._fields:
        factory.type_params = []  # type: ignore[attr-defined]
    module = ast.fix_missing_locations(ast.Module([factory], []))
    compiled = compile(module, code.co_filename, "exec", flags=code.co_flags & _FUTURE, dont_inherit=True)
    outer = next(c for c in compiled.co_consts if isinstance(c, types.CodeType))
    names = (_MADE, "<lambda>")
    made = next(c for c in outer.co_consts if isinstance(c, types.CodeType) and c.co_name in names)
    return _named(made.replace(co_name=code.co_name), made.co_qualname, code.co_qualname)


def _named(code: types.CodeType, before: str, after: str) -> types.CodeType:
    """`code`, and what is nested in it, with qualified names that begin with `after` instead of `before`."""

    def renamed(x: Any) -> Any:
        if isinstance(x, types.CodeType):
            return _named(x, before, after)
        return after + x[len(before) :] if body and isinstance(x, str) and x.startswith(before) else x

    body = "__qualname__" in code.co_names  # of a class, which has it as a constant
    qualname = after + code.co_qualname[len(before) :]
    return code.replace(co_qualname=qualname, co_consts=tuple(map(renamed, code.co_consts)))


def _stripped(node: Function) -> Function:
    """A copy of the definition without decorators, annotations and defaults (the function object has its own)."""
    node = copy.deepcopy(node)
    blank = ast.Constant(None)
    node.args.defaults = [blank for _ in node.args.defaults]
    node.args.kw_defaults = [blank if d is not None else None for d in node.args.kw_defaults]
    if isinstance(node, ast.FunctionDef):
        node.decorator_list, node.returns = [], None
    for a in ast.walk(node.args):
        if isinstance(a, ast.arg):
            a.annotation = None
    return node


# ------------------------------------------------------------------ the instrumented copy

_COPIES: dict[tuple, tuple[types.CodeType, types.CodeType]] = {}  # id(code), names -> (code, its instrumented copy)
_INSTRUMENTED: set[int] = set()  # ids of the code objects inside those copies
_ORIGINALS: dict[int, types.CodeType] = {}  # by id of the copy, nested ones included


def is_instrumented(code: types.CodeType) -> bool:
    """Whether `code` is (part of) an instrumented copy."""
    return id(code) in _INSTRUMENTED


def original_code(code: types.CodeType) -> types.CodeType | None:
    """What `code`, in an instrumented copy, is a copy of."""
    return _ORIGINALS.get(id(code))


def _remember(code: types.CodeType, original: types.CodeType | None) -> None:
    _INSTRUMENTED.add(id(code))
    if original is not None:
        _ORIGINALS[id(code)] = original
    nested = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    there = [c for c in original.co_consts if isinstance(c, types.CodeType)] if original is not None else []
    named = [(c.co_name, c.co_firstlineno) for c in there]
    agree = named == [(c.co_name, c.co_firstlineno) for c in nested]
    for i, c in enumerate(nested):
        _remember(c, there[i] if agree else None)


def _names(node: Function, code: types.CodeType, globals_: frozenset[str], cells: frozenset[str]) -> dict[str, str]:
    """The names that live in a namespace, with the namespace."""
    globals_ |= declared(node, ast.Global)
    cells |= declared(node, ast.Nonlocal) & set(code.co_freevars)
    for names, kind in ((globals_, ast.Global), (cells, ast.Nonlocal)):
        found = conflict(node, names, kind) if names else None
        if found is not None:
            raise NoSource(f"it assigns {found}, which means something else in a part of it")
    return {**dict.fromkeys(globals_, GLOBALS), **dict.fromkeys(cells, CELLS)}


def instrumented_code(
    function: types.FunctionType, globals_: frozenset[str] = frozenset(), cells: frozenset[str] = frozenset()
) -> types.CodeType:
    """The instrumented copy of a function's code, made once per code object. globals_, cells: names that other
    functions of the trace assign. NoSource says why there is none."""
    code = function.__code__
    found = _COPIES.get((id(code), globals_, cells))
    if found is not None:
        return found[1]
    if code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        raise NoSource("it is asynchronous")
    try:
        source = source_of(code, function.__globals__)
        tree = parse(source, code.co_filename)
    except SyntaxError:
        raise NoSource("its source file has changed since it was loaded") from None
    candidates = definitions(tree, code)
    if not candidates:
        raise NoSource("its source was not found: perhaps the file has changed since it was loaded")
    if len(candidates) > 1:
        raise NoSource("several lambdas on its line could be its source")
    node, owner = candidates[0]
    now = code_objects(source, code.co_filename, code.co_flags & _FUTURE)
    if not rewritten_by_pytest(code) and not any(same(c, code) for c in now):
        raise NoSource("its source has changed since it was loaded")
    fresh = _stripped(node)
    rewriter = _Instrument(_names(fresh, code, globals_, cells), owner, fresh)
    loop_syntax.note_outside(fresh)
    fresh.args = rewriter.visit(fresh.args)
    if isinstance(fresh, ast.FunctionDef):
        fresh.body = rewriter.statements(fresh.body)
    else:
        fresh.body = rewriter.visit(fresh.body)
    made = _build(fresh, code)
    _COPIES[id(code), globals_, cells] = (code, made)
    _remember(made, code)
    return made


def instrument(
    function: types.FunctionType,
    hooks: object,
    globals_: frozenset[str] = frozenset(),
    cells_: frozenset[str] = frozenset(),
) -> types.FunctionType:
    """A copy of `function` that calls `hooks`; it shares the function's globals, closure cells and defaults."""
    code = instrumented_code(function, globals_, cells_)
    cells: dict[str, Any] = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
    cells[GLOBALS] = types.CellType(Namespace(hooks, function.__globals__, builtins))  # type: ignore[arg-type]
    cells[CELLS] = types.CellType(Namespace(hooks, dict(cells), None))  # type: ignore[arg-type]
    cells[HOOKS] = types.CellType(hooks)
    closure = tuple(cells[n] for n in code.co_freevars)
    out = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    out.__kwdefaults__ = function.__kwdefaults__
    out.__qualname__, out.__module__ = function.__qualname__, function.__module__
    return out
