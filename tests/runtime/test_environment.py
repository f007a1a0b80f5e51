"""Variables of the environment: harmless, made so, or refused in a line before anything is made."""

import os

import pytest

import epvf
from epvf.cli.main import main
from epvf.errors import UserError
from epvf.runtime import environment, handles, processors, startup


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_ENABLE_X64", "1"),
        ("JAX_ENABLE_X64", "banana"),
        ("JAX_DEBUG_NANS", "True"),
        ("JAX_DISABLE_JIT", "1"),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
        ("JAX_DEBUG_KEY_REUSE", "1"),
        ("JAX_NO_EXECUTION", "1"),
        ("JAX_TRANSFER_GUARD_DEVICE_TO_HOST", "disallow_explicit"),
        ("JAX_DEFAULT_PRNG_IMPL", "rbg"),
        ("JAX_RANDOM_SEED_OFFSET", "5"),
        ("NUMBA_DISABLE_JIT", "1"),
        ("NUMBA_NUM_THREADS", "many"),
        ("NUMBA_NUM_THREADS", "0"),
    ],
)
def test_what_would_change_numbers_is_refused_by_name(name, value, monkeypatch, refused_words):
    monkeypatch.setenv(name, value)
    refused_words(["train", "cartpole", "--preset", "debug"], f"{name}={value}: ")


@pytest.fixture
def refused_words(workplace, capsys):
    def check(words, message):
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"epvf: error: {message}") and err.count("\n") == 1
        assert err.rstrip().endswith("unset it") and list(workplace.iterdir()) == []

    return check


def test_python_is_told_too(monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    with pytest.raises(UserError, match="JAX_DISABLE_JIT=1: uncompiled"):
        epvf.train(epvf.preset("cartpole", "debug"))


def test_doctor_names_what_is_wrong_and_tells_the_rest(monkeypatch, capsys):
    monkeypatch.setenv("JAX_ENABLE_X64", "banana")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "JAX_ENABLE_X64=banana: epvf computes in 32 bits; unset it" in out
    assert "extras:" in out and os.environ["JAX_ENABLE_X64"] == "banana"


def test_harmless_values_are_harmless():
    fine = {
        "JAX_ENABLE_X64": "0",
        "JAX_DEBUG_NANS": "false",
        "JAX_DEFAULT_PRNG_IMPL": "threefry2x32",
        "NUMBA_NUM_THREADS": "2",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_TRANSFER_GUARD": "log",
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=false",
    }
    assert environment.wrong(fine) == {}


def test_help_is_given_whatever_is_set(monkeypatch, capsys):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert main(["train", "--help"]) == 0
    assert "JAX_ENABLE_X64" not in capsys.readouterr().err


def test_mujoco_loads_nothing_that_draws_until_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("EPVF_MUJOCO_GL", "")
    monkeypatch.setenv("MUJOCO_GL", "Bogus")
    assert environment.drawing() == "bogus"
    for _ in range(2):  # also in a process that one like it has started
        environment.prepare(computes=False)
        assert os.environ["MUJOCO_GL"] == "disable"
        assert environment.drawing() == "bogus"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert environment.drawing() == "egl"
    monkeypatch.delenv("EPVF_MUJOCO_GL")
    monkeypatch.setenv("MUJOCO_GL", "disable")
    environment.prepare(computes=False)
    assert environment.drawing() == "disable"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("JAX_PLATFORMS", "cuda", "JAX_PLATFORMS=cuda: JAX finds no such device here; unset it"),
        (
            "JAX_PLATFORM_NAME",
            "tpu",
            "JAX_PLATFORM_NAME=tpu: JAX finds no such device here; unset it",
        ),
        ("XLA_FLAGS", "--xla_nonsense=1", "XLA_FLAGS=--xla_nonsense=1: JAX cannot start with it"),
        ("JAX_NUM_CPU_DEVICES", "many", "JAX_NUM_CPU_DEVICES=many: JAX cannot read it; unset it"),
        ("JAX_ENABLE_X64", "", "JAX_ENABLE_X64=: JAX cannot read it; unset it"),
        ("NUMBA_OPT", "banana", "NUMBA_OPT=banana: numba cannot read it; unset it"),
    ],
)
def test_what_jax_cannot_start_with_is_told_before_a_folder_is_made(
    name, value, told, epvf, monkeypatch
):
    monkeypatch.setenv(name, value)
    done = epvf("train", "cartpole", "--preset", "debug")
    assert done.returncode == 2 and done.stderr.startswith(f"epvf: error: {told}")
    assert done.stderr.count("\n") == 1 and list(epvf.folder.iterdir()) == []
    done = epvf("doctor")
    assert done.returncode == 0 and told in done.stdout and "extras:" in done.stdout


def test_a_quota_of_processor_time_counts(tmp_path):
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert processors.quota_of_group(tmp_path, membership) is None
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (group / "cpu.max").write_text("max 100000\n")
    assert processors.quota_of_group(tmp_path, membership) == 1.5
    membership.write_text("4:cpu,cpuacct:/c\nnonsense\n")
    old = tmp_path / "cpu" / "c"
    old.mkdir(parents=True)
    (old / "cpu.cfs_quota_us").write_text("50000")
    (old / "cpu.cfs_period_us").write_text("100000")
    assert processors.quota_of_group(tmp_path, membership) == 0.5


def test_a_cache_that_others_can_write_into_is_not_used_unasked(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    assert not startup.shared(tmp_path)
    tmp_path.chmod(0o777)
    assert startup.shared(tmp_path)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = startup.cache_folder()
    assert folder is not None and folder.is_relative_to(tmp_path / "epvf" / "jax")


def test_processors_of_another_kind_have_a_cache_of_their_own(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(startup, "PROCESSORS", tmp_path / "cpuinfo")
    folders = [startup.cache_folder()]
    for told in (
        "model name : x\nflags : avx2 fma",
        "flags : fma avx2",
        "flags : avx2 avx512f fma",
    ):
        startup.PROCESSORS.write_text(f"{told}\n")
        folders.append(startup.cache_folder())
    assert folders[1] == folders[2] and len(set(folders)) == 3


def test_without_a_home_there_is_no_cache(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", nobody)
    assert startup.cache_folder() is None
    startup.use_compilation_cache()


def test_many_seeds_need_many_files(monkeypatch):
    import resource

    limits = [(64, 256)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    handles.make_room(1)
    assert limits[-1] == (handles.AT_LEAST + handles.PER_SEED, 256)
    with pytest.raises(UserError, match="num_seeds 200 needs about 300 open files, but only 256"):
        handles.make_room(200)
