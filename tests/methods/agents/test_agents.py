"""PPO and SAC through Brax: the adapter, what is exported, and runs of theirs."""

import json
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epvf.training.agents as training
from epvf.cli.main import main
from epvf.cli.train import understood
from epvf.config.presets import PRESETS, preset
from epvf.config.schema import default_settings
from epvf.methods.agents import brax_compat
from epvf.methods.registry import METHODS
from epvf.policies.formats.brax import theta_of
from epvf.policies.formats.registry import load_policy
from epvf.policies.mlp import Policy
from epvf.policies.reference import act
from epvf.runs.folder import read_info
from epvf.runs.metrics import read_metrics
from epvf.tasks import make
from epvf.tasks.base import TaskSpec
from epvf.tasks.engines.rollout import Environment, JaxTask
from epvf.training.agents import planned
from epvf.training.prepare import prepare
from probes import KEYS, config_of


def _new_tally():
    with brax_compat.tolerated():
        from epvf.methods.agents.tally import Tally
    return Tally()


def _wrapped(task, episode_length=None, period=None, tally=None):
    """A batch as Brax trains on it."""
    from brax.envs.wrappers import training

    from epvf.methods.agents.brax_env import BraxEnv
    from epvf.methods.agents.tally import Counted

    env = training.wrap(BraxEnv(task), episode_length or task.spec.episode_length)
    return env if tally is None else Counted(env, tally, period)


def _keys(num):
    """Keys of the kind that Brax uses, `[num, 2]`."""
    return jax.random.key_data(jax.random.split(jax.random.key(0), num))


def _failing_task(when):
    """A state that counts up; the reward is 1, and not finite at step `when`."""

    def step(state, action):
        reward = jnp.where(state + 1 == when, jnp.nan, 1.0)
        return state + 1, reward, state + 1 >= 100

    environment = Environment(lambda key: jnp.zeros(()), step, lambda state: state[None])
    spec = TaskSpec("counting", "jax", 1, 1, False, 100, True, True)
    return JaxTask(spec, environment)


# --- the adapter


