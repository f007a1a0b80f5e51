"""Policies of other libraries: the same outputs as the original's, nothing run, nothing guessed."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.formats import archives
from epvf.policies.formats.networks import Told
from epvf.policies.formats.registry import import_policy, load_policy
from epvf.policies.layers import ON_HOST, forward

FOREIGN = Path(__file__).resolve().parents[2] / "fixtures" / "foreign"
EXPECTED = np.load(FOREIGN / "expected.npz")
TOLERANCE = 1e-5

CASES = [
    ("sb3_ppo.zip", "sb3_ppo_unnormalised", Told("p"), "3-8-6-1 tanh clip", 2.0),
    ("sb3_ppo.zip", "sb3_ppo", Told(normaliser=FOREIGN / "sb3_vecnormalize.pkl"), "", 2.0),
    ("sb3_sac.zip", "sb3_sac", Told(), "3-8-6-1 relu tanh", 1.0),
    ("sb3_td3.zip", "sb3_td3", Told(), "3-8-6-1 relu tanh", 1.0),
    ("sb3_dqn.zip", "sb3_dqn", Told(), "4-8-6-2 relu argmax", 1.0),
    ("sb3_ppo_discrete.zip", "sb3_ppo_discrete", Told(), "4-8-2 elu argmax", 1.0),
    ("sbx_ppo.zip", "sbx_ppo", Told(), "3-8-6-1 tanh clip", 2.0),
    ("sbx_sac.zip", "sbx_sac", Told(), "3-8-6-1 relu tanh", 1.0),
    ("rsl_rl.pt", "rsl_rl", Told(activation="elu"), "5-8-6-3 elu clip", 1.0),
    ("rsl_rl_2.pt", "rsl_rl_2", Told(activation="elu"), "5-8-6-3 elu clip", 1.0),
    ("cleanrl_ppo.cleanrl_model", "cleanrl_ppo", Told(), "5-8-6-3 tanh clip", 1.0),
    ("legacy.pt", "cleanrl_ppo", Told(), "5-8-6-3 tanh clip", 1.0),
    ("cleanrl_ppo_discrete.cleanrl_model", "cleanrl_ppo_discrete", Told(), "", 1.0),
    ("cleanrl_sac.cleanrl_model", "cleanrl_sac", Told(), "5-8-6-3 relu tanh", 1.0),
    ("cleanrl_dqn.cleanrl_model", "cleanrl_dqn", Told(), "5-8-6-3 relu argmax", 1.0),
    ("brax_ppo.params", "brax_ppo", Told(activation="elu"), "5-8-6-3 elu tanh", 1.0),
]
"""File, what is expected, what is told of it, the architecture, how large an action of 1 was."""


@pytest.mark.parametrize(("file", "name", "told", "described", "scale"), CASES)
def test_the_outputs_are_those_of_the_original_library(file, name, told, described, scale):
    saved = import_policy(FOREIGN / file, told)
    layers = saved.policy.unravel(saved.theta)
    activate = ON_HOST[saved.policy.activation]
    observations = EXPECTED[f"{name}/observations"]
    found = np.stack([forward(layers, x, activate) for x in observations])
    wanted = EXPECTED[f"{name}/outputs"]
    if name == "sb3_ppo_discrete":  # which normalises its logits
        found = found - np.log(np.exp(found).sum(axis=1, keepdims=True))
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(scale * found, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    assert described in saved.policy.describe()
    assert saved.task == told.task and saved.metadata["imported_from"] == file


def test_what_a_file_does_not_tell_has_to_be_told():
    for file in ("rsl_rl.pt", "brax_ppo.params"):
        with pytest.raises(UserError, match=r"does not tell its activation: epvf policy import"):
            load_policy(FOREIGN / file)


def test_what_is_told_may_not_contradict_the_file():
    with pytest.raises(UserError, match="says that its activation is 'relu', not 'tanh'"):
        import_policy(FOREIGN / "sb3_sac.zip", Told(activation="tanh"))
    with pytest.raises(UserError, match="unknown activation"):
        import_policy(FOREIGN / "rsl_rl.pt", Told(activation="swish"))


class Harm:
    """What runs a command when it is unpickled."""

    def __reduce__(self):
        import os

        return (os.system, ("touch harmed",))


def _archive(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def _with_harm(path: Path) -> Path:
    """An archive of torch's whose pickle is another."""
    return _archive(path, {"a/data.pkl": pickle.dumps({"actor_mean.0.weight": Harm()})})


def _sb3(path: Path, **changed) -> Path:
    """`sb3_ppo.zip` with other entries."""
    with zipfile.ZipFile(FOREIGN / "sb3_ppo.zip") as archive:
        entries = {name: archive.read(name) for name in ("data", "policy.pth")}
    return _archive(path, entries | changed)


