"""Robots that walk: the Ant's presets, unchanged from one to the next."""

from epvf.config.presets.common import (
    KERNEL_VALUE,
    LINEAR_VALUE,
    PPO_PAPER,
    PPO_TUNED,
    PSVF,
    PSVF_DEBUG,
    SAC_PAPER,
    Delta,
)

DEFAULT_METHODS = {"tuned": "psvf"}
"""What a preset trains unless told otherwise; `epvf` where nothing stands here."""

# What the paper does not say (the policies' size, V's activation and the scaling of its inputs and
# targets) is the best of a search: docs/reproduction.md.
_PAPER: Delta = {
    "policy.hidden_sizes": [32],
    "policy.output": "clip",
    "perturbation.noise": "scaled_uniform",
    "perturbation.scale": 0.3,
    "buffer.size": 4096,
    "value.hidden_sizes": [256, 256],
    "value.activation": "tanh",
    "value.inputs": "standardised",
    "target.transform": "standardised",
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

PRESETS: dict[str, Delta] = {
    "paper": _PAPER,
    "tuned": {
        **_PAPER,
        **LINEAR_VALUE,
        "policy.hidden_sizes": [64, 64],
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
        **_PAPER,
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
"""For every method that has none of its own."""

_CLIP_PSVF: Delta = {**PSVF, "policy.output": "clip"}

OWN: dict[str, dict[str, Delta]] = {
    "epvf": {
        "paper": _PAPER,
        "tuned": {
            **_PAPER,
            **KERNEL_VALUE,
            "policy.hidden_sizes": [64, 64],
            "num_envs": 1024,
            "iterations": 50,
        },
        "debug": PRESETS["debug"],
    },
    "psvf": {
        # the paper has no such method; its number of environments and, by guess, of env steps
        "paper": {
            **_CLIP_PSVF,
            "num_envs": 4096,
            "iterations": 15_259,
            "schedule_iterations": None,
        },
        "tuned": _CLIP_PSVF,
        "debug": {**PSVF_DEBUG, "policy.output": "clip", "task.episode_length": 50},
    },
    "ppo": {
        "paper": PPO_PAPER,
        "tuned": PPO_TUNED,
        "debug": {
            **PPO_TUNED,
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
    "sac": {
        "paper": SAC_PAPER,
        "tuned": {
            **SAC_PAPER,
            # holds the whole run: Brax shifts all of a full buffer at every step, which costs most
            "sac.replay_size": 5_000_000,
            "sac.updates": 8,
            "sac.normalize_observations": True,
            "num_envs": 128,
            "iterations": 1000,
            "eval.interval": 50,
        },
        "debug": {
            **SAC_PAPER,
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
}
"""Of methods that have their own presets."""

# What the authors of OpenES (Salimans et al. 2017) and ARS (Mania et al. 2018) used on MuJoCo.
_MUJOCO_OPENES: Delta = {"evolution.std": 0.02, "evolution.learning_rate": 1e-2}

_MUJOCO_ARS: Delta = {
    "evolution.std": 0.025,
    "evolution.optimizer": "sgd",
    "evolution.learning_rate": 0.02,
}

CHANGES: dict[str, Delta] = {
    "openes": _MUJOCO_OPENES,
    "pgpe": _MUJOCO_OPENES,
    "ars": _MUJOCO_ARS,
    "cmaes": _MUJOCO_OPENES,
    "sepcmaes": _MUJOCO_OPENES,
}
"""What a method changes in every preset."""