@pytest.mark.slow
def test_the_ant_pays_the_same_in_brax():
    task, num_steps, num_envs = make("ant", "mjx"), 20, 3
    actions = np.random.default_rng(0).uniform(-1, 1, (num_steps, num_envs, 8)).astype(np.float32)
    expected = task.replay(actions)
    with brax_compat.tolerated():
        env = _wrapped(task)
        state = jax.jit(env.reset)(_keys(num_envs))
        step = jax.jit(env.step)
        for t in range(num_steps):
            state = step(state, actions[t])
            assert not state.done.any()
            np.testing.assert_allclose(state.reward, expected.reward[t], rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(state.obs, expected.observation[t], rtol=1e-4, atol=1e-4)


def test_cartpole_ends_where_it_ends_elsewhere_and_starts_anew():
    task = make("cartpole")
    assert isinstance(task, JaxTask)
    keys, environment = _keys(1), task.environment
    inner, lengths = environment.reset(jax.random.wrap_key_data(keys[0])), 0
    over = False
    while not over:
        inner, _, over = environment.step(inner, jnp.asarray(1))
        lengths += 1
    with brax_compat.tolerated():
        env = _wrapped(task)
        first = state = env.reset(keys)
        step = jax.jit(env.step)
        for _ in range(lengths):
            assert not state.done.any()
            state = step(state, jnp.ones(1, jnp.int32))
        assert state.done.all() and state.info["truncation"] == 0
        assert state.info["episode_metrics"]["sum_reward"] == lengths
        np.testing.assert_array_equal(state.obs, first.obs)


def test_long_episodes_are_cut_and_say_so():
    with brax_compat.tolerated():
        env = _wrapped(make("cartpole"), episode_length=2)
        state = env.reset(_keys(3))
        for _ in range(2):
            state = env.step(state, jnp.array([0, 1, 0]))
        assert state.done.all() and state.info["truncation"].all()


def test_a_step_that_is_not_finite_ends_the_episode_with_nothing():
    tally = _new_tally()
    with brax_compat.tolerated():
        env = _wrapped(_failing_task(3), period=6, tally=tally)
        state = env.reset(_keys(2))
        step = jax.jit(env.step)
        rewards, dones = [], []
        for _ in range(6):
            state = step(state, jnp.zeros((2, 1)))
            rewards.append(state.reward[0].item())
            dones.append(state.done[0].item())
            assert np.isfinite(state.obs).all()
    assert rewards == [1, 1, 0] * 2 and dones == [0, 0, 1] * 2
    metrics = tally.read()
    assert metrics["rollout/nonfinite"] == 4
    assert metrics["rollout/episode_return"] == 2 and metrics["rollout/episode_length"] == 3


def test_returns_of_training_episodes_are_exact():
    tally = _new_tally()
    with brax_compat.tolerated():
        env = _wrapped(make("cartpole"), episode_length=30, period=25, tally=tally)
        state = jax.jit(env.reset)(_keys(4))
        step = jax.jit(env.step)
        rng, running, ended = np.random.default_rng(0), np.zeros(4), []
        for t in range(50):
            state = step(state, jnp.asarray(rng.integers(0, 2, 4)))
            running += np.asarray(state.reward)
            for i in np.flatnonzero(np.asarray(state.done)):
                ended.append(running[i])
                running[i] = 0
            if t in (24, 49):
                metrics = tally.read()
    assert len(ended) > 4
    assert metrics["rollout/episode_return"] == pytest.approx(np.mean(ended))
    assert metrics["rollout/episode_return_std"] == pytest.approx(np.std(ended), rel=1e-4)
    assert metrics["rollout/episode_return_min"] == min(ended)
    assert metrics["rollout/episode_return_max"] == max(ended)
    assert metrics["rollout/nonfinite"] == 0


def test_before_an_episode_ends_its_return_is_unknown():
    assert np.isnan(_new_tally().read()["rollout/episode_return"])


# --- policies


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("method", ["ppo", "sac", "discrete"])
def test_an_exported_policy_acts_like_brax(method, normalised):
    discrete = method == "discrete"
    policy = Policy((5, 16, 8, 3), "elu", "argmax" if discrete else "tanh")
    shape = {"policy.hidden_sizes": [16, 8], "policy.activation": "elu"}
    config = config_of("sac" if method == "sac" else "ppo", shape)
    rng = np.random.default_rng(0)
    with brax_compat.tolerated():
        from brax.training.acme import running_statistics, specs
        from brax.training.agents.ppo import networks as ppo
        from brax.training.agents.sac import networks as sac

        from epvf.methods.agents import brax_agents

        normalizer = running_statistics.init_state(specs.Array((5,), jnp.dtype("float32")))
        seen = rng.normal(3, 7, (1000, 5)).astype(np.float32)
        normalizer = running_statistics.update(normalizer, jnp.asarray(seen))
        own = running_statistics.normalize if normalised else lambda x, _: x
        options = {"preprocess_observations_fn": own}
        if method == "sac":
            networks = brax_agents._sac_networks(config, 5, 3, **options)
            inference = sac.make_inference_fn(networks)
        else:
            networks = brax_agents._ppo_networks(config, discrete, 5, 3, **options)
            inference = ppo.make_inference_fn(networks)
        parameters = networks.policy_network.init(jax.random.key(1))
        observations = rng.normal(3, 7, (50, 5)).astype(np.float32)
        choose = inference((normalizer, parameters), deterministic=True)
        expected, _ = choose(jnp.asarray(observations), jax.random.key(0))
    theta = theta_of(policy, normalizer if normalised else None, parameters)
    layers = policy.unravel(theta)
    actions = [act(policy, layers, observation) for observation in observations]
    np.testing.assert_allclose(np.array(actions), expected, atol=2e-5)
    assert len(np.unique(actions)) > 1


def test_probabilities_of_discrete_actions():
    with brax_compat.tolerated():
        from epvf.methods.agents.categorical import Categorical

        actions = Categorical(3)
        logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]]))
        distribution = actions.create_dist(logits)
        samples = jax.vmap(lambda key: actions.sample(logits, key))(
            jax.random.split(jax.random.key(0), 4000)
        )
        np.testing.assert_allclose((samples == 0).mean(axis=0), [0.5, 0.8], atol=0.03)
        chosen = jnp.array([1, 0])
        np.testing.assert_allclose(
            jnp.exp(actions.log_prob(logits, chosen)), [0.25, 0.8], rtol=1e-5
        )
        entropy = 1.5 * np.log(2)
        np.testing.assert_allclose(
            actions.entropy(logits, jax.random.key(1))[0], entropy, rtol=1e-5
        )
        np.testing.assert_array_equal(actions.mode(logits), [0, 0])
        np.testing.assert_allclose(distribution.kl_divergence(distribution), 0, atol=1e-6)


def test_the_quick_elu_is_elu():
    with brax_compat.tolerated():
        from epvf.methods.agents.brax_agents import _elu
    x = jnp.linspace(-20.0, 3.0, 1001)
    np.testing.assert_allclose(_elu(x), jax.nn.elu(x), atol=1e-6)
    slope = jax.vmap(jax.grad(_elu))(x)
    np.testing.assert_allclose(slope, jax.vmap(jax.grad(jax.nn.elu))(x), atol=1e-6)


