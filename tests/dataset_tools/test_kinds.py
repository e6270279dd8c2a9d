"""The table of raw data: every kind is complete, and reached by its own command and by the common one."""

import pytest

from dataset_tools import kinds
from dataset_tools.common import UserError


@pytest.mark.parametrize("name", list(kinds.MODULES))
def test_a_kind_has_its_options_and_those_of_every_kind(name, capsys):
    kind = kinds.load_kind(name)
    assert kind.tool == name
    for common in ("--out", "--user_k", "--max_bad_lines", "--encoder", "--quiet"):
        assert common in kind.parser().format_help()
    with pytest.raises(SystemExit) as caught:
        kinds.main([name, "--help"])
    assert caught.value.code == 0
    assert f"python -m dataset_tools.{name}" in capsys.readouterr().out


def test_the_common_command_shows_all_kinds(capsys):
    assert kinds.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in kinds.MODULES)
    with pytest.raises(UserError, match="no kind of data 'nonsense'; choose one of custom"):
        kinds.main(["nonsense"])
