"""The list of rules is complete and every rule has a test."""

import re
from pathlib import Path

from rules import RULES


def test_every_rule_has_a_test():
    texts = (path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    tested = {int(number) for text in texts for number in re.findall(r"^@rule\((\d+)\)$", text, re.MULTILINE)}
    assert tested == set(RULES)
