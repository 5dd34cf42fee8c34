"""Writes the golden files that are missing: ``python -m tests.golden.make``.

A message that is new gets version 1; one that is written otherwise today than its last version gets the next one.
Nothing that is there is ever changed.
"""

from __future__ import annotations

import msgspec

from tests.golden.samples import FOLDERS, HERE, encoded, sample, versions


def make() -> list[str]:
    """The names of the files that were written."""
    written = []
    for folder, kinds in FOLDERS.items():
        (HERE / folder).mkdir(exist_ok=True)
        for name, kind in kinds.items():
            today, known = encoded(sample(kind)), versions(folder, name)
            if known and msgspec.json.decode(known[-1].read_bytes()) == today:
                continue
            number = int(known[-1].name.split(".")[1]) + 1 if known else 1
            path = HERE / folder / f"{name}.{number}.json"
            with path.open("x", encoding="utf-8") as file:
                file.write(msgspec.json.format(msgspec.json.encode(today), indent=2).decode() + "\n")
            written.append(f"{folder}/{path.name}")
    return written


if __name__ == "__main__":
    print("\n".join(make()) or "nothing is missing")
