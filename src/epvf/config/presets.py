"""Named configurations of each task: the paper's, ours, and a quick one for trying things."""

from typing import Any, Literal, TypeAlias

from epvf.config.schema import METHODS, Config, Method, replace
from epvf.errors import UserError, unknown
from epvf.methods.agents.settings import AGENTS

Preset: TypeAlias = Literal["paper", "tuned", "debug"]
PRESETS: tuple[Preset, ...] = ("paper", "tuned", "debug")

_WALKERS = ("ant", "hopper", "halfcheetah")
"""Tasks that have the Ant's presets, unchanged."""

_DEFAULT_METHODS: dict[tuple[str, str], Method] = {(task, "tuned"): "psvf" for task in _WALKERS}
"""What a preset of a task trains unless told otherwise; `epvf` where nothing stands here."""

_CARTPOLE_PAPER: dict[str, Any] = {
    "policy.hidden_sizes": [64, 64],
    "policy.output": "argmax",
    "perturbation.noise": "gaussian",
    "perturbation.scale": 1.0,
    "buffer.size": 100_000,
    "value.hidden_sizes": [64, 64],
    "value_update.batch_size": 16,
    "value_update.steps": 10,
    "value_update.learning_rate": 1e-3,
    "policy_update.steps": 10,
    "policy_update.learning_rate": 1e-3,
    "num_envs": 8,
    "iterations": 3000,
    "eval.interval": 50,
}

_ANT_PAPER: dict[str, Any] = {
    "policy.hidden_sizes": [64, 64],
    "policy.output": "clip",
    "perturbation.noise": "scaled_uniform",
    "perturbation.scale": 0.3,
    "buffer.size": 4096,
    "value.hidden_sizes": [256, 256],
    "value_update.batch_size": 4096,
    "value_update.steps": 10,
    "value_update.learning_rate": 1e-3,
    "policy_update.steps": 10,
    "policy_update.learning_rate": 1e-3,
    "policy_update.final_learning_rate": 1e-7,
    "policy_update.weight_clip": 0.1,
    "num_envs": 4096,
    "iterations": 488,
}

# V as a regression that forgets: on offsets from θ in units of the noise the least-squares problem
# is white, so one gradient step of rate a moves V by a fraction 2a from what it knew to what the
# newest population says. Under returns this noisy, averaging over iterations beats fitting hard.
_LINEAR_VALUE: dict[str, Any] = {
    "value.hidden_sizes": [],
    "value.inputs": "standardised",
    "value.zero_init": True,
    "target.transform": "centred_ranks",
    "value_update.steps": 1,
    "value_update.optimizer": "sgd",
    "value_update.learning_rate": 0.1,
    "policy_update.steps": 1,
}

_WALKER: dict[str, dict[str, Any]] = {
    "paper": _ANT_PAPER,
    "tuned": {
        **_ANT_PAPER,
        **_LINEAR_VALUE,
        "perturbation.scale": 0.2,
        "perturbation.floor": 0.03,
        # With more weights than policies V's noise would pile up: forget faster.
        "value_update.weight_decay": 3.0,
        "policy_update.learning_rate": 1e-2,
        "policy_update.final_learning_rate": 2e-3,
        "buffer.size": 1024,
        "value_update.batch_size": 1024,
        "num_envs": 1024,
        "iterations": 40,
    },
    "debug": {
        **_ANT_PAPER,
        "task.episode_length": 50,
        "policy.hidden_sizes": [8],
        "buffer.size": 32,
        "value.hidden_sizes": [16],
        "value_update.batch_size": 32,
        "num_envs": 32,
        "iterations": 3,
        "eval.episodes": 8,
    },
}

_TABLE: dict[str, dict[str, dict[str, Any]]] = {
    "cartpole": {
        "paper": _CARTPOLE_PAPER,
        "tuned": {
            **_LINEAR_VALUE,
            "policy.output": "argmax",
            "policy.hidden_sizes": [],
            "perturbation.noise": "gaussian",
            "perturbation.scale": 0.5,
            "policy_update.learning_rate": 0.3,
            "policy_update.optimizer": "normalised",
            "buffer.size": 256,
            "value_update.batch_size": 256,
            "num_envs": 256,
            "iterations": 60,
        },
        "debug": {
            "policy.output": "argmax",
            "policy.hidden_sizes": [8],
            "perturbation.noise": "gaussian",
            "perturbation.scale": 0.5,
            "buffer.size": 64,
            "value.hidden_sizes": [16],
            "value_update.batch_size": 32,
            "num_envs": 32,
            "iterations": 5,
            "eval.episodes": 8,
        },
    },
    **dict.fromkeys(_WALKERS, _WALKER),
}

