"""Go templates over decoded JSON: the language of `--format`.

    Template("{{.Name}}: {{range .Mounts}}{{.Source}} {{end}}").render(value) → text

Covered: text, trim markers, comments, fields and chains, variables, pipelines, parentheses, if/else if/else, with,
range (with index and value, else, break, continue), Go's functions (and or not eq ne lt le gt ge len index slice print
printf println) and docker's (json join split title lower upper pad truncate). Not covered: define, template, block.

A value that has `lookup(name, *args)` answers field access itself (the rows of list commands do); a dict answers by
key. Errors are TemplateError in the words of text/template.

Source: Go text/template; docker's basic template functions.
"""

from __future__ import annotations

from sampan.cli.arity import arity
from sampan.cli.functions import FUNCTIONS, NO_VALUE, TYPES, Unfit, fits, go_type, truth, unlike
from sampan.cli.printf import Nil, sprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Node = tuple[Any, ...]
    Token = tuple[str, Any, str, int]


class TemplateError(Exception):
    """The template does not parse, or does not fit the value. written: what it had given until then."""

    written = ""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template. `missing` decides about a key that a dict lacks or holds as null: from its
    name and the dict to the value (or an error)."""

    def __init__(
        self,
        source: str,
        *,
        name: str = "",
        functions: dict[str, Callable[..., Any]] | None = None,
        missing: Callable[[str, dict[str, Any]], Any] | None = None,
    ) -> None:
        self._functions = {**FUNCTIONS, **(functions or {})}
        self._missing = missing
        self._name, self._source = name, source
        try:
            self._nodes, stop = _Parser(_lex(source), self._functions).block()
        except Unfit as e:
            raise TemplateError(f"template: {name}:1: {e}") from e
        if stop:
            raise TemplateError(f"template: {name}:1: unexpected {{{{{stop}}}}}")

    def render(self, value: Any) -> str:
        out: list[str] = []
        try:
            self._run(self._nodes, value, {"$": value}, out)
        except TemplateError as e:
            e.written = "".join(out)
            raise
        return "".join(out)

    def _error(self, node: Node, reason: object) -> TemplateError:
        """Return the error of a node, whose last two parts are its words and its place in the source."""
        words, place = node[-2:]
        line = self._source.count("\n", 0, place) + 1
        column = place - (self._source.rfind("\n", 0, place) + 1)
        where = f"template: {self._name}:{line}:{column}: executing {chr(34)}{self._name}{chr(34)}"
        return TemplateError(f"{where} at <{words}>: {reason}")

    # -- execution --------------------------------------------------------------------------------------------------

    def _run(self, nodes: list[Node], dot: Any, names: dict[str, Any], out: list[str]) -> None:
        for node in nodes:
            kind = node[0]
            if kind == "text":
                out.append(node[1])
            elif kind == "action":
                value = self._pipe(node[1], dot, names)
                if not node[1][0]:
                    out.append("<no value>" if value is NO_VALUE else sprint(value))
            elif kind == "range":
                self._range(node, dot, names, out)
            elif kind == "break":
                raise _Break
            elif kind == "continue":
                raise _Continue
            else:
                scope = dict(names)
                value = self._pipe(node[1], dot, scope)
                if truth(value):
                    self._run(node[2], value if kind == "with" else dot, scope, out)
                else:
                    self._run(node[3], dot, scope, out)

    def _range(self, node: Node, dot: Any, names: dict[str, Any], out: list[str]) -> None:
        _, pipe, body, otherwise = node
        scope = dict(names)
        value = self._pipe((), dot, scope, pipe[2])
        pairs: list[tuple[Any, Any]]
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(i, i) for i in range(value)]
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        elif value is None or value is NO_VALUE or isinstance(value, Nil):
            pairs = []
        else:
            raise self._error(pipe[2][0][0], f"range can't iterate over {sprint(value)}")
        for key, item in pairs:
            if len(pipe[0]) == 1:
                scope[pipe[0][0]] = item
            elif pipe[0]:
                scope[pipe[0][0]], scope[pipe[0][1]] = key, item
            try:
                self._run(body, item, dict(scope), out)
            except _Break:
                break
            except _Continue:
                continue
        if not pairs:
            self._run(otherwise, dot, scope, out)

    def _pipe(self, pipe: Any, dot: Any, names: dict[str, Any], commands: list[Any] | None = None) -> Any:
        value: Any = NO_VALUE
        for position, command in enumerate(pipe[2] if commands is None else commands):
            value = self._command(command, dot, names, () if position == 0 else (value,))
        if commands is None:
            for name in pipe[0]:
                if pipe[1] == "=" and name not in names:
                    raise TemplateError(f"undefined variable {name!r}")
                names[name] = value
        return value

    def _command(self, command: list[Node], dot: Any, names: dict[str, Any], piped: tuple[Any, ...]) -> Any:
        first, rest = command[0], command[1:]
        if first[0] == "func":
            if first[1] in ("and", "or"):  # these look at an argument only when they need it
                value: Any = NO_VALUE
                for argument in (*rest, *(("const", p) for p in piped)):
                    value = self._operand(argument, dot, names)
                    if truth(value) is (first[1] == "or"):
                        return value
                return value
            return self._call(command, [self._operand(a, dot, names) for a in rest], piped)
        arguments = [*(self._operand(a, dot, names) for a in rest), *piped]
        return self._operand(first, dot, names, tuple(arguments))

    def _call(self, command: list[Node], arguments: list[Any], piped: tuple[Any, ...]) -> Any:
        """Call a function of the template. Raises: TemplateError."""
        function = command[0]
        name, call = function[1], self._functions[function[1]]
        wanted, given = arity(call), len(arguments) + len(piped)
        if wanted not in (-1, given):
            raise self._error(function, f"wrong number of args for {name}: want {wanted} got {given}")
        if call is FUNCTIONS.get(name):
            places = (*command[1:], *(("piped", *function[-2:]) for _ in piped))
            for node, value, kind in zip(places, (*arguments, *piped), TYPES.get(name, ())):
                if kind is not None and not fits(value, kind):
                    raise self._error(node, unlike(node, value, kind))
        try:
            return call(*arguments, *piped)
        except (Unfit, TypeError, ValueError, KeyError, IndexError) as e:
            words = " ".join(str(node[-2]) for node in command)
            raise self._error((words, function[-1]), f"error calling {name}: {e}") from e

    def _operand(self, node: Node, dot: Any, names: dict[str, Any], arguments: tuple[Any, ...] = ()) -> Any:
        kind = node[0]
        chain: list[str] = []
        if kind == "const":
            value = node[1]
        elif kind == "field":
            value, chain = dot, node[1]
        elif kind == "var":
            if node[1] not in names:
                raise TemplateError(f'template: {self._name}:1: undefined variable "{node[1]}"')
            value, chain = names[node[1]], node[2]
        elif kind == "pipe":
            value, chain = self._pipe(node[1], dot, dict(names)), node[2]
        else:
            return self._command([node], dot, names, arguments)
        for position, name in enumerate(chain):
            last = position == len(chain) - 1
            try:
                value = self._field(value, name, arguments if last else ())
            except Unfit as e:
                raise self._error(node, e) from e
        return value

    def _field(self, value: Any, name: str, arguments: tuple[Any, ...]) -> Any:
        lookup = getattr(value, "lookup", None)
        if lookup is not None:
            return lookup(name, *arguments)
        if isinstance(value, dict):
            found = value.get(name)
            if found is not None or (name in value and self._missing is None):
                return found
            if self._missing is not None:
                return self._missing(name, value)
            raise Unfit(f'map has no entry for key "{name}"')
        if value is NO_VALUE or value is None:
            raise Unfit(f'nil data; no entry for key "{name}"')
        raise Unfit(f"can't evaluate field {name} in type {go_type(value)}")


# -- reading ---------------------------------------------------------------------------------------------------------


def _lex(source: str) -> list[tuple[str, Any]]:
    """Cut into ("text", s) and ("action", tokens); a token is (kind, value, its words, its place)."""
    parts: list[tuple[str, Any]] = []
    position = 0
    trim_next = False
    while True:
        start = source.find("{{", position)
        text = source[position:] if start < 0 else source[position:start]
        if trim_next:
            text = text.lstrip(" \t\r\n")
        trim_this = start >= 0 and source[start + 2 : start + 3] == "-" and source[start + 3 : start + 4] in " \t\r\n"
        if trim_this:
            text = text.rstrip(" \t\r\n")
        if text:
            parts.append(("text", text))
        if start < 0:
            return parts
        body_start = start + (3 if trim_this else 2)
        if source[body_start:].lstrip().startswith("/*"):
            end = source.find("}}", source.find("*/", body_start))
            tokens: list[Token] = []
        else:
            tokens, end = _tokens(source, body_start)
            parts.append(("action", tokens))
        if end < 0:
            raise Unfit("unclosed action")
        trim_next = source[end - 1] == "-" and source[end - 2] in " \t\r\n"
        position = end + 2


def _tokens(source: str, position: int) -> tuple[list[Token], int]:
    tokens: list[Token] = []

    def add(kind: str, value: Any) -> None:
        tokens.append((kind, value, source[start:position], start))

    spaced = True
    while True:
        rest = source[position : position + 2]
        if not rest:
            raise Unfit("unclosed action")
        if rest == "}}" or (rest[0] == "-" and source[position + 1 : position + 3] == "}}"):
            return tokens, position + (1 if rest[0] == "-" else 0)
        c = rest[0]
        start = position
        if c in " \t\r\n":
            position += 1
            spaced = True
            continue
        if c in '"`':
            position = _string_end(source, position)
            raw = source[start:position]
            add("const", raw[1:-1] if c == "`" else _unquoted(raw))
        elif c == "'":
            position = source.index("'", position + 1) + 1
            add("const", ord(_unquoted('"' + source[start + 1 : position - 1] + '"')))
        elif rest == ":=":
            position += 2
            add("sign", rest)
        elif c in "|(),=":
            position += 1
            add("sign", c)
            spaced = c != ")"  # only `).Field` goes on with what is before it
            continue
        elif c == ".":
            position = _word_end(source, position + 1)
            name = source[start + 1 : position]
            if name and name[0].isdecimal():
                add("const", float(source[start:position]))
            else:
                add("field" if spaced or not tokens else "chain", name)
        elif c == "$" or c.isalpha() or c == "_":
            position = _word_end(source, position + 1)
            add("var" if c == "$" else "word", source[start:position])
        elif c.isdecimal() or c in "+-":
            position = _word_end(source, position + 1)
            while source[position : position + 1] == ".":
                position = _word_end(source, position + 1)
            add("const", _number(source[start:position]))
        else:
            raise Unfit(f"unexpected {c!r} in operand")
        spaced = False


def _word_end(source: str, position: int) -> int:
    while position < len(source) and (source[position].isalnum() or source[position] == "_"):
        position += 1
    return position


def _string_end(source: str, position: int) -> int:
    quote = source[position]
    position += 1
    while position < len(source) and source[position] != quote:
        position += 2 if source[position] == "\\" and quote == '"' else 1
    if position >= len(source):
        raise Unfit("unterminated quoted string")
    return position + 1


def _unquoted(text: str) -> str:
    from sampan.spec import go_values  # few templates hold a string

    try:
        return go_values.unquote(text)
    except ValueError:
        raise Unfit(f"invalid syntax in {text}") from None


def _number(text: str) -> int | float:
    try:
        return int(text, 0)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise Unfit(f'bad number syntax: "{text}"') from None


class _Parser:
    """Recursive descent over the parts; a block ends at `end`, `else` or the end of the source."""

    def __init__(self, parts: list[tuple[str, Any]], functions: dict[str, Callable[..., Any]]) -> None:
        self.parts = parts
        self.functions = functions
        self.position = 0
        self.tokens: list[Token] = []
        self.at = 0

    def block(self, inside: str = "") -> tuple[list[Node], str]:
        nodes: list[Node] = []
        while self.position < len(self.parts):
            kind, body = self.parts[self.position]
            self.position += 1
            if kind == "text":
                nodes.append(("text", body))
                continue
            self.tokens, self.at = body, 0
            word = body[0][1] if body and body[0][0] == "word" else ""
            if word in ("end", "else"):
                return nodes, word
            if word in ("if", "with", "range"):
                self.at = 1
                if len(body) == 1:
                    raise Unfit(f"missing value for {word}")
                nodes.append(self.control(word))
            elif word in ("break", "continue"):
                nodes.append((word,))
            else:
                nodes.append(("action", self.whole_pipeline()))
        if inside:
            raise Unfit("unexpected EOF")
        return nodes, ""

    def control(self, kind: str) -> Node:
        pipe = self.whole_pipeline()
        body, stop = self.block(kind)
        otherwise: list[Node] = []
        if stop == "else":
            if len(self.tokens) > 1 and self.tokens[1][:2] in (("word", "if"), ("word", "with")):
                self.at = 2
                otherwise = [self.control(self.tokens[1][1])]
            else:
                otherwise, stop = self.block(kind)
                if stop != "end":
                    raise Unfit("expected end; found {{else}}")
        return (kind, pipe, body, otherwise)

    def whole_pipeline(self) -> Node:
        pipe = self.pipeline()
        if self.at != len(self.tokens):
            raise Unfit(f"unexpected {self.tokens[self.at][1]!r} in command")
        return pipe

    def pipeline(self) -> Node:
        names: list[str] = []
        sign = ""
        signs = [i for i, t in enumerate(self.tokens[self.at :]) if t[:2] in (("sign", ":="), ("sign", "="))]
        if signs and self.tokens[self.at][0] == "var":
            declared = self.tokens[self.at : self.at + signs[0]]
            names = [t[1] for t in declared if t[0] == "var"]
            sign = self.tokens[self.at + signs[0]][1]
            self.at += signs[0] + 1
        commands = [self.command()]
        while self.peek() == ("sign", "|"):
            self.at += 1
            commands.append(self.command())
        return (names, sign, commands)

    def command(self) -> list[Node]:
        operands: list[Node] = []
        while (token := self.peek()) is not None and token not in (("sign", "|"), ("sign", ")")):
            operands.append(self.operand())
        if not operands:
            raise Unfit("missing value for command")
        return operands

    def operand(self) -> Node:
        kind, value, words, place = self.tokens[self.at]
        self.at += 1
        if kind == "const":
            return ("const", value, words, place)
        if kind == "field":
            return ("field", *self.chained([value] if value else [], words, place))
        if kind == "var":
            return ("var", value, *self.chained([], words, place))
        if kind == "word":
            if value in ("true", "false"):
                return ("const", value == "true", words, place)
            if value == "nil":
                return ("const", None, words, place)
            if value not in self.functions:
                raise Unfit(f'function "{value}" not defined')
            return ("func", value, words, place)
        if value == "(":
            pipe = self.pipeline()
            if self.peek() != ("sign", ")"):
                raise Unfit("unclosed left paren")
            self.at += 1
            return ("pipe", pipe, *self.chained([], "", place))
        raise Unfit(f"unexpected {value!r} in operand")

    def chained(self, names: list[str], words: str, place: int) -> tuple[list[str], str, int]:
        """Take the fields that follow; return all names, all words, and the place that Go names: the first that
        follows.
        """
        begin = self.at
        while self.peek() and self.tokens[self.at][0] == "chain":
            names.append(self.tokens[self.at][1])
            words += self.tokens[self.at][2]
            self.at += 1
        return names, words, self.tokens[begin][3] if self.at > begin else place

    def peek(self) -> tuple[str, Any] | None:
        return self.tokens[self.at][:2] if self.at < len(self.tokens) else None
