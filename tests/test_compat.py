import configparser
import importlib
import os
import pickle
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from recbole_unisrec import compat
from recbole_unisrec.compat import safe_torch_load
from recbole_unisrec.errors import UserError


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"state_dict": {}, "config": Evil()}, "evil.pth", pickle_protocol=4, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(UserError, match=r"posix\.system|nt\.system"):
        safe_torch_load("evil.pth")
    assert not (tmp_path / "pwned").exists()


def test_weights_load(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64)}
    torch.save({"state_dict": state}, tmp_path / "x.pth", pickle_protocol=4)
    found = safe_torch_load(tmp_path / "x.pth")["state_dict"]
    assert torch.equal(found["a"], state["a"])
    assert torch.equal(found["b"], state["b"])


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(1)[:3]])
def test_a_torn_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match="cannot load"):
        safe_torch_load(tmp_path / "x.pth")


def test_the_wheel_holds_every_package() -> None:
    root = Path(__file__).resolve().parents[1]
    settings = configparser.ConfigParser()
    settings.read(root / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    found = {".".join(p.parent.relative_to(root).parts) for p in root.glob("[rd]*/**/__init__.py")}
    assert listed == found | {"recbole_unisrec.props"}


def test_anomaly_detection_is_off_even_if_recboles_models_came_first() -> None:
    importlib.import_module("recbole.model.sequential_recommender.sine")
    torch.autograd.set_detect_anomaly(True)  # as that file does when it is imported before us
    compat._patch_anomaly()
    assert not torch.is_anomaly_enabled()


def test_reports_reach_ray_where_somebody_has_imported_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.quick_start import quick_start

    reported: dict[str, float] = {}
    monkeypatch.delitem(sys.modules, "ray.tune", raising=False)
    quick_start.tune.report(ndcg=0.7)  # nobody to tell
    ray = types.SimpleNamespace(report=lambda **metrics: reported.update(metrics))
    monkeypatch.setitem(sys.modules, "ray.tune", ray)  # type: ignore[arg-type]
    quick_start.tune.report(ndcg=0.5)
    assert reported == {"ndcg": 0.5}


def test_a_folder_that_another_process_has_just_made_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compat.apply()
    kept = [m for name, m in sys.modules.items() if name.startswith("recbole.") and "ensure_dir" in vars(m)]
    assert {m.__name__ for m in kept} >= {"recbole.utils.logger", "recbole.trainer.trainer", "recbole.data.utils"}
    (tmp_path / "log").mkdir()
    monkeypatch.setattr(os.path, "exists", lambda path: False)  # what the slower process still sees
    for module in kept:
        vars(module)["ensure_dir"](str(tmp_path / "log"))


def test_what_pandas_says_of_recboles_code_reaches_nobody_and_the_rest_does() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        compat.apply()
        for module in ("recbole.data.dataset.dataset", "recbole_unisrec.data.dataset", "mine"):
            warnings.warn_explicit(f"from {module}", FutureWarning, "file.py", 1, module=module)
    assert [str(warning.message) for warning in told] == ["from recbole_unisrec.data.dataset", "from mine"]
