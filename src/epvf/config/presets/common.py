"""What presets of several families share."""

from typing import Any, TypeAlias

Delta: TypeAlias = dict[str, Any]
"""Dotted fields and their values; a method takes those that it reads."""

# V as a regression that forgets: on offsets from θ in units of the noise the least-squares problem
# is white, so one gradient step of rate a moves V by a fraction 2a from what it knew to what the
# newest population says. Under returns this noisy, averaging over iterations beats fitting hard.
LINEAR_VALUE: Delta = {
    "value.hidden_sizes": [],
    "value.inputs": "standardised",
    "value.zero_init": True,
    "target.transform": "centred_ranks",
    "value_update.steps": 1,
    "value_update.optimizer": "sgd",
    "value_update.learning_rate": 0.1,
    "policy_update.steps": 1,
}

# V as a regression on what policies do rather than on their weights: kernel ridge regression on
# their actions in states that the newest of them met, over all that is stored. It knows returns
# near the policies that it has seen, so θ stays among them: docs/reproduction.md, "V(θ) by what
# policies do".
KERNEL_VALUE: Delta = {
    "representation.name": "kernel",
    "representation.probing_init": "visited",
    "representation.num_probing_states": 64,
    "representation.num_landmarks": 512,
    "value.hidden_sizes": [],
    # read where the representation is another one
    "value.inputs": "standardised",
    "target.transform": "centred_ranks",
    "value_update.fit": "ridge",
    "value_update.ridge": 1e-4,
    "policy_update.optimizer": "normalised",
    "policy_update.learning_rate": 6e-3,
    "policy_update.final_learning_rate": None,
    "policy_update.steps": 40,
    "policy_update.max_change": 0.6,
    "buffer.size": 8192,
    "value_update.batch_size": 8192,
}

# PPO of RL-X, the paper's authors' code, in November 2024 (2e9 env steps); its SAC's network sizes
# and number of environments are ours.
PPO_PAPER: Delta = {
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

PPO_TUNED: Delta = {
    "policy.hidden_sizes": [256, 128],
    "policy.activation": "elu",
    "policy.output": "tanh",
    "num_envs": 1024,
    "iterations": 1221,
    "eval.interval": 50,
}

SAC_PAPER: Delta = {
    "policy.hidden_sizes": [256, 256],
    "policy.activation": "relu",
    "policy.output": "tanh",
    "sac.updates": 64,
    "sac.normalize_observations": False,
    "num_envs": 64,
    "iterations": 976_563,
    "eval.interval": 500,
}

# V(s, θ) on every step. Noise alike on all weights, whose size is adapted to the actions. The last
# layer starts small: policies drawn as usual act with half of their force before anything is known,
# and a HalfCheetah may stay on its back. Why that, and why gamma grows: docs/recipe.md.
PSVF: Delta = {
    "policy.last_layer_scale": 0.05,
    "perturbation.noise": "gaussian",
    "perturbation.scale": 0.05,
    "policy_update.optimizer": "adam",
    "policy_update.learning_rate": 1e-3,
    "psvf.final_noise": 0.1,
    "psvf.final_discount": 0.995,
    # what counts is how often θ moves, not how many policies a move has seen: docs/recipe.md
    "num_envs": 256,
    "iterations": 1526,
    "schedule_iterations": 1221,
    "eval.interval": 100,
}

PSVF_DEBUG: Delta = {
    **PSVF,
    "policy.hidden_sizes": [8],
    "psvf.hidden_sizes": [8],
    "psvf.horizon": 8,
    "psvf.minibatches": 2,
    "num_envs": 32,
    "iterations": 5,
    "schedule_iterations": None,
    "eval.interval": 2,
    "eval.episodes": 8,
}
