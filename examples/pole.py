"""Balance a pole whose speed is not shown: an LSTM learns it by trial, the same without memory does not.

A cart is pushed to the left or to the right, 50 times a second, so that the pole on it stays up.  The agent
sees where the cart is and how far the pole leans; how fast they move it can tell only from what it has seen
before.  Many carts run at once, and their episodes end and begin anywhere in a rollout: `resets` say where.

The agent without memory is the same LSTM with a reset before every step.  A third agent has no memory either,
but is shown the velocities, and solves the task: the velocities are all that the second one lacks.

The cart is that of A. G. Barto, R. S. Sutton, C. W. Anderson, "Neuronlike adaptive elements that can solve
difficult learning control problems", 1983, without friction.  The agents learn by J. Schulman et al.,
"Proximal policy optimization algorithms", 2017.
"""

import sys
import time
from typing import NamedTuple

import numpy as np
from _shared import options, save
from matplotlib.figure import Figure

import clstm
from clstm import nn, plot

# The cart, in kg, m, s, N and rad.  Its state: position, velocity, angle, angular velocity.
GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
POSITION, VELOCITY, ANGLE, SPIN = range(4)
LIMITS = np.array([2.4, np.inf, np.radians(12), np.inf])  # beyond them an episode has failed
SCALES = np.array([0.5, 2.0, 0.05, 2.0])  # the units in which an agent sees the state
LONGEST = 500  # steps of an episode

# The training.
UNITS, CARTS, STEPS, EPOCHS = 32, 16, 128, 6  # hidden units; steps of a rollout, and uses of it
LEARNING_RATE, MAX_NORM, CLIP, DISCOUNT, DECAY = 0.003, 0.5, 0.2, 0.99, 0.95
SOLVED, EPISODES = 475, 100  # the mean length that counts as solved, and of how many episodes

AGENTS = {  # what each sees, and whether it has memory
    "LSTM": ((POSITION, ANGLE), True),
    "without memory": ((POSITION, ANGLE), False),
    "without memory, shown the velocities": ((POSITION, VELOCITY, ANGLE, SPIN), False),
}


def move(state, force):
    """Return the states (..., 4) after one step of Euler's method."""
    _, velocity, angle, spin = np.moveaxis(state, -1, 0)
    sine, cosine, mass, moment = np.sin(angle), np.cos(angle), CART + POLE, POLE * HALF_LENGTH
    push = (force + moment * spin**2 * sine) / mass
    angular = (GRAVITY * sine - cosine * push) / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / mass))
    linear = push - moment * angular * cosine / mass
    return state + SECONDS * np.stack([velocity, linear, spin, angular], axis=-1)


class Carts:
    """Carts side by side, each with episodes of its own."""

    def __init__(self, count, rng):
        self.rng, self.state, self.ages = rng, np.empty((count, 4)), np.empty(count, int)
        self.begin(np.full(count, True))

    def begin(self, rows):
        """Begin new episodes: nearly upright, nearly at rest."""
        self.state[rows] = self.rng.uniform(-0.05, 0.05, (rows.sum(), 4))
        self.ages[rows] = 0

    def push(self, right):
        """Push each to the right or to the left; return which have failed, and whose episode has ended."""
        self.state = move(self.state, np.where(right, FORCE, -FORCE))
        self.ages += 1
        failed = (np.abs(self.state) > LIMITS).any(axis=1)
        return failed, failed | (self.ages == LONGEST)


class Agent:
    """An LSTM with two heads: the logit of a push to the right, and the value."""

    def __init__(self, seen, memory, rng):
        self.seen, self.forgets = list(seen), not memory
        self.lstm = clstm.LSTM(len(seen), UNITS, rng=rng)
        self.policy, self.value = (nn.Dense(UNITS, 1, rng=rng) for _ in range(2))
        self.policy.params["weight"] *= 0.1  # begin with pushes at random
        self.layers = [self.lstm, self.policy, self.value]

    def see(self, state):
        """Return what it sees of states (..., 4)."""
        return state[..., self.seen] / SCALES[self.seen]