def test_the_learning_rate_falls_to_zero():
    with brax_compat.tolerated():
        from epvf.methods.agents.brax_agents import Annealed
    rate = Annealed(4e-4, 100)
    assert rate(0) == 4e-4 and rate(50) == pytest.approx(2e-4) and rate(100) == 0
    assert jnp.array(rate) == np.float32(4e-4)


# --- the shim


def test_the_shim_copies_to_every_device_and_leaves_jax_alone_where_it_can(monkeypatch):
    tree = {"a": jnp.arange(3), "b": 2.0}
    copies = brax_compat._replicate(tree, jax.local_devices())
    assert copies["a"].shape == (1, 3) and copies["b"].shape == (1,)
    np.testing.assert_array_equal(copies["a"][0], tree["a"])
    monkeypatch.setattr(jax, "device_put_replicated", "jax's own", raising=False)
    brax_compat._mend()
    assert jax.device_put_replicated == "jax's own"


# --- configuration


AGENTS = [name for name in METHODS.names() if METHODS[name].train is not None]


def test_agents_are_those_that_train_themselves_and_cannot_be_resumed():
    assert AGENTS == ["ppo", "sac"]
    assert [name for name in METHODS.names() if not METHODS[name].resumable] == AGENTS
    for name in AGENTS:
        assert METHODS[name].segment(default_settings(name)) == 32


@pytest.mark.parametrize(("task", "method"), [("cartpole", "ppo"), ("ant", "ppo"), ("ant", "sac")])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits(task, method, name):
    setup = prepare(preset(task, name, method))
    assert setup.config.method.name == method and setup.method is None
    assert setup.config.task.backend == setup.task.spec.backend
    assert setup.config.task.backend in ("jax", "mjx")


def test_the_budget_in_env_steps_ends_a_run_early():
    config = preset("ant", "tuned", "ppo").replace({"env_steps": 100_000})
    assert planned(config) == 4  # of 1024 environments, 32 steps each
    assert planned(config.replace({"env_steps": None})) == config.iterations


