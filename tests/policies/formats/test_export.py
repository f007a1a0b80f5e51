"""What is written acts elsewhere as it does here, on 10,000 observations."""

import ctypes
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.formats.contents import contents
from epvf.policies.formats.registry import WRITERS, load_policy
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.layers import ON_HOST
from epvf.policies.mlp import Policy

POLICIES = [
    Policy((4, 2), "tanh", "argmax"),
    Policy((34, 64, 64, 8), "tanh", "clip"),
    Policy((5, 7, 3), "relu", "tanh"),
    Policy((5, 7, 3), "elu", "argmax"),
    Policy((5, 7, 3), "elu", "clip"),
]
ROWS = 10_000
TOLERANCE = 1e-6
INTERFACE = {"observation": "[n] some */ numbers", "control_seconds": "0.01"}


def _saved(policy: Policy) -> SavedPolicy:
    draw = np.random.default_rng(0)
    theta = draw.normal(size=policy.num_parameters) / np.sqrt(policy.layer_sizes[0])
    return SavedPolicy(policy, theta.astype(np.float32), "ant", {"seed": "3", "env_steps": "7"})


def _observations(policy: Policy) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ROWS, policy.layer_sizes[0])).astype(np.float32)


def _actions(saved: SavedPolicy, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and actions as numpy has them, in single precision."""
    layers = saved.policy.unravel(saved.theta)
    for kernel, bias in layers[:-1]:
        x = ON_HOST[saved.policy.activation](x @ kernel + bias)
    outputs = x @ layers[-1].kernel + layers[-1].bias
    if saved.policy.output == "argmax":
        return outputs, outputs.argmax(axis=1)
    return outputs, np.tanh(outputs) if saved.policy.output == "tanh" else outputs.clip(-1, 1)


def _assert_same(saved: SavedPolicy, outputs, actions) -> None:
    wanted, acted = _actions(saved, _observations(saved.policy))
    np.testing.assert_allclose(outputs, wanted, rtol=TOLERANCE, atol=5 * TOLERANCE)
    if saved.policy.output == "argmax":
        ordered = np.sort(wanted, axis=1)
        clear = ordered[:, -1] - ordered[:, -2] > 5 * TOLERANCE
        assert clear.mean() > 0.99 and (actions == acted)[clear].all()
    else:
        np.testing.assert_allclose(actions, acted, rtol=TOLERANCE, atol=TOLERANCE)
        assert (np.abs(acted) > 0.99).any() or saved.policy.output == "tanh"


@pytest.mark.parametrize("policy", POLICIES, ids=Policy.describe)
def test_onnx_acts_the_same(policy, tmp_path):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    saved = _saved(policy)
    (file,) = WRITERS["onnx"](tmp_path / "policy.onnx", contents(saved, INTERFACE))
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    inputs = {"observation": _observations(policy)}
    _assert_same(saved, *session.run(["outputs", "action"], inputs))
    told = session.get_modelmeta().custom_metadata_map
    assert told["observation"] == INTERFACE["observation"] and told["seed"] == "3"
    assert told["action"] == policy.output and told["activation"] == policy.activation


def test_onnx_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'epvf\[onnx\]'"):
        WRITERS["onnx"](tmp_path / "p.onnx", contents(_saved(POLICIES[0]), {}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("policy", POLICIES, ids=Policy.describe)
def test_c_acts_the_same(policy, tmp_path):
    saved = _saved(policy)
    source, header = WRITERS["c"](tmp_path / "walk.c", contents(saved, INTERFACE))
    library = tmp_path / "walk.so"
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", library, source, "-lm"], check=True)
    assert re.findall(r"#include <(.*)>", source.read_text()) == ["math.h"]
    assert "control_seconds: 0.01" in header.read_text()
    code, rows = ctypes.CDLL(str(library)), _observations(policy)
    outputs = np.zeros((ROWS, policy.layer_sizes[-1]), np.float32)
    actions = np.zeros_like(outputs)
    place = lambda row: ctypes.c_void_p(row.ctypes.data)  # noqa: E731
    indices = []
    for x, y, action in zip(rows, outputs, actions, strict=True):
        code.walk_outputs(place(x), place(y))
        if policy.output == "argmax":
            indices.append(code.walk_act(place(x)))
        else:
            code.walk_act(place(x), place(action))
    _assert_same(saved, outputs, np.array(indices) if indices else actions)


def test_a_name_that_c_does_not_know_is_refused(tmp_path):
    for name in ("my-policy.c", "0.c", "a b.c"):
        with pytest.raises(UserError, match="makes no name in C"):
            WRITERS["c"](tmp_path / name, contents(_saved(POLICIES[0]), {}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["npz", "json"])
@pytest.mark.parametrize("policy", POLICIES, ids=Policy.describe)
def test_what_is_written_is_read_again_to_the_bit(form, policy, tmp_path):
    saved = _saved(policy)
    (file,) = WRITERS[form](tmp_path / f"policy.{form}", contents(saved, INTERFACE))
    read = load_policy(file)
    assert read.policy == policy and read.task == "ant"
    np.testing.assert_array_equal(read.theta, saved.theta)
    assert read.metadata["seed"] == "3" and "raw observations" in read.metadata["normalisation"]


def test_arrays_of_numpy_alone_act_the_same(tmp_path):
    saved = _saved(POLICIES[1])
    WRITERS["npz"](tmp_path / "p.npz", contents(saved, {}))
    found = np.load(tmp_path / "p.npz")
    x, told = _observations(saved.policy), json.loads(str(found["metadata"]))
    for i in range(3):
        x = x @ found[f"layer{i}.kernel"] + found[f"layer{i}.bias"]
        x = np.tanh(x) if i < 2 else x
    assert told["action_is"] == "the outputs clipped to [-1, 1]"
    _assert_same(saved, x, x.clip(-1, 1))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.npz", b"PK"),
        ("p.npz", b""),
        ("p.json", b"[]"),
        ("p.json", b'{"layers": 1}'),
        ("p.json", b'{"layers": [{"kernel": [[1]], "bias": ["x"]}]}'),
        ("p.json", b'{"layers": [], "metadata": {"format": "epvf-policy-json/1"}}'),
        ("p.json", b'{"layers": [], "metadata": "no"}'),
        ("p.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"),
    ],
)
def test_files_that_are_none_are_refused(name, content, tmp_path):
    file: Path = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_policy(file)
    assert "\n" not in str(error.value)


def test_an_archive_with_a_pickle_in_it_is_refused(tmp_path):
    np.savez(tmp_path / "p.npz", metadata=np.array([{}], object))
    with pytest.raises(UserError, match="cannot read policy"):
        load_policy(tmp_path / "p.npz")


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_small_program_drives_mujoco_as_python_does(tmp_path):
    """`examples/drive_hopper.c`, against MuJoCo's Python bindings and numpy."""
    import mujoco

    from epvf.policies.reference import act
    from epvf.tasks.gym_models import model_file
    from epvf.tasks.hopper import BODY
    from epvf.tasks.interface import interface

    root = Path(mujoco.__file__).parent
    headers, libraries = root / "include", sorted(root.glob("libmujoco.so*"))
    if not headers.is_dir() or not libraries:
        pytest.skip("this MuJoCo has no headers and shared library")
    policy = Policy((11, 16, 3))
    saved = _saved(policy)._replace(task="hopper")
    WRITERS["c"](tmp_path / "hopper.c", contents(saved, interface("hopper")))
    example = Path(__file__).resolve().parents[3] / "examples" / "drive_hopper.c"
    program, xml, steps = tmp_path / "drive", tmp_path / "hopper.xml", 100
    sources = [example, tmp_path / "hopper.c", libraries[0]]
    flags = ["-Wall", "-Wextra", "-Werror", f"-I{headers}", f"-I{tmp_path}", f"-Wl,-rpath,{root}"]
    subprocess.run(["cc", "-O2", *flags, *sources, "-lm", "-o", program], check=True)
    model = BODY.model()
    shutil.copy(model_file("hopper.xml", "hopper"), xml)
    done = subprocess.run([program, xml, str(steps)], capture_output=True, text=True, check=True)
    found = np.array([line.split() for line in done.stdout.splitlines()], float)
    data, layers = mujoco.MjData(model), policy.unravel(saved.theta)
    wanted = []
    for _ in range(steps):
        state = np.concatenate([data.qpos[1:], data.qvel.clip(-10.0, 10.0)])
        data.ctrl[:] = act(policy, layers, state.astype(np.float32))
        mujoco.mj_step(model, data, nstep=BODY.frame_skip)
        wanted.append(data.qpos[:2].copy())
    assert np.ptp(found[:, 1]) > 0.05
    # single precision parts the two by a bit, which contacts enlarge
    np.testing.assert_allclose(found[:50], np.array(wanted)[:50], atol=1e-3)
    assert subprocess.run([program], capture_output=True).returncode == 1