def test_a_pickle_with_code_is_refused_by_name_and_not_run(workplace):
    inner = _with_harm(Path("inner.pt")).read_bytes()
    files = [
        _with_harm(Path("harm.pt")),
        _sb3(Path("harm.zip"), **{"policy.pth": inner}),
        Path("harm.params"),
        Path("legacy.pt"),
    ]
    files[2].write_bytes(pickle.dumps((Harm(), {}, {})))
    files[3].write_bytes(pickle.dumps(Harm()))
    for file in files:
        with pytest.raises(UserError, match=r"names 'posix.system'.* nothing was run"):
            load_policy(file)
    with pytest.raises(UserError, match=r"names 'posix.system'"):
        Path("norm.pkl").write_bytes(pickle.dumps(Harm()))
        import_policy(FOREIGN / "sb3_ppo.zip", Told(normaliser=Path("norm.pkl")))
    import base64

    data = {
        "action_space": {":type:": "gymnasium.spaces.discrete.Discrete"},
        "policy": {":serialized:": base64.b64encode(pickle.dumps(Harm())).decode()},
    }
    _archive("sbx.zip", {"data": json.dumps(data)})
    with pytest.raises(UserError, match=r"names 'posix.system'"):
        load_policy("sbx.zip")
    assert not Path("harmed").exists()


def test_an_archive_that_would_fill_the_memory_is_refused(workplace, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 2 << 20)  # 256 MiB take seconds to make
    bomb = b"\0" * (3 << 20)
    for file, name in (("bomb.zip", "data"), ("bomb.npz", "metadata.npy"), ("bomb.pt", "a/data/0")):
        _archive(file, {name: bomb}, zipfile.ZIP_DEFLATED)
        assert Path(file).stat().st_size < 1 << 14
        with pytest.raises(UserError, match="would unpack to 3 MiB"):
            load_policy(file)


def test_names_that_leave_the_archive_are_refused(workplace):
    for name in ("../data", "/etc/data", "a/../../b", "..\\data"):
        _archive("path.zip", {name: b"{}"})
        with pytest.raises(UserError, match="leaves it"):
            load_policy("path.zip")


@pytest.mark.parametrize("file", sorted({case[0] for case in CASES}))
def test_files_cut_short_anywhere_are_refused_in_words(file, workplace):
    content = (FOREIGN / file).read_bytes()
    cut = Path(f"cut{Path(file).suffix}")
    for length in (0, 1, 10, len(content) // 3, len(content) // 2, len(content) - 30):
        cut.write_bytes(content[:length])
        with pytest.raises(UserError) as error:
            load_policy(cut)
        assert "\n" not in str(error.value) and len(str(error.value)) <= 200


def test_tensors_that_reach_beyond_their_storage_are_refused(workplace):
    file = FOREIGN / "cleanrl_dqn.cleanrl_model"
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    short = next(name for name in entries if name.endswith("/data/0"))
    _archive("short.pt", entries | {short: entries[short][:8]})
    with pytest.raises(UserError, match="a tensor that is not whole"):
        load_policy("short.pt")
    del entries[short]
    _archive("less.pt", entries)
    with pytest.raises(UserError, match="is missing"):
        load_policy("less.pt")


def test_values_that_hold_each_other_too_often_are_refused(workplace):
    laughs: list = []
    for _ in range(40):
        laughs = [laughs] * 10
    itself: list = []
    itself.append(itself)
    deep: list = []
    for _ in range(300):
        deep = [deep]
    for value in (laughs, itself, deep):
        _archive("laughs.pt", {"a/data.pkl": pickle.dumps({"actor": value}, protocol=2)})
        with pytest.raises(UserError, match="too deep or too often"):
            load_policy("laughs.pt")


def test_models_that_are_no_mlp_are_refused(workplace):
    file = _sb3(Path("kind.zip"), data=json.dumps({"action_space": {":type:": "MultiBinary"}}))
    with pytest.raises(UserError, match="only Box and Discrete fit"):
        load_policy(file)
    _archive("none.zip", {"readme": b"hello"})
    with pytest.raises(UserError, match="it has no 'data'"):
        load_policy("none.zip")


def test_a_pickle_of_plain_values_is_no_policy(workplace):
    plain: list[object] = [1, "text", [], {}, (1, 2)]
    for value in plain:
        Path("plain.params").write_bytes(pickle.dumps(value))
        with pytest.raises(UserError):
            load_policy("plain.params")
        file = io.BytesIO()
        pickle.dump(value, file)
        _archive("plain.pt", {"a/data.pkl": file.getvalue()})
        with pytest.raises(UserError):
            load_policy("plain.pt")
