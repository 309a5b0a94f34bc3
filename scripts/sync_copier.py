"""Write copier.yml from cookiecutter.json, so that the questions have one home.

Run it without arguments after a change of cookiecutter.json; `--check` only compares (exit 1 when they differ).

How one becomes the other:

* a public variable becomes a question, with its prompt, its choices and its default;
* a private one (`_reserved`, `__words`, `__english`, ...) becomes a hidden question, named without the underscores;
* each rule of `__invalid` becomes a validator of the last question that it names;
* a last hidden question, `cookiecutter`, holds all of them under the names that the files of the template use;
* `__skip` becomes `_exclude`, and `__refuse` is dropped: only cookiecutter needs it.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Written by scripts/sync_copier.py from cookiecutter.json: change that file, then run `make sync`.\n"
REFERENCE = re.compile(r"\bcookiecutter\.(\w+)")
MACHINERY = {"__prompts__", "__invalid", "__skip", "__refuse"}


class Block(str):
    """A text that YAML shows as a block, line by line."""


class Dumper(yaml.SafeDumper):
    """Plain YAML, with `Block` texts as blocks."""


Dumper.add_representer(Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def question_name(name: str) -> str:
    """Return the name of copier's question for a variable of cookiecutter."""
    return name.lstrip("_")


def as_copier(template: str) -> str:
    """Return a cookiecutter template with its variables named as copier's questions are."""
    return REFERENCE.sub(lambda found: question_name(found[1]), template)


def question(value: Any, prompt: Any) -> dict[str, Any]:
    """Return copier's question for a public variable."""
    text = prompt["__prompt__"] if isinstance(prompt, dict) else prompt
    asked: dict[str, Any] = {"type": "bool" if isinstance(value, bool) else "str", "help": text}
    if isinstance(value, list):
        asked["choices"] = {prompt[choice]: choice for choice in value}
        asked["default"] = value[0]
    else:
        asked["default"] = as_copier(value) if isinstance(value, str) else value
    return asked


def add_validators(questions: dict[str, Any], rules: dict[str, str], public: list[str]) -> None:
    """Give each rule to the last question that it names; the first broken rule of a question is the one shown."""
    for sentence, broken in rules.items():
        named = [name for name in REFERENCE.findall(broken) if name in public]
        owner = questions[max(named, key=public.index)]
        check = f"{{%- set broken -%}}{as_copier(broken)}{{%- endset -%}}"
        shown = f"{{%- if broken == 'True' and not ns.said -%}}{sentence}{{%- set ns.said = true -%}}{{%- endif -%}}"
        head = owner.get("validator", "{%- set ns = namespace(said=false) -%}")
        owner["validator"] = Block(f"{head}\n{check}\n{shown}")


def mapping(variables: dict[str, Any]) -> Block:
    """Return the template of the hidden question that holds every variable under cookiecutter's names."""
    pairs = ", ".join(f"'{name}': {question_name(name)}" for name in variables if name not in MACHINERY)
    lines = [f"{{%- set cookiecutter = {{{pairs}}} -%}}", "{%- set skip = dict() -%}"]
    for path, left_out in variables["__skip"].items():
        lines.append(
            f"{{%- set path -%}}{path}{{%- endset -%}}{{%- set out -%}}{left_out}{{%- endset -%}}"
            "{%- set _ = skip.update({path: out}) -%}"
        )
    lines += ["{%- set _ = cookiecutter.update({'__skip': skip}) -%}", "{{ cookiecutter | tojson }}"]
    return Block("\n".join(lines))


def build(variables: dict[str, Any]) -> str:
    """Return the text of copier.yml.

    Args:
        variables: what cookiecutter.json holds.
    """
    public = [name for name in variables if not name.startswith("_")]
    document: dict[str, Any] = {
        "_min_copier_version": "9.8.0",
        "_subdirectory": "{% raw %}{{cookiecutter.project_slug}}{% endraw %}",
        "_templates_suffix": "",
        "_answers_file": ".copier-answers.yml",
        "_envops": {"undefined": "jinja2.StrictUndefined", "keep_trailing_newline": True},
        "_exclude": [
            "{% for path, out in cookiecutter.__skip.items() if out == 'True' %}/{{ path }}\n{% endfor %}",
            "__pycache__",
            "*.py[co]",
            ".mypy_cache",
            ".ruff_cache",
            ".pytest_cache",
            ".hypothesis",
        ],
        "_message_after_copy": Block("Made {{ project_name }}. Next:\n  cd {{ _copier_conf.dst_path }}\n  make demo\n"),
    }
    questions: dict[str, Any] = {}
    for name, value in variables.items():
        if name in public:
            questions[name] = question(value, variables["__prompts__"][name])
        elif name not in MACHINERY:
            questions[question_name(name)] = {"type": "str", "when": False, "default": as_copier(value)}
    add_validators(questions, variables["__invalid"], public)
    questions["cookiecutter"] = {"type": "yaml", "when": False, "default": mapping(variables)}
    text = yaml.dump(document | questions, Dumper=Dumper, sort_keys=False, width=100_000, allow_unicode=True)
    return HEADER + text


def main() -> int:
    """Write or check copier.yml; return the exit code."""
    parser = argparse.ArgumentParser(description="Write copier.yml from cookiecutter.json.")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when copier.yml is out of date")
    check = parser.parse_args().check
    target = ROOT / "copier.yml"
    text = build(json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8")))
    if check:
        if target.is_file() and target.read_text(encoding="utf-8") == text:
            return 0
        print("error: copier.yml is out of date: run `make sync`", file=sys.stderr)
        return 1
    target.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
