"""Prompt templates: what they can say, and that they can neither reach anything nor run away."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.swarms import prompts
from apps.swarms.prompts import PromptError, Rehearsal, Uses, check, render, uses

# -- what they can say


def test_the_item_is_printed() -> None:
    assert render("Collect three facts on {{ item }}.", item="pricing") == "Collect three facts on pricing."


def test_a_single_result_is_its_text() -> None:
    assert render("From: {{ results.gather }}", results={"gather": "Facts."}) == "From: Facts."


def test_results_of_a_fan_out_are_numbered_lines() -> None:
    printed = render("{{ results.gather }}", results={"gather": ["one", "two\nlines", {"a": 1}]})
    assert printed == '1. one\n2. two\n   lines\n3. {"a": 1}'


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ results.gather[0] }}", "one"),
        ("{{ results.gather[-1] }}", "three"),
        ("{{ results.gather[1:] }}", "1. two\n2. three"),
        ("{{ results.gather | length }}", "3"),
        ("{{ results.gather | first }} {{ results.gather | last }}", "one three"),
        ("{{ results.gather | join(', ') }}", "one, two, three"),
        ("{% for t in results.gather %}{{ loop.index }}:{{ t }} {% endfor %}", "1:one 2:two 3:three "),
        ("{% if 'two' in results.gather %}yes{% endif %}", "yes"),
        ('{{ results["gather"][0] }}', "one"),
    ],
)
def test_results_of_a_fan_out_are_a_list_too(template: str, expected: str) -> None:
    assert render(template, results={"gather": ["one", "two", "three"]}) == expected


@pytest.mark.parametrize(
    ("template", "item", "expected"),
    [
        ("{{ item.name }} at {{ item.place.city }}", {"name": "Ada", "place": {"city": "London"}}, "Ada at London"),
        ("{{ item }}", {"é": [1, 2.5, True, None]}, '{"é": [1, 2.5, true, null]}'),
        ("{{ item }}", None, ""),
        ("{{ item }}", 3, "3"),
        ("{{ item.note | default('none') }}", {}, "none"),
        ("{{ item | upper }} {{ item | truncate(4) }}", "abcdef", "ABCDEF abc…"),
        ("{{ item | sort | unique | join('/') }}", ["b", "a", "b"], "a/b"),
        ("{% if item.n > 2 and not item.off %}big{% else %}small{% endif %}", {"n": 3, "off": False}, "big"),
        ("{{ 'a' if item == 1 else 'b' }}", 1, "a"),
        ("{% for key in item %}{{ key }}={{ item[key] }};{% endfor %}", {"a": 1, "b": 2}, "a=1;b=2;"),
        ("{% raw %}{{ untouched }}{% endraw %}", None, "{{ untouched }}"),
        ("{{ item.items }} {{ item.keys }}", {"items": "entries, not", "keys": "methods"}, "entries, not methods"),
        ("one\n", None, "one\n"),
    ],
)
def test_items_can_be_anything_that_json_holds(template: str, item: object, expected: str) -> None:
    assert render(template, item=item) == expected


@given(st.text())
def test_results_and_items_are_never_read_as_templates(text: str) -> None:
    dangerous = "{{ 7 * 7 }}{% for %}" + text
    assert render("{{ item }}|{{ results.a }}", item=dangerous, results={"a": dangerous}) == f"{dangerous}|{dangerous}"


# -- what a template reads


def test_what_a_template_reads_is_known_before_it_is_rendered() -> None:
    assert uses("plain") == Uses(item=False, results=frozenset())
    template = '{{ item }} {% if results.a %}{{ results["b"][0].name }}{% endif %}'
    assert uses(template) == Uses(item=True, results=frozenset({"a", "b"}))
    assert uses("{% for item in results.a %}{{ item }}{% endfor %}") == Uses(item=False, results=frozenset({"a"}))


def test_names_that_are_not_there_are_told() -> None:
    assert check("{{ item }} {{ results.gather }}", {"item", "results.gather"}) == []
    assert check("{{ item }} {{ results.gather }}", {"results.other"}) == [
        "It reads results.gather, which is not there.",
        "It reads item, which is not there.",
    ]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ item", "unexpected end of template"),
        ("line\n{% if %}", "in line 2"),
        ("{% endfor %}", "not a valid template"),
        ("{{ topic }}", "reads 'topic', which is not there: a prompt sees item and results"),
        ("{{ results }}", "Write results.NAME"),
        ("{{ results[item] }}", "Write results.NAME"),
        ("{% for name in results %}{% endfor %}", "Write results.NAME"),
        ("{{ item | shout }}", "no filter 'shout'; there are capitalize"),
        ("{{ item | _counted(0) }}", "no filter '_counted'"),
        ("{{ item is callable }}", "no test 'callable'"),
        ("{{ loop.index }}", "reads 'loop'"),
        ("{{ self }}", "'self' cannot be used"),
        ("{% for results in item %}{% endfor %}", "'results' cannot be used"),
    ],
)
def test_templates_that_cannot_be_used_say_why(template: str, problem: str) -> None:
    with pytest.raises(PromptError, match=problem.replace("[", r"\[").replace("(", r"\(")):
        uses(template)


# -- that they can neither reach anything nor run away


@pytest.mark.parametrize(
    "template",
    [
        "{{ item.upper() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ item.__class__ }}",
        "{{ item['__class__'] }}",
        "{{ '{0.__class__}'.format(item) }}",
        "{{ item | attr('__class__') }}",
        "{{ item | map(attribute='__class__') | list }}",
        "{{ range(10) }}",
        "{{ lipsum(1000) }}",
        "{{ cycler('a') }}",
        "{{ item ~ item }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 10 ** 1000000000 }}",
        "{{ '%01000000000d' % 1 }}",
        "{{ 1 + 1 }}",
        "{% set a = item %}{{ a }}",
        "{% set a %}{{ item }}{% endset %}",
        "{% macro a() %}{% endmacro %}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% extends 'x' %}",
        "{% block a %}{% endblock %}",
        "{% filter upper %}a{% endfilter %}",
        "{% with a = 1 %}{% endwith %}",
        "{{ [item, item] }}",
        "{{ {'a': 1} }}",
        "{% for a in item recursive %}{{ loop(a) }}{% endfor %}",
        "{{ item | tojson(indent=1000000000) }}",
        "{{ item | round(-1000000000) }}",
        "{{ item | center(1000000000) }}",
        "{{ item | replace('a', 'b') }}",
        "{% for a in [1] %}{{ loop.cycle }}{% endfor %}",
        "{{ loop }}",
        "{{ joiner }}{{ namespace }}{{ dict }}",
    ],
)
def test_a_template_reaches_nothing_but_its_data(template: str) -> None:
    with pytest.raises(PromptError):
        render(template, item="text")


@pytest.mark.parametrize(
    ("template", "item"),
    [
        ("{{ item }}" * 11, "x" * 50_000),
        ("{{ item" + " | tojson" * 60 + " }}", '"'),
        ("{{ item | join('" + "x" * 1000 + "') }}", list(range(1000))),
        ("{% for a in item %}" * 3 + "x" + "{% endfor %}" * 3, list(range(300))),
        ("{% for a in item %}" * 30 + "x" + "{% endfor %}" * 30, [1]),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", None),
        ("{{ item" + ".a" * 3000 + " }}", None),
        ("{{ item }}" * 6000, "x"),
    ],
)
def test_what_a_template_makes_and_does_is_bounded(template: str, item: object) -> None:
    with pytest.raises(PromptError):
        render(template, item=item)


@pytest.mark.parametrize(
    ("template", "item", "problem"),
    [
        ("{{ item.nme }}", {"name": 1, "age": 2}, "reads 'nme' of a mapping that has 'name', 'age'"),
        ("{{ item.name }}", "text", "reads 'name' of a text"),
        ("{{ item[3] }}", [1], r"reads entry 3 of 1"),
        ("{% for a in item %}{% endfor %}", "abc", "A loop needs a list"),
        ("{{ item | int }}", "x", "does not fit its value"),
        ("{{ item > 3 }}", "x", "does not fit its value"),
        ("{{ item.a.b }}", {}, "reads 'a' of a mapping that has nothing"),
    ],
)
def test_what_does_not_fit_the_item_is_told(template: str, item: object, problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        render(template, item=item)


@given(
    st.text(alphabet="{}%|()[].'\" aitemrsulon_=-+*~0:", max_size=40), st.recursive(st.text() | st.integers(), st.lists)
)
def test_whatever_is_written_ends_in_a_text_or_a_prompt_error(template: str, item: object) -> None:
    with suppress(PromptError):
        assert isinstance(render("{{ item }}" + template, item=item, results={"a": "x"}), str)


def test_a_rehearsal_ends_when_its_work_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = Rehearsal()
    assert "mapping" in rehearsal.problem("{{ item.a }}", {})
    assert rehearsal.problem("{{ item.a }}", {"a": 1}) == ""
    monkeypatch.setattr(prompts, "MAX_WORK", 10)
    short = Rehearsal()
    assert [bool(short.problem("{{ item.a }}", {})) for _ in range(5)][-1] is False
