"""Statistics of preferences, computed with NumPy, SciPy, statsmodels and krippendorff.

Writes runtime/preference/src/goldens.json, which the tests of anyid-preference compare with. Only the
generator of random numbers is written down once more (SHA-256 and SplitMix64), so that resampled
intervals can be compared to the last digits; everything else is the work of the packages.

    pip install numpy scipy statsmodels krippendorff
    python tests/reference/preference.py
"""

import hashlib
import json
import pathlib

import krippendorff
import numpy as np
from scipy import optimize, stats
from statsmodels.stats import inter_rater, multitest, proportion

MASK = (1 << 64) - 1


class Draws:
    """The generator of runtime/preference/src/random.rs."""

    def __init__(self, seed, purpose, key):
        digest = hashlib.sha256(seed + b"\0" + purpose.encode() + b"\0" + key.encode()).digest()
        self.state = int.from_bytes(digest[:8], "little")

    def bits(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        word = self.state
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
        return word ^ (word >> 31)

    def below(self, bound):
        return (self.bits() * bound) >> 64


def alpha(units, values=3):
    table = np.array([[unit.count(value) for value in range(values)] for unit in units])
    table = table[table.sum(axis=1) > 1]
    return krippendorff.alpha(value_counts=table, level_of_measurement="nominal")


def agreement(rng):
    """Answers of 3 to 5 people on 40 items, some missing."""
    units = []
    for _ in range(40):
        truth = int(rng.integers(0, 3))
        count = int(rng.integers(1, 6))
        units.append([truth if rng.random() < 0.6 else int(rng.integers(0, 3)) for _ in range(count)])
    draws = Draws(b"0", "agreement", "")
    resampled = []
    for _ in range(200):
        resampled.append(alpha([units[draws.below(len(units))] for _ in units]))
    interval = np.percentile(resampled, [2.5, 97.5])
    full = [[int(v) for v in rng.integers(0, 3, 4)] for _ in range(25)]
    counts = np.array([[unit.count(value) for value in range(3)] for unit in full])
    pairs = [(unit[0], unit[1]) for unit in full]
    square = np.zeros((3, 3))
    for first, second in pairs:
        square[first, second] += 1
    return {
        "units": units,
        "alpha": alpha(units),
        "interval": list(interval),
        "full": full,
        "fleiss": inter_rater.fleiss_kappa(counts),
        "cohen": inter_rater.cohens_kappa(square).kappa,
    }


def rates(rng):
    cases = []
    for wins, decided in [(0, 1), (1, 1), (3, 7), (28, 40), (12, 40), (560, 800), (401, 800), (0, 30), (500, 700)]:
        low, high = proportion.proportion_confint(wins, decided, method="wilson")
        p = stats.binomtest(wins, decided).pvalue
        cases.append({"wins": wins, "decided": decided, "wilson": [low, high], "sign": p})
    values = list(rng.random(9) ** 3)
    corrected = list(multitest.multipletests(values, method="holm")[1])
    people = [[float(rng.choice([0, 0.5, 1], p=[0.3, 0.1, 0.6])) for _ in range(int(rng.integers(1, 12)))] for _ in range(8)]
    draws = Draws(b"0", "nested", "golden")
    means = []
    for _ in range(300):
        drawn = []
        for _ in people:
            answers = people[draws.below(len(people))]
            drawn += [answers[draws.below(len(answers))] for _ in answers]
        means.append(np.mean(drawn))
    return {
        "cases": cases,
        "p": values,
        "holm": corrected,
        "people": people,
        "nested": list(np.percentile(means, [2.5, 97.5])),
    }


def strengths(rng):
    """The likelihood of Bradley and Terry, maximised by a general optimiser."""
    wins = rng.integers(1, 20, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0)

    def loss(logits):
        difference = logits[:, None] - logits[None, :]
        return np.sum(wins * np.log1p(np.exp(-difference))) + 1e-9 * np.sum(logits**2)

    found = optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-10})
    share = np.exp(found.x - found.x.max())
    return {"wins": wins.tolist(), "strengths": list(share / share.sum())}


def main():
    rng = np.random.default_rng(17)
    goldens = {"agreement": agreement(rng), "rates": rates(rng), "strengths": strengths(rng)}
    root = pathlib.Path(__file__).resolve().parents[2]
    path = root / "runtime/preference/src/goldens.json"
    path.write_text(json.dumps(goldens) + "\n")
    print(path)


if __name__ == "__main__":
    main()