class Rollout(NamedTuple):
    """What has happened to all carts over some steps; arrays (STEPS, CARTS, ...)."""

    x: np.ndarray  # one step longer: with what is seen after the last push
    resets: np.ndarray  # as long as x
    state: tuple  # of the LSTM, before the first step
    signs: np.ndarray  # 1 for a push to the right, -1 for one to the left
    failed: np.ndarray
    ended: np.ndarray


def log_probability(logits, signs):
    """Return the logarithm of the probability of a push to the right (sign 1) or to the left (-1)."""
    return -np.logaddexp(0, -signs * logits)


def roll_out(agent, stream, carts, lengths):
    """Let the agent act for some steps; append the lengths of the episodes that end to `lengths`."""
    x = np.empty((STEPS + 1, CARTS, len(agent.seen)))
    resets = np.empty((STEPS + 1, CARTS), bool)
    signs, (failed, ended) = np.empty((STEPS, CARTS)), np.empty((2, STEPS, CARTS), bool)
    state = stream.state
    for t in range(STEPS):
        x[t], resets[t] = agent.see(carts.state), (carts.ages == 0) | agent.forgets
        stream.reset(resets[t])
        logits = agent.policy(stream.step(x[t]))[:, 0]
        right = carts.rng.random(CARTS) < np.exp(log_probability(logits, 1))
        signs[t] = np.where(right, 1, -1)
        failed[t], ended[t] = carts.push(right)
        lengths.extend(carts.ages[ended[t]])
        carts.begin(ended[t])
    x[-1], resets[-1] = agent.see(carts.state), (carts.ages == 0) | agent.forgets
    return Rollout(x, resets, state, signs, failed, ended)


def advantages_of(rollout, values):
    """Return by how much each push went better than expected; the reward of a step is 1 - DISCOUNT."""
    after = np.where(rollout.ended, values[:-1], values[1:])  # what stands to the end would stand on
    surprise = (1 - DISCOUNT) + DISCOUNT * np.where(rollout.failed, 0, after) - values[:-1]
    advantages, later = np.empty_like(surprise), 0
    for t in reversed(range(STEPS)):
        advantages[t] = later = surprise[t] + DISCOUNT * DECAY * np.where(rollout.ended[t], 0, later)
    return advantages


def learn(agent, optimiser, rollout):
    """Make what went better than expected likelier, within the limits of PPO, and learn the values."""
    x, resets, state, signs = rollout[:4]
    y, _ = agent.lstm(x, state, resets=resets)  # what the stream has computed, to the bit
    values = agent.value(y)[..., 0]
    advantages = advantages_of(rollout, values)
    returns = values[:-1] + advantages
    advantages = (advantages - advantages.mean()) / advantages.std()
    before = log_probability(agent.policy(y[:-1])[..., 0], signs)
    for _ in range(EPOCHS):
        y, _ = agent.lstm.forward(x[:-1], state, resets=resets[:-1])
        logits, values = agent.policy.forward(y)[..., 0], agent.value.forward(y)[..., 0]
        log_p = log_probability(logits, signs)
        ratio = np.exp(log_p - before)
        # loss = mean(-min(ratio A, clip(ratio) A) + (values - returns)^2 / 2)
        enough = np.where(advantages > 0, ratio > 1 + CLIP, ratio < 1 - CLIP)
        dlog_p = np.where(enough, 0, -ratio * advantages) / ratio.size
        dlogits = dlog_p * signs * (1 - np.exp(log_p))
        dvalues = (values - returns) / ratio.size
        dy = agent.policy.backward(dlogits[..., None]) + agent.value.backward(dvalues[..., None])
        agent.lstm.backward(dy)
        nn.clip_grad_norm(agent.layers, MAX_NORM)
        optimiser.step()


def train(agent, updates, rng):
    """Train until the task is solved or the updates are used up; return the mean length after each."""
    carts, stream = Carts(CARTS, rng), agent.lstm.stream(CARTS)
    optimiser = nn.Adam(agent.layers, LEARNING_RATE)
    lengths, means = [], []
    while len(means) < updates and (not means or means[-1] < SOLVED):
        learn(agent, optimiser, roll_out(agent, stream, carts, lengths))
        stream.refresh()
        means.append(np.mean(lengths[-EPISODES:]))
    return means


