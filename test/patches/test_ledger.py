"""The ledger itself: complete, honest about its targets, and clear about mistakes."""

from pathlib import Path

import pytest

from anybev.patches import targets
from anybev.patches.ledger import LEDGER, read_ledger

GOOD = """
[[patch]]
id = "mmcv-a"
target = "mmcv.ops.a:f"
file = "patch_a"
package = "mmcv"
versions = ">=2"
why = "w"
upstream = "u"
remove_when = "r"
required = true
sha256 = "{}"
""".format("0" * 64)


def test_every_entry_has_its_factory_and_says_why() -> None:
    for entry in read_ledger():
        assert callable(targets.factory(entry)), entry.id
        assert entry.id.startswith(entry.package), entry.id
        assert entry.upstream.startswith("https://github.com/"), entry.id
        assert min(len(entry.why), len(entry.remove_when)) > 5, entry.id
        assert entry.versions, entry.id


def test_every_file_of_patches_is_in_the_ledger() -> None:
    files = {file.stem for file in (LEDGER.parent / "host").glob("patch_*.py")}
    assert files == {entry.file for entry in read_ledger()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("why =", "because ="), "keys must be those of an entry, got \\['because'\\]"),
        (('why = "w"\n', ""), "missing 1 required keyword-only argument: 'why'"),
        (("required = true", 'required = "yes"'), "required must be of type .*bool.*, got 'yes'"),
        (('package = "mmcv"', 'package = "numpy"'), "package one of .* got 'function' and 'numpy'"),
        (('">=2"', '"2.x"'), "versions must be a version range, got '2.x'"),
        (("mmcv.ops.a:f", "mmcv.ops.a.f"), "needs target module:attribute and its sha256"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    file = tmp_path / "ledger.toml"
    file.write_text(GOOD.replace(*change))
    with pytest.raises(ValueError, match=message):
        read_ledger(file)


def test_an_id_is_used_once(tmp_path: Path) -> None:
    file = tmp_path / "ledger.toml"
    file.write_text(GOOD + GOOD)
    with pytest.raises(ValueError, match=r"id must be unique, got \['mmcv-a'\] repeatedly"):
        read_ledger(file)
