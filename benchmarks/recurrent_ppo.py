"""An agent with memory, trained by RecurrentPPO of sb3-contrib: on torch's LSTM, and on this package's.

    python -m pip install torch==2.13.0 stable-baselines3 sb3-contrib
    python benchmarks/recurrent_ppo.py --steps 20000

It balances CartPole-v1 without being shown velocities, in several carts at once.  Where an episode begins in
a batch, sb3-contrib calls its LSTM step by step; a `clstm.torch.LSTM` takes the beginnings as `resets` in one
call, by the method that is replaced here.  All train from the same seed, in turns, in one process:

* original: as it is installed;
* converted: its LSTMs after `clstm.torch.convert`, still called step by step;
* converted, resets: converted, and `_process_sequence` replaced.

Printed are the losses of the first iterations, which may differ by the rounding of float32 and what training
makes of it, and frames (steps of a cart) a second: medians over the iterations, and the medians of their
ratios within each round.
"""

import argparse
import statistics
import time

import gymnasium
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.ppo_recurrent import MlpLstmPolicy
from stable_baselines3.common.env_util import make_vec_env

import clstm
import clstm.torch

LOSSES = ("policy_gradient_loss", "value_loss", "entropy_loss")
ORIGINAL, CONVERTED, RESETS = "original", "converted", "converted, resets"


class PolicyWithResets(MlpLstmPolicy):
    """The policy of sb3-contrib, whose LSTMs are called once a batch; x and episode_starts are flat there."""

    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        sequences = lstm_states[0].shape[1]
        x = features.reshape(sequences, -1, lstm.input_size).swapaxes(0, 1)
        resets = episode_starts.reshape(sequences, -1).swapaxes(0, 1) != 0
        y, lstm_states = lstm(x, lstm_states, resets=resets)
        return y.swapaxes(0, 1).flatten(0, 1), lstm_states


class WithoutVelocities(gymnasium.ObservationWrapper):
    """A cart whose agent sees where it is and how far the pole leans, as in a photograph."""

    def __init__(self, env):
        super().__init__(env)
        low, high = env.observation_space.low[::2], env.observation_space.high[::2]
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation):
        """Leave out every other number."""
        return observation[::2]


class Contestant:
    """An agent in training, with a state of its own of the global generators, which sb3 draws from."""

    def __init__(self, name, arguments):
        self.name, self.frames = name, arguments.envs * arguments.rollout
        env = make_vec_env("CartPole-v1", arguments.envs, arguments.seed, wrapper_class=WithoutVelocities)
        self.model = RecurrentPPO(
            PolicyWithResets if name == RESETS else MlpLstmPolicy, env, device="cpu", seed=arguments.seed,
            n_steps=arguments.rollout, batch_size=arguments.batch, n_epochs=arguments.epochs,
            policy_kwargs={"lstm_hidden_size": arguments.units},
        )  # fmt: skip
        self.converted = 0 if name == ORIGINAL else clstm.torch.convert(self.model.policy)
        self.random = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        self.losses, self.seconds, self.seconds_of_training = [], [], []
        self._train, self.model.train = self.model.train, self._timed_train

    def _timed_train(self):
        start = time.perf_counter()
        self._train()
        self.seconds_of_training.append(time.perf_counter() - start)

    def iterate(self):
        """Act for a rollout and learn from it."""
        np.random.set_state(self.random[0])  # noqa: NPY002
        torch.set_rng_state(self.random[1])
        start = time.perf_counter()
        self.model.learn(self.frames, log_interval=None, reset_num_timesteps=not self.seconds)
        self.seconds.append(time.perf_counter() - start)
        self.random = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        self.losses.append([self.model.logger.name_to_value[f"train/{name}"] for name in LOSSES])


def options():
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, told in (
        ("steps", 20_000, "frames that each contestant trains on"),
        ("seed", 0, "of everything random"),
        ("threads", 1, "of torch and of clstm"),
        ("envs", 8, "carts at once"),
        ("rollout", 128, "steps of each cart before the agent learns from them"),
        ("batch", 128, "frames of a minibatch"),
        ("epochs", 10, "uses of a rollout"),
        ("units", 256, "hidden units of each of the two LSTMs"),
        ("shown", 5, "iterations whose losses are printed"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{told} (default: {default})")
    return parser.parse_args()


def main():
    """Train all contestants in turns; print their losses side by side, then their speed."""
    arguments = options()
    torch.set_num_threads(arguments.threads)
    clstm.set_num_threads(arguments.threads)
    contestants = [Contestant(name, arguments) for name in (ORIGINAL, CONVERTED, RESETS)]
    original, *others = contestants
    print(f"torch {torch.__version__}, clstm {clstm.__version__}; {vars(arguments)}")
    print(f"{others[0].converted} LSTMs converted\n")
    for n in range(max(2, arguments.steps // original.frames)):
        for contestant in contestants[n % 3 :] + contestants[: n % 3]:
            contestant.iterate()

    print(f"iteration: {', '.join(LOSSES)}; largest difference from the original")
    for n in range(min(arguments.shown, len(original.losses))):
        for contestant in contestants:
            losses = "  ".join(f"{loss:+.7f}" for loss in contestant.losses[n])
            difference = np.abs(np.subtract(contestant.losses[n], original.losses[n])).max()
            print(f"{n + 1:3}  {contestant.name:18} {losses}  {difference:.1e}")
    print("\nframes a second, and in training alone; times the original's, in the same round")
    for contestant in contestants:
        columns = []
        for name in ("seconds", "seconds_of_training"):
            # The first iteration is slower: caches and pools are empty.
            ours, theirs = getattr(contestant, name)[1:], getattr(original, name)[1:]
            ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
            columns.append(f"{contestant.frames / statistics.median(ours):8.0f} {ratio:6.2f}x")
        print(f"{contestant.name:18} {'   '.join(columns)}")
    rewards = [np.mean([e["r"] for e in each.model.ep_info_buffer]) for each in contestants]
    print(f"\nmean length of the last episodes: {', '.join(f'{reward:.0f}' for reward in rewards)}")


if __name__ == "__main__":
    main()
