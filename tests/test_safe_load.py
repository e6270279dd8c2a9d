"""Only tensors, plain values and RecBole's configuration come out of a checkpoint."""

from __future__ import annotations

import collections
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.utils.enum_type import ModelType

from recbole_unisrec.errors import UserError
from recbole_unisrec.safe_load import safe_torch_load

PLAIN: dict[str, Any] = {
    "numbers": [1, 2.5, 10**30, None, True, 1 + 2j],
    "texts": ("a", "ü\u2028", b"\x00\xff", bytearray(b"ab")),
    "sets": {frozenset({1}), frozenset({2, 3})},
    "score": np.float64(0.25),
    "count": np.int64(7),
    "array": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.eye(3, dtype=np.float32)),
    "none": np.zeros((0, 4)),
    "device": torch.device("cpu"),
    "size": torch.Size([2, 3]),
    "dtype": torch.bfloat16,
    "kind": ModelType.SEQUENTIAL,
    "default": collections.defaultdict(list, {"a": [1]}),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_come_back(tmp_path: Path, protocol: int, zipped: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    shared = torch.arange(12.0).view(3, 4)
    saved = {
        **PLAIN, "state_dict": model.state_dict(), "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2), requires_grad=False), "rows": shared, "columns": shared.T,
        "half": torch.ones(2, dtype=torch.float16), "one": torch.tensor(3),
    }  # fmt: skip
    torch.save(saved, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = safe_torch_load(tmp_path / "x.pth")
    assert list(found) == list(saved)
    for name in PLAIN:
        assert type(found[name]) is type(PLAIN[name])
        if isinstance(PLAIN[name], np.ndarray):
            assert found[name].dtype == pickle.loads(pickle.dumps(PLAIN[name], protocol)).dtype
            assert np.array_equal(found[name], PLAIN[name])
        else:
            assert found[name] == PLAIN[name]
    for name, tensor in saved["state_dict"].items():
        assert torch.equal(found["state_dict"][name], tensor)
    assert found["state_dict"]._metadata == saved["state_dict"]._metadata
    assert found["optimizer"] == saved["optimizer"]
    assert isinstance(found["parameter"], torch.nn.Parameter)
    assert torch.equal(found["columns"], shared.T)
    assert found["rows"].untyped_storage().data_ptr() == found["columns"].untyped_storage().data_ptr()


def test_a_configuration_of_recbole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["x"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = Config(model="SASRec", dataset="ml-100k", config_dict={"seed": 5, "train_neg_sample_args": None})
    torch.save({"config": config}, tmp_path / "x.pth", pickle_protocol=4)
    found = safe_torch_load(tmp_path / "x.pth")["config"]
    assert type(found) is Config
    assert found.final_config_dict == config.final_config_dict
    assert found.model_class is config.model_class
    assert found["seed"] == 5
    assert found["MODEL_TYPE"] is ModelType.SEQUENTIAL


# --- what is refused


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


class Named:
    """Pickles as a name, whose inside can be set."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> str:
        return self.name


def written(path: Path, code: bytes) -> Path:
    """A checkpoint with a pickle of one's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", code)
        archive.writestr("x/version", "3\n")
        archive.writestr("x/byteorder", "little")
    return path


def glob(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


TEXT = b"X\x01\x00\x00\x00a"
BAD: list[tuple[bytes, str]] = [
    # sets attributes of a class: BUILD with a state for slots
    (glob("recbole.config.configurator", "Config") + b"N}" + TEXT + TEXT + b"s\x86b.", r"recbole.config.configurator.Config"),
    (glob("recbole_unisrec.model.unisrec", "UniSRec") + b"N}" + TEXT + TEXT + b"s\x86b.", r"recbole_unisrec.model.unisrec.UniSRec"),
    (glob("collections", "OrderedDict") + b"N}" + TEXT + TEXT + b"s\x86b.", r"collections.OrderedDict"),
    # runs a constructor
    (glob("recbole.config.configurator", "Config") + TEXT + b"\x85R.", r"calls recbole.config.configurator.Config"),
    (glob("recbole_unisrec.model.unisrec", "UniSRec") + b")R.", r"calls recbole_unisrec.model.unisrec.UniSRec"),
    (glob("recbole_unisrec.model.unisrec", "UniSRec") + b")\x81.", r"makes a recbole_unisrec.model.unisrec.UniSRec"),
    (glob("recbole.config.configurator", "Config") + TEXT + b"\x85\x81.", r"makes a recbole.config.configurator.Config"),
    (b"(irecbole.config.configurator\nConfig\n.", r"in an old way"),
    (b"(" + glob("recbole.config.configurator", "Config") + b"o.", r"in an old way"),
    (glob("recbole.config.configurator", "Config") + b")}\x92.", r"in an old way"),
    # a method of the configuration, hidden by a value
    (glob("recbole.config.configurator", "Config") + b")\x81}X\x0b\x00\x00\x00__getitem__" + TEXT + b"sb.", "__getitem__"),
    # a class that is no model, as the model of a configuration
    (glob("recbole.config.configurator", "Config") + b")\x81}X\x0b\x00\x00\x00model_class"
     + glob("recbole.model.abstract_recommender", "np") + b"sb.", "recbole.model.abstract_recommender.np"),
    # names
    (glob("os", "system") + TEXT + b"\x85R.", r"os.system"),
    (glob("builtins", "eval") + TEXT + b"\x85R.", r"builtins.eval"),
    (glob("builtins", "getattr") + b".", r"builtins.getattr"),
    (glob("torch", "load") + TEXT + b"\x85R.", r"torch.load"),
    (glob("torch.hub", "load") + TEXT + b"\x85R.", r"torch.hub.load"),
    (glob("numpy", "load") + TEXT + b"\x85R.", r"numpy.load"),
    (glob("recbole.model.loss", "torch.load") + TEXT + b"\x85R.", r"recbole.model.loss.torch.load"),
    (glob("recbole.utils.enum_type", "Enum") + TEXT + b"\x85R.", r"recbole.utils.enum_type.Enum"),
    (glob("recbole.utils.enum_type", "ModelType") + TEXT + b"]\x86R.", r"ModelType"),
    (glob("recbole.utils.enum_type", "ModelType") + b"K\x63\x85R.", r"ModelType"),
    (glob("yaml.loader", "FullLoader") + b".", r"holds yaml.loader.FullLoader"),
    (b"]" + glob("recbole.model.loss", "BPRLoss") + b"a.", r"holds recbole.model.loss.BPRLoss"),
    (glob("collections", "defaultdict") + glob("recbole.model.loss", "BPRLoss") + b"\x85R.", r"recbole.model.loss.BPRLoss"),
    # values that are no plain ones
    (glob("numpy", "dtype") + b"X\x01\x00\x00\x00O\x85R.", r"'O'"),
    (glob("numpy", "dtype") + b"X\x02\x00\x00\x00zz" + b"\x85R.", r"numpy.dtype"),
    (glob("_codecs", "encode") + TEXT + b"X\x03\x00\x00\x00rot\x86R.", r"'rot'"),
    (glob("torch", "Size") + b")R}" + TEXT + TEXT + b"sb.", r"Size"),
    (b"]" + b"}" + TEXT + TEXT + b"sb.", r"a list"),
    (glob("torch", "device") + b"X\x03\x00\x00\x00cpu\x85R" + TEXT + TEXT + b"s.", r"a device"),
    (TEXT + b"Q.", r"beside tensors"),
    (b"\x82\x01.", r"in an old way"),
    (b"R.", r"cannot load"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "message"), BAD, ids=range(len(BAD)))
def test_anything_else_is_refused_by_name(tmp_path: Path, code: bytes, message: str) -> None:
    before = dict(vars(Config)), dict(vars(collections.OrderedDict))
    with pytest.raises(UserError, match=message) as raised:
        safe_torch_load(written(tmp_path / "x.pth", b"\x80\x02" + code))
    assert str(raised.value).count("cannot load") == 1
    assert (dict(vars(Config)), dict(vars(collections.OrderedDict))) == before


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_of_python_are_refused(tmp_path: Path, zipped: bool) -> None:
    for bad, message in (
        (np.array([{}, None], dtype=object), "numpy|objects"),
        (Calls(collections.OrderedDict, [("a", 1)], state={"items": 5}), "OrderedDict"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (torch.sparse_coo_tensor([[0]], [1.0], (2,)), "sparse"),
        (Path("x"), "pathlib"),
        (print, "builtins.print"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save({"x": bad}, tmp_path / "x.pth", pickle_protocol=4, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=message):
            safe_torch_load(tmp_path / "x.pth")


def test_a_tensor_beyond_its_bytes_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.arange(4.0)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data[:8] if name.endswith("data/0") else data)
    with pytest.raises(UserError, match="less than the 4 numbers"):
        safe_torch_load(tmp_path / "y.pth")


def test_a_program_of_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pth"))
    with pytest.raises(UserError, match="TorchScript"):
        safe_torch_load(tmp_path / "x.pth")


# --- checksums


def test_a_flipped_byte_of_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    state = {f"layer.{i}": torch.randn(64, generator=torch.Generator().manual_seed(i)) for i in range(4)}
    torch.save({"state_dict": state}, tmp_path / "x.pth", pickle_protocol=4)
    whole = (tmp_path / "x.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        places = {}
        for info in archive.infolist():
            name_length, extra_length = struct.unpack("<HH", whole[info.header_offset + 26 : info.header_offset + 30])
            places[info.filename] = info.header_offset + 30 + name_length + extra_length, info.file_size
    assert sum(name.partition("/")[2].startswith("data/") for name in places) == 4
    for name, (start, size) in places.items():
        changed = bytearray(whole)
        changed[start + size // 2] ^= 0x10
        (tmp_path / "y.pth").write_bytes(changed)
        with pytest.raises(UserError, match="checksum is another") as raised:
            safe_torch_load(tmp_path / "y.pth")
        assert name in str(raised.value)


def test_an_absent_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        safe_torch_load(tmp_path / "absent.pth")
    assert pickle.loads(pickle.dumps(PLAIN["numbers"])) == PLAIN["numbers"]  # Python's own is as it was
