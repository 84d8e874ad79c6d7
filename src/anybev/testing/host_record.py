"""Runs every family and writes down what it calls: ``python -m anybev.testing.host_record``."""

from collections.abc import Mapping
from pathlib import Path

import anybev
from anybev import patches
from anybev.testing import host_calls
from anybev.testing.host_families import FAMILIES
from anybev.testing.host_runs import run

Names = Mapping[str, tuple[str, ...]]


def _entry(key: str, names: tuple[str, ...]) -> str:
    quoted = [f'"{name}",' for name in names]
    if len(names) < 2:
        return f'    "{key}": ({"".join(quoted)}),\n'
    lines = "".join(f"        {name}\n" for name in quoted)
    return f'    "{key}": (\n{lines}    ),\n'


def module_text(calls: Names, layers: Names) -> str:
    """Source of ``host_calls.py``, as the formatter has it."""
    tables = {
        "CALLS": ("Names of ``mmcv._ext`` called by loss, backward and predict.", calls),
        "LAYERS": ("Classes of sparse layers in the model.", layers),
    }
    parts = [
        f"#: {what}\n{name}: dict[str, tuple[str, ...]] = {{\n"
        f"{''.join(_entry(key, table[key]) for key in sorted(table))}}}\n"
        for name, (what, table) in tables.items()
    ]
    return f'"""{host_calls.__doc__}"""\n\n{"".join(parts)}'


def main() -> None:
    """Write ``host_calls.py`` beside this file; docs/host.md then has to follow."""
    patches.apply()
    runs = {name: run(name, family) for name, family in FAMILIES.items() if family.scene}
    file = Path(anybev.__file__).parent / "testing" / "host_calls.py"
    calls = {name: done.calls for name, done in runs.items()}
    file.write_text(module_text(calls, {name: done.sparse for name, done in runs.items()}))
    print(f"wrote {file}; docs/host.md takes host_families.families_table()")


if __name__ == "__main__":
    main()