BAD = [
    (
        ["cartpole", "--method", "sac"],
        "cannot learn task 'cartpole': it has no discrete actions",
    ),
    (
        ["cartpole", "--method", "a2c"],
        "unknown method 'a2c' (did you mean 'sac'?); valid: epvf, ",
    ),
    (["ant", "--method", "ppo", "--backend", "native"], "it needs an engine in JAX: --backend mjx"),
    (
        ["ant", "--method", "ppo", "--num-seeds", "2"],
        "'ppo' does not read --num-seeds; 'epvf',",
    ),
    (["ant", "--method", "ppo", "--num-envs", "1023"], "not a multiple of ppo.num_minibatches 8"),
    (["ant", "--method", "sac", "--policy.output", "clip"], "use policy.output 'tanh'"),
    (["ant", "--method", "ppo", "--policy.output", "argmax"], "use policy.output 'tanh', not"),
    (["cartpole", "--method", "ppo", "--policy.output", "tanh"], "does not fit the discrete"),
    (
        ["ant", "--method", "ppo", "--variant", "noise-1.0"],
        "what method 'epvf' reads, not 'ppo'",
    ),
    (["ant", "--method", "ppo", "--ppo.clip", "0"], "ppo.clip is 0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_what_cannot_be_is_one_clear_line(arguments, message, workplace, capsys):
    assert main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert list(workplace.iterdir()) == []


def test_without_brax_it_says_what_to_install(workplace, capsys, monkeypatch):
    monkeypatch.setattr(brax_compat, "find_spec", lambda name: None)
    assert main(["train", "ant", "--method", "ppo"]) == 2
    line = "epvf: error: method 'ppo' needs brax: pip install 'epvf[baselines]'\n"
    assert capsys.readouterr().err == line


def test_help_shows_the_methods_own_values(capsys):
    assert main(["train", "ant", "--method", "ppo", "--preset", "paper", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--ppo.gae-lambda" in out and "--sac.tau" not in out and "512 256 128" in out


def test_a_file_names_the_method_and_none_may_contradict_it(workplace, capsys):
    (workplace / "ppo.yaml").write_text("method: ppo\nppo: {epochs: 3}")
    _, config, _ = understood(["ant", "--config", "ppo.yaml"])
    assert (config.method.name, config.method.ppo.epochs) == ("ppo", 3)
    assert config.num_envs == preset("ant", "tuned", "ppo").num_envs
    assert main(["train", "ant", "--method", "sac", "--config", "ppo.yaml"]) == 2
    assert "ppo.yaml is for method 'ppo', not 'sac'" in capsys.readouterr().err


# --- runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of PPO, to be looked at but not changed."""
    run = tmp_path_factory.mktemp("ppo") / "run"
    arguments = ["train", "cartpole", "--method", "ppo", "--preset", "debug"]
    assert main([*arguments, "--out", str(run)]) == 0
    return run


@pytest.mark.slow
def test_a_run_lies_on_disk_like_any_other(finished):
    assert read_info(finished)["status"] == "finished"
    records = read_metrics(finished / "metrics.jsonl")
    assert [record["steps/update"] for record in records] == list(range(1, 11))
    assert [record["steps/env"] for record in records] == list(range(160, 1601, 160))
    assert all(record.keys() >= KEYS | {"loss/policy"} for record in records)
    assert records[0]["policy/step_norm"] is None and records[1]["policy/step_norm"] > 0.0
    first, second = (records[i]["eval/episode_return"] for i in (0, 5))
    assert records[5]["policy/realized_gain"] == pytest.approx(second - first)
    assert all(records[i]["policy/realized_gain"] is None for i in (0, 1, 6))
    evaluated = [i for i, r in enumerate(records) if r["eval/episode_return"] is not None]
    assert evaluated == [0, 5, 9]
    assert all(record["rollout/nonfinite"] == 0 for record in records)
    assert records[-1]["rollout/episode_length"] == records[-1]["rollout/episode_return"] > 5
    assert list((finished / "tb").iterdir())


def test_its_policies_can_be_evaluated(finished, capsys):
    best = load_policy(finished / "policies" / "best.safetensors")
    records = read_metrics(finished / "metrics.jsonl")
    measured = [r["eval/episode_return"] for r in records if r["eval/episode_return"] is not None]
    assert float(best.metadata["episode_return"]) == max(measured)
    assert best.metadata["method"] == "ppo" and best.policy.output == "argmax"
    last = load_policy(finished / "policies" / "last.safetensors")
    assert last.metadata["update"] == "10" and last.metadata["env_steps"] == "1600"
    assert main(["eval", str(finished), "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 3


def test_a_finished_run_has_nothing_to_resume(finished, capsys):
    assert main(["resume", str(finished)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["resume", str(finished), "--iterations", "30"]) == 2
    assert "of method 'ppo' cannot be resumed" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_saves_and_says_that_it_cannot_be_resumed(epvf, tmp_path, capsys):
    process = epvf.start(
        *("train", "cartpole", "--method", "ppo", "--preset", "debug", "--out", "run"),
        *("--iterations", "100000"),
    )
    with process:
        log = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "cannot be resumed, but its policies are saved" in stdout
    assert stderr.startswith("note: a run of method 'ppo' cannot be resumed")
    assert "\ncompiling PPO" in stderr and "Traceback" not in stderr
    run = tmp_path / "run"
    assert read_info(run)["status"] == "interrupted"
    records = read_metrics(run / "metrics.jsonl")
    last = load_policy(run / "policies" / "last.safetensors")
    assert last.metadata["update"] == str(len(records))
    assert main(["resume", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "of method 'ppo' cannot be resumed; start anew" in err


@pytest.mark.slow
def test_ppo_learns_cartpole(epvf, tmp_path):
    done = epvf(
        *("train", "cartpole", "--method", "ppo", "--out", "run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert json.loads(done.stdout)["evaluation"]["episode_return"] > 400
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 150


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "sac"])
def test_the_ant_is_trained_too(method, epvf, tmp_path):
    done = epvf(
        *("train", "ant", "--method", method, "--preset", "debug", "--out", "run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluation"]["engine"] == "lanes"
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(records) == 10 and records[-1]["rollout/episode_length"] > 0
    assert all(np.isfinite(record["loss/policy"]) for record in records)
    policy = load_policy(tmp_path / "run" / "policies" / "last.safetensors").policy
    assert policy.output == "tanh" and policy.layer_sizes == (34, 8, 8)


def test_a_policy_that_is_not_finite_ends_the_run(tmp_path, monkeypatch, capsys):
    def spoilt(policy, normalizer, parameters):
        return np.full(policy.num_parameters, np.nan)

    monkeypatch.setattr(training, "theta_of", spoilt)
    run = tmp_path / "run"
    arguments = ["train", "cartpole", "--method", "ppo", "--preset", "debug", "--out", str(run)]
    assert main(arguments) == 1
    assert "lower ppo.learning_rate; there is no policy yet" in capsys.readouterr().err
    assert read_info(run)["status"] == "failed"
