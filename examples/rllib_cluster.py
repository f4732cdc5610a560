"""RLlib PPO, APPO or IMPALA on several processes or machines: env runners sample, learners update.

Run: python examples/rllib_cluster.py --runners 2            (starts Ray on this machine)
     python examples/rllib_cluster.py --address auto ...     (joins a cluster that runs already)
"""

import argparse

from textrl_agents.rllib import export_policy, make_config, ray_session, training_metrics

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--address", help="of a Ray cluster, such as auto or ray://head:10001; default: start one here")
parser.add_argument("--algo", default="ppo", choices=["ppo", "appo", "impala"])
parser.add_argument("--runners", type=int, default=2, help="processes that sample")
parser.add_argument("--learners", type=int, default=0, help="processes that update; 0: this one")
parser.add_argument("--cpus", type=float, default=0.5, help="CPUs of each process")
parser.add_argument("--gpus", type=float, default=0, help="GPUs of each process; a fraction lets some share one")
parser.add_argument("--rows", type=int, default=32, help="responses that each env runner samples at once")
parser.add_argument("--timesteps", type=int, default=60_000, help="generated tokens")
arguments = parser.parse_args()

# Models and rewards are named, not passed: every process loads what it needs. On several machines give paths that all
# of them have.
config = make_config(
    arguments.algo,
    {"task": "sentiment", "reward": "embedded"},
    total_timesteps=arguments.timesteps,
    num_env_runners=arguments.runners,
    num_envs_per_env_runner=arguments.rows,
    num_cpus_per_env_runner=arguments.cpus,
    num_gpus_per_env_runner=arguments.gpus,
    num_learners=arguments.learners,
    num_cpus_per_learner=arguments.cpus,
    num_gpus_per_learner=arguments.gpus,
    num_cpus_for_main_process=arguments.cpus,
    seed=0,
)
with ray_session(arguments.address):
    algorithm = config.build_algo()
    tokens = 0
    while tokens < arguments.timesteps:
        result = algorithm.train()
        tokens = int(result.get("num_env_steps_sampled_lifetime", 0))
        metrics = training_metrics(result)
        if "objective/scores" in metrics:  # an asynchronous learner does not finish a batch in every iteration
            healthy = result["fault_tolerance"]["num_healthy_workers"]
            print(
                f"{tokens:7,} tokens  score {metrics['objective/scores']:6.3f}  KL {metrics['objective/kl']:5.2f}  "
                f"env runners {healthy}"
            )
    export_policy(algorithm, "runs/rllib_cluster/policy")
    algorithm.stop()