def play(agent, rng):
    """Play with the likelier push: return states, hidden states and which poles still stand, (T, B, ...)."""
    carts, stream = Carts(EPISODES, rng), agent.lstm.stream(EPISODES)
    states, hidden, standing = [], [], [np.full(EPISODES, True)]  # a cart that has failed runs on
    for _ in range(LONGEST):
        stream.reset(np.full(EPISODES, agent.forgets))
        states.append(carts.state)
        hidden.append(stream.step(agent.see(carts.state)))
        failed, _ = carts.push(agent.policy(hidden[-1])[:, 0] > 0)
        standing.append(standing[-1] & ~failed)
    return np.array(states), np.array(hidden), np.array(standing[:-1])


def spin_told_by(features, states, standing):
    """Fit a linear map to every second cart's spin; return all it tells, and how much of the others' spin."""
    features, spin = np.insert(features, 0, 1, axis=-1), states[..., SPIN]
    fitted, others = standing.copy(), standing.copy()
    fitted[:, ::2] = others[:, 1::2] = False
    told = features @ np.linalg.lstsq(features[fitted], spin[fitted], rcond=None)[0]
    return told, 1 - np.var((spin - told)[others]) / np.var(spin[others])


def draw(curves, state, told):
    """Draw the training of all agents, and an episode: its states (T, 4), and its spin as told (T,)."""
    fields = Figure(figsize=(12, 5), layout="constrained").subplot_mosaic("ab;ac")
    for (name, means), (color, style) in zip(curves.items(), plot.STYLES, strict=False):
        steps = STEPS * CARTS / 1000 * np.arange(1, len(means) + 1)
        fields["a"].plot(steps, means, style, color=color, label=name)
    fields["a"].axhline(SOLVED, color="0.6", linewidth=0.8, zorder=0)
    fields["a"].text(0, SOLVED, "solved", color="0.4", va="bottom")
    fields["a"].set_title(f"Steps that the pole stands, mean of {EPISODES} episodes", loc="left")
    fields["a"].set_xlabel("thousands of steps, all carts together")
    fields["a"].legend(frameon=False)
    seconds, degrees = SECONDS * np.arange(len(state)), np.degrees(state)
    fields["b"].plot(seconds, degrees[:, ANGLE], color="0.2")
    fields["b"].set_title("Angle, which the LSTM sees (degrees)", loc="left")
    fields["c"].plot(seconds, degrees[:, SPIN], color="0.2")
    fields["c"].plot(seconds, np.degrees(told), "--", color=plot.STYLES[0][0])
    fields["c"].set_title("Angular velocity, not seen (degrees/s); dashed: linear map of h", loc="left")
    fields["c"].set_xlabel("seconds")
    for axes in fields.values():
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    return axes.figure


def main():
    """Train all agents, tell how long their poles stand, look into the LSTM's memory, and draw."""
    arguments = options(__doc__, seed=0)
    updates = 25 if arguments.quick else 300
    curves, played = {}, {}
    for name, (seen, memory) in AGENTS.items():
        rng, start = np.random.default_rng(arguments.seed), time.perf_counter()
        agent = Agent(seen, memory, rng)
        means = curves[name] = train(agent, updates, rng)
        seconds = time.perf_counter() - start
        _, _, standing = played[name] = play(agent, rng)
        print(
            f"{name}: the pole stands {means[-1]:.0f} of {LONGEST} steps after training on "
            f"{len(means) * STEPS * CARTS} ({seconds:.0f} s), "
            f"{standing.sum(axis=0).mean():.0f} with the likelier push each time."
        )

    states, hidden, standing = played["LSTM"]
    told, by_hidden = spin_told_by(hidden, states, standing)
    _, by_seen = spin_told_by(states[..., [POSITION, ANGLE]], states, standing)
    print("Of the variance of the angular velocity, which the LSTM does not see, a linear map explains")
    print(f"{by_hidden:.0%} from its hidden state, and {by_seen:.0%} from what it sees.")
    save(draw(curves, states[:150, 0], told[:150, 0]), arguments.output / "pole.png")

    with_memory, without, shown = (means[-1] for means in curves.values())
    holds = without < 100 and min(with_memory, shown) >= (2 * without if arguments.quick else SOLVED)
    print("Memory holds the pole up." if holds else "Not what was expected: see above.")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