# PPO of RL-X, the paper's authors' code, in November 2024 (2e9 env steps); its SAC's network sizes
# and number of environments are ours.
_PPO_PAPER: dict[str, Any] = {
    "policy.hidden_sizes": [512, 256, 128],
    "policy.activation": "elu",
    "policy.output": "tanh",
    "ppo.value_hidden_sizes": [512, 256, 128],
    "ppo.learning_rate": 4e-4,
    "ppo.anneal": True,
    "ppo.unroll_length": 128,
    "ppo.num_minibatches": 16,
    "ppo.epochs": 10,
    "ppo.discount": 0.99,
    "ppo.gae_lambda": 0.9,
    "ppo.clip": 0.1,
    "ppo.value_cost": 1.0,
    "ppo.max_grad_norm": 5.0,
    "ppo.normalize_observations": False,
    "num_envs": 4096,
    "iterations": 3815,
    "eval.interval": 33,
}

_PPO_TUNED: dict[str, Any] = {
    "policy.hidden_sizes": [256, 128],
    "policy.activation": "elu",
    "policy.output": "tanh",
    "num_envs": 1024,
    "iterations": 1221,
    "eval.interval": 50,
}

_SAC_PAPER: dict[str, Any] = {
    "policy.hidden_sizes": [256, 256],
    "policy.activation": "relu",
    "policy.output": "tanh",
    "sac.updates": 64,
    "sac.normalize_observations": False,
    "num_envs": 64,
    "iterations": 976_563,
    "eval.interval": 500,
}

# V(s, θ) on every step. Noise alike on all weights, whose size is adapted to the actions.
_PSVF: dict[str, Any] = {
    "perturbation.noise": "gaussian",
    "perturbation.scale": 0.05,
    "policy_update.optimizer": "adam",
    "policy_update.learning_rate": 1e-3,
    "psvf.final_noise": 0.1,
    "num_envs": 1024,
    "iterations": 1526,
    "eval.interval": 50,
}
_PSVF_DEBUG: dict[str, Any] = {
    **_PSVF,
    "policy.hidden_sizes": [8],
    "psvf.hidden_sizes": [8],
    "psvf.horizon": 8,
    "psvf.minibatches": 2,
    "num_envs": 32,
    "iterations": 5,
    "eval.interval": 2,
    "eval.episodes": 8,
}
_CLIP_PSVF: dict[str, Any] = {**_PSVF, "policy.output": "clip"}
_WALKER_PSVF: dict[str, dict[str, Any]] = {
    # the paper has no such method; its number of environments and, by guess, of env steps
    "paper": {**_CLIP_PSVF, "num_envs": 4096, "iterations": 15_259},
    "tuned": _CLIP_PSVF,
    "debug": {**_PSVF_DEBUG, "policy.output": "clip", "task.episode_length": 50},
}
# Where the outputs start far apart, every policy takes the same action whatever the noise.
_CARTPOLE_PSVF: dict[str, Any] = {
    **_PSVF,
    "policy.output": "argmax",
    "policy.init_scale": 0.3,
    "iterations": 60,
}

