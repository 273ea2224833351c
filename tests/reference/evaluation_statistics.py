"""Statistics of scores, computed with NumPy and SciPy.

Writes runtime/evaluation/src/statistics/goldens.json, which the tests of anyid-evaluation compare with.
Only the generator of random numbers is written down once more (SHA-256 and SplitMix64), so that resampled
intervals can be compared to the last digits; everything else is the work of the packages.

    pip install numpy scipy
    python tests/reference/evaluation_statistics.py
"""

import hashlib
import itertools
import json
import pathlib

import numpy as np
from scipy import special, stats

MASK = (1 << 64) - 1


class Draws:
    """The generator of runtime/files/src/resample.rs."""

    def __init__(self, seed, purpose, key):
        digest = hashlib.sha256(seed + b"\0" + purpose.encode() + b"\0" + key.encode()).digest()
        self.state = int.from_bytes(digest[:8], "little")

    def below(self, bound):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        word = self.state
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
        word ^= word >> 31
        return (word * bound) >> 64


def bootstrap(strata, resamplings, name):
    draws = Draws(b"0", "evaluation", name)
    means = []
    for _ in range(resamplings):
        drawn = [stratum[draws.below(len(stratum))] for stratum in strata for _ in stratum]
        means.append(np.mean(drawn))
    return np.percentile(means, [2.5, 97.5]).tolist()


def all_signs(values):
    """The two-sided probability over all signs of the ranks."""
    values = np.array([value for value in values if value != 0])
    ranks = stats.rankdata(np.abs(values))
    observed = ranks[values > 0].sum()
    few = min(observed, ranks.sum() - observed)
    sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=len(ranks))]
    return min(1.0, 2 * np.mean(np.array(sums) <= few + 1e-9))


def wilcoxon(rng):
    cases = []
    for n in (6, 12, 40):  # without ties: SciPy's exact distribution
        values = rng.normal(0.4, 1, n).tolist()
        cases.append({"values": values, "p": stats.wilcoxon(values, method="exact").pvalue})
    for n in (5, 10, 14):  # with ties and zeros: all signs are counted here
        values = rng.integers(-3, 5, n).astype(float).tolist()
        cases.append({"values": values, "p": all_signs(values)})
    for n in (90, 200):  # many, with ties and without
        rounded = np.round(rng.normal(0.3, 2, n)).tolist()
        smooth = rng.normal(0.1, 1, n).tolist()
        for values in (rounded, smooth):
            test = stats.wilcoxon(values, zero_method="wilcox", correction=True, method="approx")
            cases.append({"values": values, "p": test.pvalue})
    return cases


def main():
    rng = np.random.default_rng(17)
    strata = [rng.normal(70, 5, 12).tolist(), rng.normal(60, 9, 7).tolist()]
    pairs = np.round(rng.normal(50, 4, (25, 2))) + np.round(rng.normal(0, 3, 25))[:, None]
    goldens = {
        "bootstrap": {"strata": strata, "interval": bootstrap(strata, 400, "IPT2V/holi_arc/ours")},
        "deviation": float(np.std(strata[0] + strata[1], ddof=1)),
        "wilcoxon": wilcoxon(rng),
        "agreement": {
            "pairs": pairs.tolist(),
            "spearman": stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic,
            "kendall": stats.kendalltau(pairs[:, 0], pairs[:, 1]).statistic,
        },
        "complementary": [[x, special.erfc(x)] for x in (0.0, 0.1, 0.7, 1.5, 2.9, 3.0, 4.2, 9.0)],
    }
    root = pathlib.Path(__file__).resolve().parents[2]
    path = root / "runtime/evaluation/src/statistics/goldens.json"
    path.write_text(json.dumps(goldens) + "\n")
    print(path)


main()
