"""Intervals, comparisons and plans that hold for new training seeds and new images alike.

A row's score is the mean over its seeds of the mIoU of the confusion matrix summed over all images. It would differ
with other seeds and with other images of the same kind. What is estimated here is its expectation over both, for the
classes that occur in these labels and for as many images; differences of rows are paired by seed and image. How well
the intervals cover was simulated by ``experiments/interval_coverage.py``; ``docs/statistics.md`` has the numbers.

**Image noise** is that of the Bayesian bootstrap (Rubin, "The Bayesian bootstrap", Annals of Statistics 1981): every
draw gives the groups of images (a video sequence is a group) Dirichlet(1, ..., 1) weights, so that no class ever drops
out. The same draws serve all rows and seeds. Departure: a class's residuals, hits minus IoU times union, are divided by
√(1 − h) with h the image's share of the class's labelled pixels, its leverage (MacKinnon and White, "Some
heteroskedasticity-consistent covariance matrix estimators", J. Econometrics 1985, their HC2; Royall and Cumberland,
"An empirical study of the ratio estimator", JASA 1981, for ratios), and deviations are multiplied by √((G + 1) / G):
for a mean of G numbers the variance is then the unbiased s²/G. Without it the noise of classes that few images have is
missed; with 6 sequences that was a third of the standard error. Its degrees of freedom are G − 1, with G the effective
number of groups (Σ n_g)² / Σ n_g² (Kish, "Survey Sampling", 1965) where they have different numbers n_g of images.

**Variance of a mean over S seeds**, seeds and images crossed at random. The sample variance s² of the seeds' scores on
the same images estimates seed noise plus seed-by-image interaction; the bootstrap variance of the mean over seeds
estimates the images' common noise plus the interaction over S. Their sum would have the interaction twice (Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 2007), so it is taken off the second: what remains is the mean
covariance of two seeds' draws, at least 0.

**Reference distribution.** The error is compared with √V_seed·T(S − 1) + √V_image·T(G − 1), two independent t
variables: the Behrens-Fisher distribution (Fisher, "The fiducial argument in statistical inference", Annals of Eugenics
1935; as a posterior under flat priors, Jeffreys 1940), integrated numerically. Satterthwaite's t for the same variances
holds in .88 of cases at two seeds and .91 at three where seed noise leads: its degrees of freedom are large just when
s² happens to be too small. Degrees of freedom that are reported are those of the t with the same critical value.

**Pooling**, where asked for: all rows' residual seed noise (rows × seeds, both means removed, as in a two-way analysis
of variance) enters a difference's s² like :data:`PRIOR_DF` further degrees of freedom (the moderated variance of Smyth,
"Linear models and empirical Bayes methods", SAGMB 2004; departure: their number is fixed, not estimated from a dozen
noisy variances). It assumes that rows' seed noise is of one size within a factor of about two; rows that are noisier
than the rest are covered less than it says.

**Families** are adjusted by Holm's procedure (Holm, "A simple sequentially rejective multiple test procedure",
Scandinavian J. Statistics 1979), valid however the comparisons depend; simultaneous intervals are Bonferroni's.
"""

from uda.bench.intervals.families import (
    Adjusted,
    Ties,
    bonferroni_interval,
    holm_family,
    holm_p_values,
    holm_ties,
    letter,
    letter_display,
    tied_groups,
)
from uda.bench.intervals.noise import (
    LEVEL,
    ROUNDING,
    Estimate,
    Floats,
    Ints,
    Noise,
    behrens_fisher_quantile,
    behrens_fisher_tail,
    crossed_noise,
    degrees_of_images,
    estimate,
    group_weights,
    score_deviations,
    sum_groups,
)
from uda.bench.intervals.plans import MAX_SEEDS, POWER, detectable_difference, seeds_needed
from uda.bench.intervals.scores import PRIOR_DF, Bools, ImageScores

__all__ = [
    "LEVEL",
    "MAX_SEEDS",
    "POWER",
    "PRIOR_DF",
    "ROUNDING",
    "Adjusted",
    "Bools",
    "Estimate",
    "Floats",
    "ImageScores",
    "Ints",
    "Noise",
    "Ties",
    "behrens_fisher_quantile",
    "behrens_fisher_tail",
    "bonferroni_interval",
    "crossed_noise",
    "degrees_of_images",
    "detectable_difference",
    "estimate",
    "group_weights",
    "holm_family",
    "holm_p_values",
    "holm_ties",
    "letter",
    "letter_display",
    "score_deviations",
    "seeds_needed",
    "sum_groups",
    "tied_groups",
]
