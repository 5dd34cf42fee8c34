"""What the demo works on: a small repository with a bug, the agents' transcripts, and the settings that name them.

The agents are scripted, everything else is real: the loop, the tools, the workspaces, the gates, the pull requests.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

SLOW_SECONDS = 2
TEST_COMMAND = "python3 -m unittest -q"

CART = '''"""A shopping cart: lines of (name, price in cents, quantity)."""


def total(lines):
    """What all the lines cost together, in cents."""
    return sum(price for name, price, quantity in lines)
'''

TEST_CART = """import unittest

import cart


class Total(unittest.TestCase):
    def test_counts_quantities(self):
        self.assertEqual(700, cart.total([("tea", 300, 1), ("cup", 200, 2)]))
"""

DISCOUNT = '''

def discounted(lines, percent):
    """The total less ``percent``, rounded down to whole cents."""
    return total(lines) * (100 - percent) // 100
'''

TEST_DISCOUNT = """import unittest

import cart


class Discount(unittest.TestCase):
    def test_takes_a_share_off(self):
        self.assertEqual(630, cart.discounted([("tea", 300, 1), ("cup", 200, 2)], 10))
"""

RECEIPT = '''"""A cart as text."""

import cart


def receipt(lines):
    """One line for each position, then the total, in euros."""
    rows = [f"{quantity} x {name}" for name, price, quantity in lines]
    return "\\n".join([*rows, f"total {cart.total(lines) / 100} EUR"])
'''

TEST_RECEIPT = """import unittest

import receipt


class Receipt(unittest.TestCase):
    def test_ends_with_the_total(self):
        self.assertEqual("1 x tea\\ntotal 3.00 EUR", receipt.receipt([("tea", 300, 1)]))
"""

SETTINGS = """\
# The demo's agents play back transcripts; see `cairn up` in an empty directory for an example with real models.
[agents.mender]
kind = "model"
provider = "scripted"
transcript = "transcripts/mender.json"

[agents.builder]
kind = "model"
provider = "scripted"
transcript = "transcripts/builder.json"

[agents.printer]
kind = "model"
provider = "scripted"
transcript = "transcripts/printer.json"
"""


def write(directory: Path) -> Path:
    """Make everything in ``directory``; answer the repository."""
    (directory / "transcripts").mkdir(parents=True)
    (directory / "cairn.toml").write_text(SETTINGS, encoding="utf-8")
    for name, transcript in _transcripts(executions(directory)).items():
        path = directory / "transcripts" / f"{name}.json"
        path.write_text(json.dumps(transcript, indent=2), encoding="utf-8")
    repository = directory / "shop"
    repository.mkdir()
    for name, text in {"cart.py": CART, "test_cart.py": TEST_CART, ".gitignore": "__pycache__/\n"}.items():
        (repository / name).write_text(text, encoding="utf-8")
    for command in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        ("-c", "user.name=Cairn demo", "-c", "user.email=demo@localhost", "commit", "-q", "-m", "A cart with a bug"),
    ):
        subprocess.run(("git", *command), cwd=repository, check=True)
    return repository


def executions(directory: Path) -> Path:
    """The file, outside every workspace, in which the slow commands count how often they were executed."""
    return directory / "executions.log"


def _transcripts(log: Path) -> dict[str, Any]:
    def slowly(name: str) -> dict[str, Any]:
        return _shell(f"echo {name} >> '{log}'; echo testing …; sleep {SLOW_SECONDS}; {TEST_COMMAND}")

    mender = [
        _turn("I look at the code first.", _call("read_file", path="cart.py")),
        _turn("And at what the tests say.", slowly("mender")),
        _turn(
            "The quantity is ignored.",
            _call(
                "edit_file",
                path="cart.py",
                old="sum(price for name, price, quantity in lines)",
                new="sum(price * quantity for name, price, quantity in lines)",
            ),
        ),
        _turn("Does it hold?", _shell(TEST_COMMAND)),
        _turn("", _call("submit", summary="The total multiplies each price by its quantity.")),
    ]
    builder = [
        _turn("I need the cart as it is now.", _call("read_file", path="cart.py")),
        _turn("I add the function …", _shell(f"cat >> cart.py <<'END'\n{DISCOUNT}END")),
        _turn("… and a test for it.", _call("write_file", path="test_discount.py", content=TEST_DISCOUNT)),
        _turn("Now all tests.", slowly("builder")),
        _turn("", _call("submit", summary="A discount in percent, with a test.")),
    ]
    careless = [
        _turn(
            "A receipt and its test.",
            _call("write_file", path="receipt.py", content=RECEIPT),
            _call("write_file", path="test_receipt.py", content=TEST_RECEIPT),
        ),
        _turn("", _call("submit", summary="A receipt. I did not run the tests.")),
    ]
    careful = [
        _turn("The gate's findings say that the cents are missing.", _call("read_file", path="receipt.py")),
        _turn(
            "",
            _call(
                "edit_file",
                path="receipt.py",
                old="{cart.total(lines) / 100} EUR",
                new="{cart.total(lines) / 100:.2f} EUR",
            ),
        ),
        _turn("", _shell(TEST_COMMAND)),
        _turn("", _call("submit", summary="A receipt with two decimals; the tests pass.")),
    ]
    return {
        "mender": {"turns": mender},
        "builder": {"turns": builder},
        "printer": {"turns": careful, "attempts": {"1": careless}},
    }


def _turn(text: str, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "calls": list(calls)}


def _call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": tool, "arguments": arguments}


def _shell(command: str) -> dict[str, Any]:
    return _call("shell", command=command)
