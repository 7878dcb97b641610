"""Mutations of C and Python, all in one build: each stands beside the original, and a number says which one acts.

Building the library once for each mutation would take hours.  Here an expression `a < b` becomes

    (MUTANT(17) ? (a <= b) : MUTANT(18) ? (a >= b) : (a < b))

in C, and the same with `_mutant.active == 17` in Python.  A process sets the number once, before it computes.
"""

import ast
import copy
import re
import subprocess
import sysconfig
from collections import Counter
from dataclasses import dataclass

import tree_sitter
import tree_sitter_c

FLIPPED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==",
           "+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "&": "|", "|": "&", "<<": ">>", "//": "*",
           "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=", "|=": "="}  # fmt: skip
SWAPPED = {"min_size": "max_size", "max_size": "min_size", "min": "max", "max": "min"}
CONSTANT = re.compile(r"(?!IM2COLX_)[A-Z][A-Z0-9_]{2,}$")  # a limit that has a name


@dataclass
class Mutant:
    """`line` is the text of the line on which the change begins, `what` the change; both without runs of blanks."""

    number: int
    path: str
    line: str
    row: int
    what: str

    @property
    def key(self):
        return self.path, self.line, self.what

    def __str__(self):
        return f"{self.path}:{self.row}\n  - {self.line}\n  + {self.what}"


def squeezed(text):
    return re.sub(r"\s+", " ", text).strip()


class _Numbering:
    """Gives each change its number; the same change twice in a line is told apart by a count."""

    def __init__(self, first):
        self.mutants, self._next, self._seen = [], first, Counter()

    def new(self, path, lines, row, before, after):
        what = squeezed(f"{squeezed(before)}  ->  {squeezed(after)}".replace("\\\n", " "))
        line = squeezed(lines[row].rstrip("\\"))
        self._seen[path, line, row, what] += 1
        if self._seen[path, line, row, what] > 1:
            what += f" (no. {self._seen[path, line, row, what]})"
        self.mutants.append(Mutant(self._next, path, line, row + 1, what))
        self._next += 1
        return self._next - 1


# ---- C --------------------------------------------------------------------------------------------------------------

_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_c.language()))
# Where the compiler wants a constant, or nothing is computed.
_LEFT_ALONE = {"enum_specifier", "array_declarator", "attribute_specifier", "preproc_include", "preproc_def", "preproc_if",
               "preproc_ifdef_condition", "struct_specifier", "comment", "string_literal", "type_descriptor", "sizeof_expression",
               "parameter_list", "alignas_qualifier"}  # fmt: skip