_OWN_TABLE: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    **{(task, "psvf"): _WALKER_PSVF for task in _WALKERS},
    ("cartpole", "psvf"): {
        "paper": {**_CARTPOLE_PSVF, "num_envs": 16},
        "tuned": _CARTPOLE_PSVF,
        "debug": {**_PSVF_DEBUG, "policy.output": "argmax"},
    },
    ("ant", "ppo"): {
        "paper": _PPO_PAPER,
        "tuned": _PPO_TUNED,
        "debug": {
            **_PPO_TUNED,
            "task.episode_length": 50,
            "policy.hidden_sizes": [8],
            "ppo.value_hidden_sizes": [8],
            "ppo.unroll_length": 10,
            "ppo.num_minibatches": 2,
            "num_envs": 16,
            "iterations": 10,
            "eval.interval": 5,
            "eval.episodes": 8,
        },
    },
    ("ant", "sac"): {
        "paper": _SAC_PAPER,
        "tuned": {
            **_SAC_PAPER,
            # holds the whole run: Brax shifts all of a full buffer at every step, which costs most
            "sac.replay_size": 5_000_000,
            "sac.updates": 8,
            "sac.normalize_observations": True,
            "num_envs": 128,
            "iterations": 1000,
            "eval.interval": 50,
        },
        "debug": {
            **_SAC_PAPER,
            "task.episode_length": 50,
            "policy.hidden_sizes": [8],
            "sac.updates": 2,
            "sac.batch_size": 16,
            "sac.replay_size": 1024,
            "sac.min_replay_size": 64,
            "sac.unroll_length": 5,
            "num_envs": 8,
            "iterations": 10,
            "eval.interval": 5,
            "eval.episodes": 8,
        },
    },
    ("cartpole", "ppo"): {
        # nobody has published any for CartPole in this setting
        "paper": {**_PPO_PAPER, "policy.output": "argmax", "num_envs": 256, "iterations": 100},
        "tuned": {
            **_PPO_TUNED,
            "policy.hidden_sizes": [64, 64],
            "policy.output": "argmax",
            "ppo.value_hidden_sizes": [64, 64],
            "num_envs": 64,
            "iterations": 150,
            "eval.interval": 10,
        },
        "debug": {
            **_PPO_TUNED,
            "policy.hidden_sizes": [8],
            "policy.output": "argmax",
            "ppo.value_hidden_sizes": [8],
            "ppo.unroll_length": 10,
            "ppo.num_minibatches": 2,
            "num_envs": 16,
            "iterations": 10,
            "eval.interval": 5,
            "eval.episodes": 8,
        },
    },
}
_CARTPOLE_EVOLUTION: dict[str, Any] = {"evolution.std": 0.5, "evolution.learning_rate": 0.1}
# Under Adam a weight moves as far as by the normalised steps of `tuned`: 0.3 of the noise of 0.5.
_CARTPOLE_CONTROL: dict[str, Any] = {"policy_update.learning_rate": 0.15}

# What the authors of OpenES (Salimans et al. 2017) and ARS (Mania et al. 2018) used on MuJoCo.
_MUJOCO_OPENES: dict[str, Any] = {"evolution.std": 0.02, "evolution.learning_rate": 1e-2}
_MUJOCO_ARS: dict[str, Any] = {
    "evolution.std": 0.025,
    "evolution.optimizer": "sgd",
    "evolution.learning_rate": 0.02,
}

_WALKER_EVOLUTION: dict[str, dict[str, Any]] = {
    "openes": _MUJOCO_OPENES,
    "pgpe": _MUJOCO_OPENES,
    "ars": _MUJOCO_ARS,
    "cmaes": _MUJOCO_OPENES,
    "sepcmaes": _MUJOCO_OPENES,
}

_METHOD_TABLE: dict[str, dict[str, dict[str, Any]]] = {
    "cartpole": {
        "matched-openes": _CARTPOLE_CONTROL,
        "ridge": _CARTPOLE_CONTROL,
        "ridge-replay": _CARTPOLE_CONTROL,
        "openes": _CARTPOLE_EVOLUTION,
        "pgpe": _CARTPOLE_EVOLUTION,
        "ars": _CARTPOLE_EVOLUTION,
        "cmaes": _CARTPOLE_EVOLUTION,
        "sepcmaes": _CARTPOLE_EVOLUTION,
    },
    **dict.fromkeys(_WALKERS, _WALKER_EVOLUTION),
}
"""What a method changes in every preset of a task."""

TASKS: tuple[str, ...] = tuple(_TABLE)


def default_method(task: str, name: str) -> Method:
    """The method that a preset of a task trains unless told otherwise."""
    return _DEFAULT_METHODS.get((task, name), "epvf")


def preset(task: str, name: str = "tuned", method: str | None = None) -> Config:
    """The configuration of a task under a preset's name, for a method; None: its default.

    Raises:
        UserError: if there is no such task, preset or method, or the method is not for the task.
    """
    if task not in _TABLE:
        raise unknown("task", task, _TABLE)
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    method = method or default_method(task, name)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if not fits(task, method):
        lack = (
            f"needs an engine in JAX, which task {task!r} has not"
            if task in _WALKERS
            else f"has no discrete actions, which task {task!r} needs"
        )
        valid = ", ".join(name for name in METHODS if fits(task, name))
        raise UserError(f"method {method!r} {lack}; valid: {valid}")
    return replace(Config(), {"task.name": task, **_delta(task, name, method), "method": method})


def fits(task: str, method: str) -> bool:
    """Whether a method is for a task."""
    return method not in AGENTS or (task, method) in _OWN_TABLE


def _delta(task: str, name: str, method: str) -> dict[str, Any]:
    if (task, method) in _OWN_TABLE:
        return _OWN_TABLE[task, method][name]
    return _TABLE[task][name] | _METHOD_TABLE.get(task, {}).get(method, {})
