"""`--format`: the language of Go templates, tables, units and JSON as Go writes it."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.cli import format as format_
from sampan.cli import inspection, units
from sampan.cli.container import ls
from sampan.cli.printf import sprintf
from sampan.cli.session import CommandError
from sampan.cli.template import Template, TemplateError
from sampan.client import jsontext

VALUE: dict[str, Any] = {
    "Name": "/web",
    "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/tcp": None},
    "Env": ["a=1", "b=2"],
    "Count": 3,
    "On": True,
    "Empty": {},
    "Ratio": 1.5,
    "Nested": {"Deep": {"Leaf": "x"}},
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{.Name}}", "/web"),
        ("{{json .Env}} {{json .Ports}}", '["a=1","b=2"] '
                                          '{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}],"90/tcp":null}'),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ('{{range $k, $v := .Ports}}{{$k}}={{if $v}}{{(index $v '
         '0).HostPort}}{{else}}-{{end}};{{end}}', "80/tcp=8080;90/tcp=-;"),
        ("{{range .Env}}{{println .}}{{end}}", "a=1\nb=2\n"),
        ("{{range $i, $e := .Env}}{{if $i}}, {{end}}{{$e}}{{end}}", "a=1, b=2"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .Env}}{{break}}{{end}}{{range .Env}}{{continue}}x{{end}}", ""),
        ("{{with .Empty}}yes{{else}}no{{end}}{{with .Nested}}{{.Deep.Leaf}}{{end}}", "nox"),
        ("{{if eq .Count 4}}a{{else if eq .Count 3 9}}b{{else}}c{{end}}", "b"),
        ("{{if and .On (gt .Count 2) (not .Empty)}}y{{end}}{{or .Empty .Name}}", "y/web"),
        ('{{.Name | printf "%-6s|"}}{{printf "%05d %q %v %.1f" .Count .Name .On '
         '.Ratio}}', '/web  |00003 "/web" true 1.5'),
        ("a {{- .Count -}} b", "a3b"),
        ("{{/* nothing */}}x{{- /* trim */ -}} y", "xy"),
        ("{{$x := .Count}}{{$x}}{{$x = 4}}{{$x}}", "34"),
        ('{{join .Env ","}} {{upper .Name}} {{len .Env}} {{split "a-b" "-"}} {{truncate .Name '
         '2}}', "a=1,b=2 /WEB 2 [a b] /w"),
        ('{{slice .Name 1}} {{slice .Name 1 2}} {{title "ab cd"}} {{pad "x" 1 2}}|', "web w Ab Cd  x  |"),
        ("{{.Env}} {{.Empty}} {{.On}} {{.Ratio}} {{.Nested}}", "[a=1 b=2] map[] true 1.5 map[Deep:map[Leaf:x]]"),
        ('{{"lit"}} {{`raw\\n`}} {{true}} {{ne 1 2}} {{lt 1 2}} {{print "a" 1}}', "lit raw\\n true true true a1"),
    ],
)  # fmt: skip
def test_templates(source: str, text: str) -> None:
    assert Template(source).render(VALUE) == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Nope}}", 'map has no entry for key "Nope"'),
        ("{{index .Env 5}}", "error calling index: index out of range: 5"),
        ("{{.Count.X}}", "can't evaluate field X in type int"),
        ("{{foo}}", 'function "foo" not defined'),
        ("{{.Name", "unclosed action"),
        ("{{if .On}}x", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ('{{"abc}}', "unterminated quoted string"),
        ("{{}}", "missing value for command"),
        ("{{range .Name}}{{end}}", "range can't iterate over /web"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{$nope}}", 'undefined variable "$nope"'),
        ("{{.Name ?}}", "unexpected '?' in operand"),
    ],
)
def test_bad_templates(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source).render(VALUE)
    assert message in str(caught.value)


def test_and_or_look_at_no_more_than_they_need() -> None:
    assert Template("{{or .On .Nope}}{{and .Empty .Nope}}").render(VALUE) == "truemap[]"


@pytest.mark.parametrize(
    ("verb", "value", "text"),
    [("%s", [1, "a"], "[1 a]"), ("%x", 255, "ff"), ("%c", 65, "A"), ("%t", True, "true"), ("%8.3f", 1.5, "   1.500")],
)
def test_printf(verb: str, value: Any, text: str) -> None:
    assert sprintf(verb, value) == text


def test_printf_says_what_is_wrong() -> None:
    assert sprintf("%d %s", "a") == "%!d(string=a) %!s(MISSING)" and sprintf("x", 1) == "x%!(EXTRA int=1)"


def test_inspect_sees_gos_zero_values() -> None:
    value = {"Config": {"Env": None, "Labels": None}, "State": {}}
    shown = "{{.Config.Env}} {{json .Config.Env}} {{.Config.Labels}} {{if .State.Health}}h{{end}}{{len .Config.Env}}"
    assert inspection.rendered(shown, value) == "[] null map[] 0"
    named = {"Id": "x", "HostConfig": {"NanoCpus": 5}}
    assert inspection.rendered("{{.ID}} {{.Id}} {{.HostConfig.NanoCPUs}}", named) == "x x 5"
    with pytest.raises(CommandError) as caught:
        inspection.rendered("{{.Nope}}", value)
    assert (
        caught.value.message
        == 'template parsing error: template: :1:2: executing "" at <.Nope>: map has no entry for key "Nope"'
    )


CONTAINER: dict[str, Any] = {
    "Id": "0123456789abcdef" * 4,
    "Names": ["/web", "/other/alias"],
    "Image": "busybox@sha256:" + "a" * 64,
    "ImageID": "sha256:b",
    "Command": "sh -c 'a very long command line'",
    "Created": 0,
    "State": "running",
    "Status": "Up 3 minutes",
    "Ports": [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 90, "Type": "tcp"},
        {"PrivatePort": 91, "Type": "tcp"},
        {"IP": "0.0.0.0", "PrivatePort": 7, "PublicPort": 7, "Type": "udp"},
        {"IP": "0.0.0.0", "PrivatePort": 8, "PublicPort": 8, "Type": "udp"},
    ],
    "Labels": {"b": "2", "a.x-name": "1"},
    "Mounts": [{"Name": "a-volume-with-a-name", "Driver": "local"}, {"Source": "/src"}],
    "NetworkSettings": {"Networks": {"bridge": {}}},
}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("ID", "0123456789ab"),
        ("Names", "web"),
        ("Image", "busybox"),
        ("Command", '"sh -c \'a very long …"'),
        ("Ports", "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 0.0.0.0:7-8->7-8/udp, 90-91/tcp"),
        ("Labels", "a.x-name=1,b=2"),
        ("Mounts", "a-volume-with-…,/src"),
        ("LocalVolumes", "1"),
        ("Networks", "bridge"),
    ],
)
def test_ps_columns(field: str, text: str) -> None:
    assert format_.show(ls.FIELDS, [CONTAINER], f"{{{{.{field}}}}}", kind="ContainerContext") == text + "\n"


def test_a_table_template_has_headings() -> None:
    text = format_.show(ls.FIELDS, [CONTAINER], 'table {{.Names}}\\t{{.Label "a.x-name"}}\\t{{upper .State}}', kind="x")
    assert text == "NAMES     x name    STATE\nweb       1         RUNNING\n"


def test_an_unknown_field_names_the_type() -> None:
    with pytest.raises(TemplateError) as caught:
        format_.show(ls.FIELDS, [CONTAINER], "{{.Nope}}", kind="ContainerContext")
    assert "can't evaluate field Nope in type *formatter.ContainerContext" in str(caught.value)


def test_json_rows_are_sorted_and_escaped() -> None:
    fields: format_.Fields = {"Z": ("Z", lambda r: r), "A": ("A", lambda r: "<none>")}
    assert format_.show(fields, ["z"], "json", kind="x") == '{"A":"\\u003cnone\\u003e","Z":"z"}\n'


def test_a_column_ends_where_a_line_has_no_cell() -> None:
    assert format_.tabulated("a\tb\nlonger-than-ten\tc\nplain\nx\ty\n") == (
        "a                 b\nlonger-than-ten   c\nplain\nx         y\n"
    )


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (1984512, "1.98MB"), (10**12, "1TB"), (123456, "123kB")]
)
def test_human_sizes(size: int, text: str) -> None:
    assert units.human_size(size, 3) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (3599, "59 minutes"),
        (3600, "About an hour"), (47 * 3600, "47 hours"), (48 * 3600, "2 days"), (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"), (731 * 86400, "2 years"),
    ],
)  # fmt: skip
def test_human_durations(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


def test_json_text() -> None:
    value = {"a": [1, 2.0, 1.5, None, True], "b": {}, "c": [], "d": 'x"é\n<'}
    assert jsontext.loads(jsontext.dumps(value)) == value
    assert jsontext.dumps(value) == '{"a":[1,2,1.5,null,true],"b":{},"c":[],"d":"x\\"é\\n<"}'
    assert jsontext.indented([{"a": 1, "b": {}}]) == '[\n    {\n        "a": 1,\n        "b": {}\n    }\n]'
    assert jsontext.html_escaped("<&>") == "\\u003c\\u0026\\u003e"
    for bad in ("", "{", "1 2", "nope", '{"a"}'):
        with pytest.raises(ValueError):
            jsontext.loads(bad)


def test_json_values_that_straddle_chunks() -> None:
    chunks = [b'{"a":', b'1}\n{"b"', b":2}\n", b"\n[3]"]
    assert list(jsontext.stream(chunks)) == [{"a": 1}, {"b": 2}, [3]]
