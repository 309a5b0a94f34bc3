"""Bad answers are refused by both engines with the same sentence; whatever is accepted gives valid names."""

import copy
import keyword
import re
import sys
from functools import cache

import pytest
import yaml
from cookiecutter.prompt import prompt_for_config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment
from support import ROOT, TEMPLATE, VARIABLES, run_tool

ENGINE = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
COPIER = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
RULES = list(VARIABLES["__invalid"])
NAMES = ("project_name", "project_slug", "package_name")
RESERVED = set(VARIABLES["_reserved"].split())


def sentence(start: str) -> str:
    """Return the one rule that begins with `start`."""
    (found,) = [rule for rule in RULES if rule.startswith(start)]
    return found


NAME = "project_name must be"
SLUG, SLUG_TAKEN = "project_slug must hold", "project_slug is a word"
PACKAGE, PACKAGE_TAKEN = "package_name must hold", "package_name is a word"

REFUSED = [
    ("project_name", "", NAME),
    ("project_name", "x" * 300, NAME),
    ("project_name", "--- !!! ---", "project_name must hold"),
    ("project_name", "🚲", NAME),
    ("project_name", "🚲 demand", NAME),
    ("project_name", "two\nlines", NAME),
    ("project_name", "bell\a", NAME),
    ("project_name", "back\\slash", NAME),
    ("project_name", 'quotes """', NAME),
    ("project_name", " space before", NAME),
    ("project_slug", "", SLUG),
    ("project_slug", "a/b", SLUG),
    ("project_slug", "../outside", SLUG),
    ("project_slug", "/absolute", SLUG),
    ("project_slug", "a\\b", SLUG),
    ("project_slug", ".", SLUG),
    ("project_slug", "Upper", SLUG),
    ("project_slug", "1st", SLUG),
    ("project_slug", "two--dashes", SLUG),
    ("project_slug", "x" * 51, SLUG),
    ("project_slug", "été", SLUG),
    ("project_slug", "con", SLUG_TAKEN),
    ("project_slug", "lpt1", SLUG_TAKEN),
    ("project_slug", "scikit-learn", SLUG_TAKEN),
    ("package_name", "", PACKAGE),
    ("package_name", "with-dash", PACKAGE),
    ("package_name", "a/b", PACKAGE),
    ("package_name", "_private", PACKAGE),
    ("package_name", "class", PACKAGE_TAKEN),
    ("package_name", "test", PACKAGE_TAKEN),
    ("package_name", "project", PACKAGE_TAKEN),
    ("package_name", "json", PACKAGE_TAKEN),
    ("package_name", "numpy", PACKAGE_TAKEN),
    ("package_name", "polars", PACKAGE_TAKEN),
    ("package_name", "nul", PACKAGE_TAKEN),
    ("description", "", "description must"),
    ("description", "tab\tinside", "description must"),
    ("description", "x" * 201, "description must"),
    ("organization", "a\\n", "organization must"),
    ("author", "line\rfeed", "author must"),
    ("email", "nobody", "email must"),
    ("email", "a b@example.com", "email must"),
    ("email", '"x"@example.com', "email must"),
]
BY_COMMAND = [
    ("project_name", ""),
    ("project_name", "🚲"),
    ("project_name", "--- !!! ---"),
    ("project_slug", "a/b"),
    ("project_slug", "../outside"),
    ("project_slug", "con"),
    ("package_name", "class"),
    ("package_name", "project"),
    ("project_name", "x" * 300),
    ("description", "two\nlines"),
]


