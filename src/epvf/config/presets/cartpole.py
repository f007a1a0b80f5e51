"""CartPole, and other tasks of discrete actions."""

from epvf.config.presets.common import LINEAR_VALUE, PPO_PAPER, PPO_TUNED, PSVF, PSVF_DEBUG, Delta

DEFAULT_METHODS: dict[str, str] = {}
"""What a preset trains unless told otherwise; `epvf` where nothing stands here."""

# What the paper does not say is the best of a short search (docs/reproduction.md): policies that
# start large, beside which its noise of deviation 1 is small, and a rate that falls.
_PAPER: Delta = {
    "policy.hidden_sizes": [64, 64],
    "policy.output": "argmax",
    "policy.init_scale": 10.0,
    "perturbation.noise": "gaussian",
    "perturbation.scale": 1.0,
    "buffer.size": 100_000,
    "value.hidden_sizes": [64, 64],
    "value_update.batch_size": 16,
    "value_update.steps": 10,
    "value_update.learning_rate": 1e-3,
    "policy_update.steps": 10,
    "policy_update.learning_rate": 3e-3,
    "policy_update.final_learning_rate": 3e-4,
    "num_envs": 8,
    "iterations": 3000,
    "eval.interval": 50,
}

PRESETS: dict[str, Delta] = {
    "paper": _PAPER,
    "tuned": {
        **LINEAR_VALUE,
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
}
"""For every method that has none of its own."""

_PSVF_TUNED: Delta = {
    **PSVF,
    "policy.output": "argmax",
    "iterations": 240,
    "schedule_iterations": None,
}

OWN: dict[str, dict[str, Delta]] = {
    "psvf": {
        "paper": {**_PSVF_TUNED, "num_envs": 16},
        "tuned": _PSVF_TUNED,
        "debug": {**PSVF_DEBUG, "policy.output": "argmax"},
    },
    "ppo": {
        # nobody has published any for CartPole in this setting
        "paper": {**PPO_PAPER, "policy.output": "argmax", "num_envs": 256, "iterations": 100},
        "tuned": {
            **PPO_TUNED,
            "policy.hidden_sizes": [64, 64],
            "policy.output": "argmax",
            "ppo.value_hidden_sizes": [64, 64],
            "num_envs": 64,
            "iterations": 150,
            "eval.interval": 10,
        },
        "debug": {
            **PPO_TUNED,
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
"""Of methods that have their own presets."""

# Their noise is their own, and smaller than the paper's.
_EVOLUTION: Delta = {
    "policy.init_scale": 1.0,
    "evolution.std": 0.5,
    "evolution.learning_rate": 0.1,
}

# Under Adam a weight moves as far as by the normalised steps of `tuned`: 0.3 of the noise of 0.5.
_CONTROL: Delta = {
    "policy_update.learning_rate": 0.15,
    "policy_update.final_learning_rate": None,
}

CHANGES: dict[str, Delta] = {
    "matched-openes": _CONTROL,
    "ridge": _CONTROL,
    "ridge-replay": _CONTROL,
    "openes": _EVOLUTION,
    "pgpe": _EVOLUTION,
    "ars": _EVOLUTION,
    "cmaes": _EVOLUTION,
    "sepcmaes": _EVOLUTION,
}
"""What a method changes in every preset."""
