"""What spike counts alone tell about spoken digits: the ridge classifier of docs/results.md.

    python docs/scripts/ridge.py fsdd_train.h5 fsdd_test.h5

A sample is the counts of 70 groups of channels in 10 bins of time, or their square roots; the bins divide either 0.7 s,
or each recording from its start to its last spike, so that slow and quick speakers look alike. The penalty is the best
of seven by cross-validation on the training file. Accuracy on known and on unheard speakers, in percent.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluctua.lab.data import SHDFile

GROUPS, BINS, DURATION = 70, 10, 0.7
PENALTIES = 10.0 ** np.arange(0, 7)
FOLDS = 5

Numbers = NDArray[np.float64]


def counts(file: SHDFile, *, own_time: bool) -> Numbers:
    """Spikes of each sample in groups of channels and bins of time, `[samples, GROUPS * BINS]`."""
    found = np.zeros((len(file), GROUPS, BINS))
    for i in range(len(file)):
        events, _ = file[i]
        length = np.nextafter(events.times.max(), np.inf) if own_time else DURATION
        bins = (events.times / length * BINS).astype(int)
        inside = bins < BINS
        np.add.at(found[i], (events.units[inside] * GROUPS // file.n_units, bins[inside]), 1)
    return found.reshape(len(file), -1)


def scores(x: Numbers, labels: NDArray[np.int64], new: Numbers, penalty: float) -> Numbers:
    """One score per class for new samples, by least squares on centred counts."""
    mean, wanted = x.mean(axis=0), np.eye(labels.max() + 1)[labels]
    centred = x - mean
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (wanted - wanted.mean(0)))
    return (new - mean) @ weights + wanted.mean(axis=0)


def best_penalty(x: Numbers, labels: NDArray[np.int64]) -> float:
    """The penalty that predicts held-out folds best."""
    fold = np.random.default_rng(0).permutation(len(x)) % FOLDS

    def right(penalty: float) -> int:
        guesses = (scores(x[fold != k], labels[fold != k], x[fold == k], penalty).argmax(1) for k in range(FOLDS))
        return sum(int((guess == labels[fold == k]).sum()) for k, guess in enumerate(guesses))

    return float(max(PENALTIES, key=right))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    options = parser.parse_args()
    train, test = SHDFile(options.train), SHDFile(options.test)
    known = np.isin(test.speakers, train.speakers)
    print("bins of    values        penalty   train   known  unheard")
    for own_time in (False, True):
        x, new = (counts(file, own_time=own_time) for file in (train, test))
        for name, values in (("counts", np.asarray), ("square roots", np.sqrt)):
            penalty = best_penalty(values(x), train.labels)
            hit, fits = (
                scores(values(x), train.labels, values(some), penalty).argmax(axis=1) == file.labels
                for some, file in ((new, test), (x, train))
            )
            told = (fits.mean(), hit[known].mean(), hit[~known].mean())
            bins = "recording" if own_time else f"{DURATION:g} s"
            print(f"{bins:10} {name:13} {penalty:7g}", *(f"{100 * share:7.1f}" for share in told))


if __name__ == "__main__":
    main()