class _CFile:
    """Writes one C file with its mutations."""

    def __init__(self, path, text, numbering, dropped):
        self.path, self.numbering, self.dropped = path, numbering, dropped
        self.lines = text.splitlines()
        self.newline = "\n"
        self.source = text.encode()
        self.row_offset = 0

    def render(self, text):
        self.source = text.encode()
        return self._node(_PARSER.parse(self.source).root_node, False)

    def _plain(self, node):
        return self.source[node.start_byte : node.end_byte].decode()

    def _children(self, node, in_function):
        parts, at = [], node.start_byte
        for child in node.children:
            parts.append(self.source[at : child.start_byte].decode())
            parts.append(self._node(child, in_function))
            at = child.end_byte
        return "".join(parts) + self.source[at : node.end_byte].decode()

    def _node(self, node, in_function):
        if node.type == "preproc_function_def":
            return self._macro(node)
        if node.type in _LEFT_ALONE or node.type.startswith("preproc_"):
            # Conditional parts are kept as they are, but for what they enclose.
            inside = node.type in ("preproc_ifdef", "preproc_if", "preproc_else")
            return self._children(node, in_function) if inside else self._plain(node)
        in_function |= node.type == "function_definition"
        if not node.children:
            return self._wrap(node, self._plain(node), self._of_leaf(node)) if in_function else self._plain(node)
        if node.type == "case_statement":  # its value is a constant; its statements are not
            value = node.child_by_field_name("value")
            self_text = [self._plain(c) if c == value or c.type in ("case", "default", ":") else self._node(c, in_function)
                         for c in node.children]  # fmt: skip
            return " ".join(self_text)
        text = self._children(node, in_function)
        if not in_function:
            return text
        if node.type in ("expression_statement", "break_statement", "continue_statement") and text.strip() != ";":
            number = self._new(node, self._plain(node), "")
            if number is None:
                return text
            return f"{{ if (MUTANT({number})) {{}} else{self.newline}{text}{self.newline} }}"
        return self._wrap(node, text, self._of_expression(node))

    def _macro(self, node):
        """A macro's body is parsed as C of its own; the ends of its lines stay escaped."""
        body = node.child_by_field_name("value")
        if body is None:
            return self._plain(node)
        head = self.source[node.start_byte : body.start_byte].decode()
        inner = _CFile(self.path, "", self.numbering, self.dropped)
        inner.lines, inner.newline, inner.row_offset = self.lines, "\\\n", self.row_offset + body.start_point.row
        text = inner.render(self._plain(body).replace("\\\n", " \n"))
        return head + text.replace("\\\n", "\n").replace("\n", "\\\n").rstrip("\\\n ") + "\n"

    def _new(self, node, before, after):
        row = self.row_offset + node.start_point.row
        number = self.numbering.new(self.path, self.lines, row, before, after or "(removed)")
        return None if number in self.dropped else number

    def _wrap(self, node, text, changes):
        plain, made = self._plain(node), []
        for change, shown in changes:
            number = self._new(node, plain, shown)
            if number is not None:
                made.append(f"MUTANT({number}) ?{self.newline}({change}){self.newline}: ")
        return f"({''.join(made)}({text}))" if made else text

    def _of_leaf(self, node):
        text = self._plain(node)
        if node.type == "number_literal" and re.fullmatch(r"\d+", text):
            return [(str(int(text) + step), str(int(text) + step)) for step in (1, -1)]
        if node.type == "identifier" and CONSTANT.match(text) and node.parent.type == "binary_expression":
            operator = node.parent.child_by_field_name("operator").type
            if operator not in ("&", "|", "==", "!=") or operator == "==" and text.startswith("MOST"):
                return [(f"{text} {sign} 1", f"{text} {sign} 1") for sign in "+-"]
        return []

    def _of_expression(self, node):
        def part(field):
            return self._plain(node.child_by_field_name(field))

        if node.type == "binary_expression":
            left, operator, right = part("left"), node.child_by_field_name("operator").type, part("right")
            if operator in ("&&", "||"):
                return [(f"!!({side})", side) for side in (left, right)]
            changed = FLIPPED.get(operator)
            return [(f"{left} {changed} {right}",) * 2] if changed else []
        if node.type == "assignment_expression":
            changed = FLIPPED.get(node.child_by_field_name("operator").type)
            return [(f"{part('left')} {changed} {part('right')}",) * 2] if changed else []
        if node.type == "conditional_expression":
            return [(side, side) for side in (part("consequence"), part("alternative"))]
        if node.type == "unary_expression":
            argument, operator = part("argument"), node.child_by_field_name("operator").type
            return [(f"!!({argument})" if operator == "!" else argument, argument)] if operator in "!-" else []
        if node.type == "call_expression" and part("function") in SWAPPED:
            changed = SWAPPED[part("function")] + part("arguments")
            return [(changed, changed)]
        if node.type == "parenthesized_expression" and node.parent.type == "if_statement":
            return [("1", "(1)"), ("0", "(0)")]
        return []


def mutate_c(texts, folder):
    """Writes the files of `texts` (path → text) with their mutations below `folder`, where all of csrc is; gives the mutants.

    A change that the compiler refuses, for instance the difference of two pointers made a sum, is left out.
    """
    dropped = set()
    while True:
        numbering, refused = _Numbering(1), set()
        for path, text in texts.items():
            (folder / path).write_text(_CFile(path, text, numbering, dropped).render(text))
        for path in texts:
            if path.endswith(".c"):
                refused |= _refused(folder, path)
        if not refused:
            return [mutant for mutant in numbering.mutants if mutant.number not in dropped]
        dropped |= refused