def ask_cookiecutter(answers: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return the answers as cookiecutter completes them, and the sentence of the first broken rule."""
    variables = copy.deepcopy({name: value for name, value in VARIABLES.items() if name != "__skip"})
    if answers.keys() == {"project_name"}:  # rules about other answers have nothing to say: leave them out, for speed
        rules = variables["__invalid"].items()
        variables["__invalid"] = {rule: test for rule, test in rules if rule.startswith(NAMES)}
    for name, value in answers.items():
        # What a person types is not rendered; what stands in cookiecutter.json is: keep it from being one.
        variables[name] = "{{ " + repr(value) + " }}"
    said = prompt_for_config({"cookiecutter": variables}, no_input=True)
    broken = [rule for rule, state in said["__invalid"].items() if state == "True"]
    return {name: said[name] for name in NAMES}, (broken or [""])[0]


@cache
def compiled(text: str) -> Template:
    """Return copier's template of a default or of a validator."""
    return ENGINE.from_string(text)


def ask_copier(answers: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return the answers as copier completes them, and the sentence of the first validator that objects."""
    known: dict[str, str] = {}
    for name, question in COPIER.items():
        if name.startswith("_") or name == "cookiecutter":
            continue
        known[name] = answers[name] if name in answers else compiled(question["default"]).render(known)
        if objection := compiled(question.get("validator", "")).render(known):
            return known, objection
    return known, ""


@pytest.mark.parametrize(("name", "value", "start"), REFUSED)
def test_a_bad_answer_is_refused_with_the_same_sentence(name, value, start):
    assert ask_copier({name: value})[1] == sentence(start)
    assert ask_cookiecutter({name: value})[1] == sentence(start)


@pytest.mark.parametrize("tool", ["cookiecutter", "copier"])
@pytest.mark.parametrize(("name", "value"), BY_COMMAND)
def test_the_command_prints_the_sentence_and_leaves_nothing(template, tmp_path, tool, name, value):
    (start,) = [row[2] for row in REFUSED if row[:2] == (name, value)] or ["description must"]
    work = tmp_path / "work"
    work.mkdir()
    if tool == "cookiecutter":
        done = run_tool(tool, str(template), "--no-input", f"{name}={value}", cwd=work)
    else:
        done = run_tool(tool, "copy", "--defaults", "--data", f"{name}={value}", str(template), "made", cwd=work)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert sentence(start) in said
    assert [rule for rule in RULES if rule in said] == [sentence(start)]
    assert list(tmp_path.rglob("*")) == [work]


@pytest.mark.parametrize("tool", ["cookiecutter", "copier"])
def test_an_unknown_choice_is_refused(template, tmp_path, tool):
    arguments = {
        "cookiecutter": [str(template), "--no-input", "license=GPL"],
        "copier": ["copy", "--defaults", "--data", "license=GPL", str(template), "made"],
    }[tool]
    done = run_tool(tool, *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


def expect_valid(answers: dict[str, str]) -> None:
    """Expect a slug and a package that work on every system."""
    slug, package = answers["project_slug"], answers["package_name"]
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug)
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", package)
    assert len(slug) <= 50
    assert package == slug.replace("-", "_")
    assert not keyword.iskeyword(package)
    assert package not in sys.stdlib_module_names
    assert package not in RESERVED


names = st.one_of(
    st.text(max_size=120),
    st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=60),
    st.sampled_from(sorted(RESERVED)),
    st.from_regex(r"[ -~]{1,100}", fullmatch=True),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(names)
@example("2024 forecast")
@example("Prévision de la demande")
@example("e\u0301te\u0301")
@example("a - b -- c")
@example("x" * 100)
@example("x" * 39 + " y")
@example("Class")
@example("COM1")
@example("需求预测")
@example("İstanbul")
@example("²³")
@example("{{ 7 * 7 }}")
def test_a_derived_name_is_valid_or_the_project_name_is_refused(name):
    answers, refused = ask_cookiecutter({"project_name": name})
    others, also_refused = ask_copier({"project_name": name})
    assert refused == also_refused
    if refused:
        assert refused.startswith("project_name")
    else:
        expect_valid(answers)
        assert {key: others[key] for key in answers} == answers


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Bike Demand", "bike-demand"),
        ("2024 forecast", "project-2024-forecast"),
        ("Prévision de l'été", "prevision-de-lete"),
        ("Straße & Œuvre", "strasse-oeuvre"),
        ("class", "class-model"),
        ("NumPy", "numpy-model"),
        ("aux", "aux-model"),
        ("  a --  b".strip(), "a-b"),
        ("需求预测", "tdsp-project"),
        ("C++", "c"),
    ],
)
def test_slugs_are_what_a_person_expects(name, slug):
    assert ask_cookiecutter({"project_name": name})[0]["project_slug"] == slug


def test_every_library_and_module_is_a_reserved_word():
    lock = (ROOT / TEMPLATE / "requirements-extras.lock").read_text()
    libraries = {re.sub(r"[-.]+", "_", name.lower()) for name in re.findall(r"^([\w.-]+)==", lock, re.M)}
    modules = {name for name in sys.stdlib_module_names if name.islower() and not name.startswith("_")}
    words = {word for word in keyword.kwlist if word.islower()}
    missing = sorted((libraries | modules | words) - RESERVED)
    assert missing == [], "add these to _reserved in cookiecutter.json, then run `make sync`"
