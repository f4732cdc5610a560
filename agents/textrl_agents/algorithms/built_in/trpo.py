"""Trust region policy optimisation: the natural gradient's direction, as far as a bound on the KL allows.

Schulman et al. 2015 (https://arxiv.org/abs/1502.05477). The class is sb3-contrib's, with one method replaced: it takes
all gradients in one backward pass.
"""

from textrl_agents.algorithms.libraries.sb3 import ON_POLICY, SB3_CONTRIB, SB3Algorithm

ALGORITHM = SB3Algorithm(
    name="trpo",
    description="sb3-contrib TRPO, its gradients in one backward pass",
    requires=SB3_CONTRIB,
    algorithm_class="textrl_agents.sb3.own.trpo:TRPO",
    kind="critic",
    defaults={**ON_POLICY, "gae_lambda": 1.0, "cg_max_steps": 6, "n_critic_updates": 4, "target_kl": 0.02},
    minibatches=4,
    # Its step needs second derivatives. Fused attention kernels do not have them.
    policy_kwargs={"attention": "eager"},
    settings={"n_envs": 32, "policy_kwargs": {"value_trunk": "separate"}},
    task_settings={
        "exact": {
            "n_envs": 128,
            "n_steps": 20,
            "batch_size": 640,
            "target_kl": 0.004,
            "cg_max_steps": 5,
            "n_critic_updates": 2,
            "learning_rate": 3e-3,
        },
    },
)