def _refused(folder, path):
    """Numbers of the mutants that do not compile."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    command = [compiler, "-fsyntax-only", "-std=gnu11", "-w", "-fmax-errors=0", "-Icsrc", path]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if not done.returncode:
        return set()
    numbers = set()
    for name, row in re.findall(r"^([^\s:]+):(\d+):", done.stderr, re.M):
        at = folder / name
        lines = at.read_text().splitlines() if at.is_file() else []
        for line in lines[max(0, int(row) - 2) : int(row)]:  # the line of the change, and the one that names its number
            found = re.findall(r"MUTANT\((\d+)\)", line)
            numbers.update(int(number) for number in found[-1:])
    if not numbers:
        raise RuntimeError(f"{path} with its mutations does not compile:\n{done.stderr[:3000]}")
    return numbers


# ---- Python ---------------------------------------------------------------------------------------------------------

_PY_FLIPPED = {ast.Lt: (ast.LtE,), ast.LtE: (ast.Lt,), ast.Gt: (ast.GtE,), ast.GtE: (ast.Gt,), ast.Eq: (ast.NotEq,),
               ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
               ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.FloorDiv,), ast.FloorDiv: (ast.Mult,),
               ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,)}  # fmt: skip


class _PythonFile(ast.NodeTransformer):
    """Changes a module's functions; what they say in errors, and what runs at import, stays."""

    def __init__(self, path, text, section, numbering):
        self.path, self.numbering, self.lines = path, numbering, text.splitlines()
        self.first, self.last = 0, len(self.lines)
        if section is not None:
            starts = [row for row, line in enumerate(self.lines, 1) if line.startswith("# ----")]
            self.first = next(row for row in starts if self.lines[row - 1].startswith(f"# ---- {section} -"))
            self.last = next((row for row in starts if row > self.first), self.last)
        self.inside = False

    def visit_FunctionDef(self, node):
        if not self.first <= node.lineno <= self.last:
            return node
        before, self.inside = self.inside, True
        start = 1 if ast.get_docstring(node) is not None else 0
        node.body = node.body[:start] + [self.visit(statement) for statement in node.body[start:]]
        self.inside = before
        return node

    def _leave(self, node):
        return node

    visit_Raise = visit_JoinedStr = visit_arguments = visit_AnnAssign = visit_Import = visit_ImportFrom = _leave

    def _acts(self, before, after):
        row = before.lineno - 1
        shown = after if isinstance(after, str) else ast.unparse(after)
        number = self.numbering.new(self.path, self.lines, row, ast.unparse(before), shown)
        return ast.parse(f"_mutant.active == {number}", mode="eval").body

    def _wrap(self, node, *changes):
        """`node`, its parts already changed, after the changes of the whole; `changes` are (plain node, change)."""
        for plain, change in changes:
            if self.inside:
                node = ast.IfExp(self._acts(plain, change), change, node)
        return node

    def visit_Compare(self, node):
        plain, changes = copy.deepcopy(node), []
        for place, operator in enumerate(plain.ops):
            for flipped in _PY_FLIPPED[type(operator)]:
                change = copy.deepcopy(plain)
                change.ops[place] = flipped()
                changes.append((plain, change))
        return self._wrap(self.generic_visit(node), *changes)

    def visit_BinOp(self, node):
        plain, changes = copy.deepcopy(node), []
        is_text = isinstance(node.left, (ast.Constant, ast.JoinedStr)) and isinstance(getattr(node.left, "value", ""), str)
        if not is_text:
            changes = [(plain, ast.BinOp(plain.left, flipped(), plain.right)) for flipped in _PY_FLIPPED.get(type(plain.op), ())]
        return self._wrap(self.generic_visit(node), *changes)

    def visit_BoolOp(self, node):
        plain = copy.deepcopy(node)
        return self._wrap(self.generic_visit(node), *((plain, side) for side in plain.values))

    def visit_UnaryOp(self, node):
        plain = copy.deepcopy(node)
        return self._wrap(self.generic_visit(node), (plain, plain.operand))

    def visit_IfExp(self, node):
        plain = copy.deepcopy(node)
        return self._wrap(self.generic_visit(node), (plain, plain.body), (plain, plain.orelse))

    def visit_Constant(self, node):
        if type(node.value) is not int:
            return node
        return self._wrap(node, *((node, ast.Constant(node.value + step)) for step in (1, -1)))

    def visit_Name(self, node):
        if not (isinstance(node.ctx, ast.Load) and CONSTANT.match(node.id) and node.id.startswith(("MOST", "LARGEST"))):
            return node
        return self._wrap(node, *((node, ast.BinOp(node, op, ast.Constant(1))) for op in (ast.Add(), ast.Sub())))

    def visit_Call(self, node):
        plain = copy.deepcopy(node)
        changes = []
        if isinstance(node.func, ast.Name) and node.func.id in SWAPPED and len(node.args) > 1:
            changes = [(plain, ast.Call(ast.Name(SWAPPED[node.func.id], ast.Load()), plain.args, plain.keywords))]
        return self._wrap(self.generic_visit(node), *changes)

    def visit_If(self, node):
        test = copy.deepcopy(node.test)
        node = self.generic_visit(node)
        node.test = self._wrap(node.test, (test, ast.Constant(True)), (test, ast.Constant(False)))
        return node

    def visit_Expr(self, node):
        plain = copy.deepcopy(node)
        node = self.generic_visit(node)
        if not self.inside or isinstance(plain.value, ast.Constant):
            return node
        return ast.If(self._acts(plain, "(removed)"), [ast.Pass()], [node])

    def visit_Subscript(self, node):
        """An index as it is, a type's parameters too; their parts are changed."""
        return self.generic_visit(node)


def mutate_python(path, text, section, first):
    """The module with its mutations, as text; and the mutants.  `section`: only what follows this headline."""
    numbering = _Numbering(first)
    tree = ast.parse(text)
    tree = _PythonFile(path, text, section, numbering).visit(tree)
    at = 1 if ast.get_docstring(tree) is not None else 0
    tree.body.insert(at, ast.parse("from im2colx import _mutant").body[0])
    return ast.unparse(ast.fix_missing_locations(tree)), numbering.mutants
