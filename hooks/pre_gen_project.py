"""Refuse answers that cannot give a working project.

Cookiecutter fills in the braces, then runs this file inside the new, empty project folder. A non-zero exit makes
cookiecutter delete that folder. Copier does not run it: there the same rules are the validators of the questions.
"""

import json
import sys

# The sentence of each rule, and "True" when the answers break it (`__invalid` of cookiecutter.json, in its order).
RULES: list[tuple[str, str]] = json.loads({{ cookiecutter.__invalid.items() | list | tojson | tojson }})


def main() -> int:
    """Print the first broken rule, in the order of the questions; return the exit code."""
    for sentence, broken in RULES:
        if broken == "True":
            print(f"error: {sentence}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
