# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Domain adaptation for semantic image segmentation
#
# **Question.** A network that segments street scenes is trained on one public data set. On images of another camera,
# another town, another light it is worse. How much worse, why, and which of the published remedies give the loss back
# when the other domain has *no labels*?
#
# **Method.** One network, one trainer and one benchmark measure a method of every family alike: same start, same
# number of optimiser steps, scored at the last step, with intervals, and with a *control* that sees the same images
# without the method's losses. The methods are those of the `uda` library, each one file after its paper.
#
# **What comes out** (section 10). Most of what short adaptation gains is gained by batch-norm statistics of the
# target alone; between two sets of photographs (CamVid → KITTI) no method clearly helps at the lengths that were
# affordable; and a test-time correction that trains nothing (AdaBN with prior 0.5) is never clearly worse and costs
# the source nothing.
#
# This notebook has two kinds of numbers, and every table says which it is:
#
# * **measured here**: one seed on procedural streets, trained while the notebook runs (minutes on two CPU cores).
#   They explain what methods do; one seed concludes nothing.
# * **recorded**: three seeds, real photographs among them, in `benchmarks/results`, with the command that made them.
#   All conclusions are drawn from these.
#
# | asked for | section |
# |---|---|
# | two public data sets, and a third that is never trained on | 2 |
# | merging classes | 3 |
# | augmentation: flip, brightness, contrast | 4, measured in 9.2 |
# | a network, a fair score, a control | 1, 5 |
# | adaptation families, each with its equation and on an example image | 6 |
# | photographs: what is gained, what is lost | 7 |
# | train on 1, 2 and 1 + 2, score each on 1, 2 and the third, by mean IoU | 8 |
# | regularisation: dropout, L1, L2; batch norm as a factor | 9.2, 9.1 |
# | weighted labelled target images mixed in, the learning curve | 9.3 |
# | what helped, what did not, limits | 10, 11 |
#
# `make report` runs it from top to bottom and writes a page of it, `runs/report/report.html`. Figures come from
# [method_steps.py](method_steps.py) and [report_results.py](report_results.py), numbers from `uda.bench`.

# %%
import os
import warnings
from pathlib import Path

import method_steps as steps
import report_results as results
import torch
from IPython.display import Image, Markdown, display
from report_results import RECORDED, gain, own_gain, score, source_line, table

from uda.bench import run
from uda.bench.matrix import run_matrix
from uda.config import load_config, load_matrix
from uda.data import CITYSCAPES19, STREET8, dataset
from uda.data.statistics import channel_stats, class_counts, published_stats
from uda.functional import group_log_prob
from uda.plots import forest, learning_curve, matrix, target_against_source

OUT = Path(os.environ.get("REPORT_OUT", "../runs/report"))  # trainings; a second run of the notebook reuses them
SHORT = os.environ.get("REPORT_SHORT") == "1"  # two steps on tiny images: tests that everything runs, nothing else
WORKERS = 1 if SHORT else 2
CHANGES = {"streets.out": str(OUT / "data")}
LOOKS, PAIR, STARTED = {}, {}, {}
if SHORT:
    CHANGES |= {"settings.steps": 2, "settings.crop": [48, 64], "resamples": 100}
    splits = {"cityscapes": {"train": 4, "val": 2}, "kitti": {"train": 4, "val": 2}, "ika": {"val": 2}}
    LOOKS = {"streets.domains": {name: {"splits": count, "size": [64, 96]} for name, count in splits.items()}}
    PAIR = {"streets.domains": {name: LOOKS["streets.domains"][name] for name in ("cityscapes", "kitti")}}
    STARTED = {"warm_start.steps": 2}
warnings.filterwarnings("ignore", message="IProgress not found")  # progress bars of others, which are not shown
torch.set_num_threads(min(2, torch.get_num_threads()))


def show(figure, alt=""):
    """Display a figure as a small picture, with a text for who cannot see it; figures of `uda.plots` have their own."""
    display(Image(data=results.compact(figure), alt=alt or figure.get_label()))


def say(*lines):
    """Display Markdown."""
    display(Markdown("\n\n".join(lines)))


# %% [markdown]
# ## 1 Motivation
#
# Labelling one Cityscapes image took its authors more than 1.5 hours on average (Cordts et al., CVPR 2016, section
# 2.2). Labels therefore exist for few cameras and towns, and a network is used elsewhere. Formally: training data
# $\{(x^s_i, y^s_i)\}$ come from a source distribution $P_S(x, y)$, the images to be segmented from a target
# distribution $P_T(x, y)$ with other $P_T(x)$, of which only images $\{x^t_j\}$ are known. *Unsupervised domain
# adaptation* looks for weights $\theta$ of a segmenter $f_\theta$ with small risk on the target,
#
# $$ R_T(\theta) = \mathbb{E}_{(x, y) \sim P_T} \, \ell(f_\theta(x), y), $$
#
# from labelled source and unlabelled target images. The bound of Ben-David et al. (Machine Learning 2010, theorem 2;
# without its term for finite samples) says what can be hoped for:
#
# $$ R_T \le R_S + \tfrac{1}{2} d_{\mathcal{H} \Delta \mathcal{H}}(P_S, P_T) + \lambda . $$
#
# One can lower the risk on the source and make the two domains harder to tell apart (in colours, in features, in
# outputs); one is helpless against $\lambda$, the error of the best network for both. Most families below go for the
# second term, each at another place; self-training adds supervision of its own making instead.
#
# **The score** is the mean intersection over union over the $C$ classes, from *one* confusion matrix summed over all
# images (ignored pixels do not count):
#
# $$ \mathrm{IoU}_c = \frac{TP_c}{TP_c + FP_c + FN_c}, \qquad \mathrm{mIoU} = \frac{1}{C} \sum_c \mathrm{IoU}_c . $$

# %% [markdown]
# ## 2 Data
#
# Three kinds of images, each split into training and validation images:
#
# | | source | target | never trained on |
# |---|---|---|---|
# | streets (measured here) | drawn, in Cityscapes' look | drawn, in KITTI's look | drawn, in ika's look |
# | streets → KITTI (recorded) | drawn, in Cityscapes' look | 170 + 30 photographs of KITTI's semantics benchmark | – |
# | CamVid → KITTI (recorded) | 367 photographs of three drives in Cambridge | the same KITTI photographs | – |
#
# Procedural streets are drawn by `uda.data.streets`, with exact labels, anywhere, without a download; their names say
# *in whose look* they are drawn, and no number on them is a statement about those data sets. The target's labels are
# used for scoring only: a trainer is handed an object that has no way to them.

# %%
config = load_config("report_streets.yaml", changes={**CHANGES, **LOOKS, **STARTED})
command = "uda bench experiments/report_streets.yaml --out runs/report --workers 2"
shown = ["source_only", "mean_std", "fda", "advent", "cbst", "class_mix", "mic"] if SHORT else None  # None: all
trained = run(config, out=OUT, workers=WORKERS, methods=shown, report=lambda event: None)
streets_here = results.results_of(trained, command)
streets = steps.Streets(config, OUT)

# %%
samples = {name: streets.data[name][1] for name in ("source", "target", "ika")}
pictures = {f"{name}: image": sample.image.permute(1, 2, 0).numpy() for name, sample in samples.items()}
pictures |= {f"{name}: labels": streets.space.colourise(sample.label.numpy()) for name, sample in samples.items()}
show(
    steps.grid(pictures, 3, streets), "An image of each of the three kinds of streets, and its labels in eight colours"
)

# %% [markdown]
# How do the domains differ? First in colour: mean and deviation of the three channels, over all pixels (in %; the
# last two rows are the published numbers of the photographs). Then in what is to be seen: the share of pixels of each
# class.

# %%
moments = {name: channel_stats(streets.data[name]) for name in ("source", "target", "ika")}
moments |= {f"published: {name}": published_stats(name) for name in ("cityscapes", "kitti")}
rows = [
    f"| {name} | " + " | ".join(f"{100 * value:.0f}" for value in (*stats.mean, *stats.std)) + " |"
    for name, stats in moments.items()
]
say("\n".join(["| | mean R | G | B | deviation R | G | B |", "|---|---:|---:|---:|---:|---:|---:|", *rows]))

shares = {name: class_counts(streets.data[name]).double() for name in ("source", "target", "ika")}
lines = ["| | " + " | ".join(streets.space.names) + " |", "|---|" + "---:|" * streets.space.num_classes]
for name, counts in shares.items():
    lines.append(f"| {name} | " + " | ".join(f"{100 * float(c / counts.sum()):.1f} %" for c in counts) + " |")
say("\n".join(lines))

# %% [markdown]
# ## 3 Label merging
#
# Data sets do not have the same classes: Cityscapes scores 19, CamVid 11, ika others. A network has one set of
# outputs, so labels are mapped into one *label space*. Two ways:
#
# 1. **Merge** to what all have in common. Streets here are scored in eight coarse classes (`street8`), CamVid → KITTI
#    in CamVid's eleven. A merged class is a union of fine ones, and the finer labels are lost.
# 2. **Keep the finest** and let a coarse label teach the sum of the probabilities of its fine classes (the marginal
#    likelihood; `marginal: true`). With the fine classes $G(y)$ that a coarse label $y$ covers,
#
# $$ \ell(x, y) = -\log \sum_{c \in G(y)} p_c(x), $$
#
# which for a label of one class is the cross-entropy. In the same way a fine network is scored in coarse classes: sum
# first, then take the best. Measured on CamVid with 30 images of KITTI (3 seeds,
# [docs/howto/classes.md](../docs/howto/classes.md) has the tables and the command): where only the merged classes
# matter, merging is the better choice (KITTI in 11 classes 37.1 %, keeping the 19 costs 2.1 points, 0.9 to 3.4); a
# network that keeps them knows 8 classes more. What 1 and 2 do to the same image, and where the 19 classes go:

# %%
spec = config.domains["source"]
fine = dataset(spec.kind, space=CITYSCAPES19, **spec.arguments)[1]
show(
    steps.grid(
        {
            "image": fine.image.permute(1, 2, 0).numpy(),
            f"{CITYSCAPES19.num_classes} classes": CITYSCAPES19.colourise(fine.label.numpy()),
            f"{STREET8.num_classes} classes": streets.space.colourise(samples["source"].label.numpy()),
        },
        3,
    ),
    "The same labels in nineteen and in eight classes",
)
say("\n".join(f"* {line}" for line in STREET8.mapping_from(CITYSCAPES19).lines()))

# %%
logits = torch.tensor([0.30, 0.30, 0.40]).log().view(1, 3, 1, 1)  # car, truck, building
vehicle, construction = group_log_prob(logits, [(0, 1), (2,)]).exp().flatten().tolist()
say(
    f"A pixel that is 30 % car, 30 % truck and 40 % building: {vehicle:.0%} vehicle, {construction:.0%} building, "
    "although *building* is the best fine class. Merging by sums and merging after the decision differ."
)

# %% [markdown]
# ## 4 Augmentation
#
# Augmentation is the simplest way of making a network indifferent to a change: train on the change. Every training
# image is drawn anew in each step: a window of random size (`scale`), mirrored in half of the draws (`flip`),
# brightness, contrast and saturation changed by random factors in $[1 - j, 1 + j]$ (`jitter` $j$), sometimes blurred.
# Labels follow what moves pixels and ignore what changes colours. The draws depend on seed and step alone.

# %%
show(
    steps.grid(steps.augmentations(samples["source"]), 4),
    "One source image: as it is, mirrored, cut, with other brightness, contrast and colours, blurred, and all of these",
)

# %% [markdown]
# ## 5 Model, baseline and control
#
# **Network.** DeepLabV3+ (Chen et al., ECCV 2018) on an EfficientNet-Lite0 encoder with ImageNet weights: few enough
# parameters for two CPU cores. It is trained with AdamW and a polynomial decay of the learning rate on the
# cross-entropy of source pixels,
#
# $$ \mathcal{L}_{seg} = -\frac{1}{|\Omega|} \sum_{i \in \Omega} \log p_{y_i}(x_i), \qquad
# \Omega = \{ i : y_i \neq \text{ignored} \}. $$
#
# **Every row starts from the same checkpoint** (the *start*, trained on the source) and trains for as long:
#
# * `source_only` trains on, on the source. What a method gains to it is what a user gains.
# * `bn_only` (`PassOnly`) trains on the source too, but target images pass through the network in training mode, so
#   that its batch-norm layers see them, with *no loss* on them. It is the **control**: what a method gains to it is
#   what its losses gain. Methods with images of their own (mixed, masked) have a control that passes these.
#
# **Why the control matters.** In training, batch norm normalises with the batch's statistics and keeps running ones
# for prediction. Every method that looks at target images moves these, whatever its loss.
#
# **Intervals** (95 %) are for other seeds *and* other images of the same kind. Images are resampled in whole
# sequences, differences are paired by seed and image, and differences to controls hold for a table together; words
# such as *helps* follow Holm's test, which is a little sharper than the intervals printed beside. With one seed, as
# here, an interval knows of images only.

# %%
parameters = sum(parameter.numel() for parameter in streets.network("source_only").parameters())
say(
    f"{parameters / 1e6:.1f} million parameters. After {config.warm_start.steps} steps of warm start and "
    f"{config.settings.steps} more, source-only training scores, in % of mIoU:"
)
say(
    "| source | target | ika's look, never trained on |\n|---:|---:|---:|\n| "
    + " | ".join(score(streets_here, "source_only", name) for name in ("source", "target", "ika"))
    + " |"
)
show(
    steps.grid(steps.outcome(streets, {}), 4, streets),
    "The target image, its predictions without adaptation, and its labels",
)

# %% [markdown]
# ## 6 The families, step by step
#
# For each: the idea, its equation, what it makes of one pair of images, and the same target image predicted at the
# start, after as many steps of source-only training, and after the method. The pictures of a method are what its own
# code puts into a training step. **One image and one seed: pictures explain, they prove nothing.**

# %%
show(steps.grid(steps.inputs(streets), 3, streets), "The pair: a source image with its labels, a target image without")

# %% [markdown]
# ### 6.1 Colour statistics: mean and deviation, Reinhard, histograms
#
# Source images get the target's colour statistics before anything else looks at them; labels stay. Per channel
#
# $$ x^{s \to t} = \frac{\sigma_t}{\sigma_s} (x^s - \mu_s) + \mu_t . $$
#
# `MeanStd` does it in RGB, by default with one map for the whole data set; Reinhard et al. (IEEE CG&A 2001) for each
# image pair in a decorrelated colour space; histogram matching takes the whole distribution, with the distribution
# functions $F$ of a channel's values:
#
# $$ x^{s \to t} = F_t^{-1}(F_s(x^s)) . $$
#
# In brackets: the channel means in percent. Statistics of single images carry over what an image *shows*: where the
# target has more dark trees, the whole street turns dark. Histogram matching bends three curves until all levels
# agree, and with them what was smooth: the road gets coloured noise.

# %%
show(
    steps.grid(steps.colour_steps(streets), 3, streets), "The source image in the colours of the target by four methods"
)
show(
    steps.before_and_after(streets, "mean_std"),
    "The target image predicted at the start, by source-only and by mean_std",
)

# %% [markdown]
# ### 6.2 Fourier domain adaptation
#
# FDA (Yang and Soatto, CVPR 2020, equation 3) keeps the phase of the source image, which carries its shapes, and
# takes the *amplitude* of the lowest frequencies from a target image:
#
# $$ x^{s \to t} = \mathcal{F}^{-1}\left( \left[ M_\beta \circ \mathcal{F}^A(x^t) + (1 - M_\beta) \circ
# \mathcal{F}^A(x^s), \; \mathcal{F}^P(x^s) \right] \right), $$
#
# $M_\beta$ is 1 in a square of half width $\lfloor \beta \min(H, W) \rfloor$ around frequency 0. On the small images
# here $\beta = 0.01$ is the mean alone; larger bands leave coloured shadows where the target's large shapes are.

# %%
show(
    steps.grid(steps.fourier_steps(streets), 4, streets),
    "Amplitude spectra, the source image with the target's low frequencies",
)
show(steps.before_and_after(streets, "fda"), "The target image predicted at the start, by source-only and by fda")

# %% [markdown]
# ### 6.3 Adversarial training in the output space
#
# AdaptSegNet (Tsai et al., CVPR 2018): a discriminator $D$ tells from the softmax map $p$ whether an image is of the
# source (0) or the target (1), and the segmenter learns to make target outputs look like source ones:
#
# $$ \min_\theta \; \mathcal{L}_{seg}(x^s, y^s) + \lambda_{adv} \, \mathcal{L}_{bce}(D(p^t), 0), \qquad
# \min_D \; \tfrac{1}{2} \mathcal{L}_{bce}(D(p^s), 0) + \tfrac{1}{2} \mathcal{L}_{bce}(D(p^t), 1). $$
#
# AdvEnt (Vu et al., CVPR 2019, equations 6 to 8) shows $D$ the weighted self-information $I_c = -p_c \log p_c$
# instead: source predictions are sure but for thin borders, target predictions are not, and the game lowers the
# target's entropy *in the places* where source predictions have little. Bright: the network does not know. Of the
# discriminator, red says target, blue source.

# %%
show(
    steps.grid(steps.adversarial_steps(streets), 4, streets),
    "Predictions, self-information and discriminator of source and target",
)
show(steps.before_and_after(streets, "advent"), "The target image predicted at the start, by source-only and by advent")

# %% [markdown]
# ### 6.4 Self-training with class-balanced thresholds
#
# Pseudo-labels: the network's own sure predictions become labels. A single threshold takes road and sky and forgets
# the rest, so CBST (Zou et al., ECCV 2018, equations 5 and 6) gives every class its own, $e^{-k_c}$, the confidence
# that its most confident share reaches (20 % in the first round, more in later ones):
#
# $$ \hat{y} = \begin{cases} \arg\max_c \; p_c / e^{-k_c} & \text{if } \max_c \; p_c / e^{-k_c} \ge 1 \\
# \text{ignored} & \text{otherwise,} \end{cases} \qquad
# \min_\theta \; \mathcal{L}_{seg}(x^s, y^s) + \mathcal{L}_{seg}(x^t, \hat{y}^t). $$
#
# Whatever the start gets wrong with confidence is learnt. That is the method's known weakness, and it is why it hurts
# in the recorded runs from drawn streets, which start from networks that are wrong on most of the target.

# %%
show(
    steps.grid(steps.self_training_steps(streets), 4, streets),
    "The start's confidence, its labels, those above the thresholds",
)
show(steps.before_and_after(streets, "cbst"), "The target image predicted at the start, by source-only and by cbst")
say(
    "Thresholds of the first round: "
    + ", ".join(f"{name} {value:.2f}" for name, value in steps.thresholds(streets).items())
)

# %% [markdown]
# ### 6.5 A mean teacher and mixed images
#
# DACS (Tranheden et al., WACV 2021) has a teacher whose weights follow the student's,
#
# $$ \phi \leftarrow \alpha \phi + (1 - \alpha) \theta, $$
#
# and which labels the target. Half of a source image's classes are pasted onto the target image, with their labels
# (ClassMix, Olsson et al., WACV 2021), so that every mixed image has some true labels:
#
# $$ x^m = M \odot x^s + (1 - M) \odot x^t, \quad y^m = M \odot y^s + (1 - M) \odot \hat{y}^t, \quad
# w_i = \begin{cases} 1 & \text{pasted} \\ \frac{1}{|\Omega|} \sum_j [\max_c g_\phi(x^t_j)_c \ge 0.968] & \text{else.}
# \end{cases} $$

# %%
show(
    steps.grid(steps.mixing_steps(streets), 4, streets),
    "Source, target, teacher's labels, mixed image with labels and weights",
)
show(
    steps.before_and_after(streets, "class_mix"),
    "The target image predicted at the start, by source-only and by class_mix",
)

# %% [markdown]
# ### 6.6 Masked image consistency
#
# MIC (Hoyer et al., CVPR 2023, equations 5 to 8) hides 70 % of the target image in blocks and asks for the teacher's
# labels of the *whole* image, so that the student must use context:
#
# $$ \mathcal{L} = \mathcal{L}_{seg}(x^s, y^s) + w^t \, \mathrm{CE}\left(f_\theta(M \odot x^t), \;
# \arg\max_c g_\phi(x^t)_c\right). $$
#
# The last two pictures ask start and adapted network for the masked image.

# %%
show(steps.grid(steps.masking_steps(streets), 5, streets), "The masked target image and what the networks make of it")
show(steps.before_and_after(streets, "mic"), "The target image predicted at the start, by source-only and by mic")

# %% [markdown]
# ### 6.7 Batch-norm statistics, and TENT
#
# A batch-norm layer maps $z \mapsto \gamma (z - \mu_s) / \sigma_s + \beta$ with the *source's* statistics. AdaBN (Li
# et al., ICLR workshop 2017) replaces them by the target's, blended with the source's by a prior $a$ (Schneider et
# al., NeurIPS 2020, equation 3); nothing is trained:
#
# $$ \bar{\mu} = a \, \mu_s + (1 - a) \, \mu_t, \qquad \bar{\sigma}^2 = a \, \sigma_s^2 + (1 - a) \, \sigma_t^2 . $$
#
# TENT (Wang et al., ICLR 2021) predicts with the batch's own statistics and takes, at test time, a gradient step on
# scale and shift $(\gamma, \beta)$ alone down the entropy $-\sum_c p_c \log p_c$ of the prediction. The plot shows
# how far the means are shifted on the way through the source-only network, for unseen source and for target images.

# %%
show(
    steps.statistics_figure(streets),
    "Shift of the channel means in each batch-norm layer, for source and for target images",
)
show(steps.grid(steps.outcome(streets, steps.test_time(streets)), 4, streets), "The target image under AdaBN and TENT")

# %% [markdown]
# ### 6.8 All of them, measured here
#
# One seed, so the figures have no intervals: the first asks whether a method's *losses* gain anything, the second
# what a gain on the target costs on the source.

# %%
say(table(streets_here, domains=("target", "source", "ika")), source_line(streets_here))
show(forest(trained, title="measured here, one seed: minus the control"))
show(target_against_source(trained, title="measured here, one seed"))

# %% [markdown]
# ## 7 Recorded results: photographs
#
# ### 7.1 CamVid → KITTI, photographs to photographs

# %%
camvid_kitti = results.recorded("camvid_kitti")
say(table(camvid_kitti), source_line(camvid_kitti))
show(forest(RECORDED / "camvid_kitti", title="CamVid → KITTI: minus the control"))

# %%
say(
    f"Source-only scores {score(camvid_kitti, 'source_only')} on KITTI; the oracle, with the labels of both, gains "
    f"{gain(camvid_kitti, 'oracle')}. **No method is clearly better or worse than its control**: "
    f"ClassMix {own_gain(camvid_kitti, 'class_mix')}, AdvEnt {own_gain(camvid_kitti, 'advent')}, "
    f"CBST {own_gain(camvid_kitti, 'cbst')}, FDA {own_gain(camvid_kitti, 'fda')}. "
    f"Even target images in batch norm gain nothing here ({own_gain(camvid_kitti, 'bn_only')}). "
    "That is a statement about these lengths and 30 images of 19 drives, not proof that nothing can help: "
    + next(note for note in camvid_kitti["notes"] if note.startswith("target: a true difference"))
)
say("By class: the network finds the large classes and hardly ever the thin and rare ones; these decide the mean.")
say(results.class_table(camvid_kitti, "camvid_kitti"))

# %% [markdown]
# ### 7.2 Procedural streets → KITTI, drawings to photographs

# %%
streets_kitti = results.recorded("streets_kitti")
say(table(streets_kitti), source_line(streets_kitti))
show(forest(RECORDED / "streets_kitti", title="streets → KITTI: minus the control"))
show(target_against_source(RECORDED / "streets_kitti", title="streets → KITTI"))

# %%
say(
    f"A larger shift: here the statistics matter. `bn_only` gains {gain(streets_kitti, 'bn_only')}, "
    f"AdvEnt {gain(streets_kitti, 'advent')} and to its control "
    f"{own_gain(streets_kitti, 'advent')}: its losses add nothing that can be seen. ClassMix gains "
    f"{gain(streets_kitti, 'class_mix')}, to its control {own_gain(streets_kitti, 'class_mix')}. "
    f"AdaBN with prior 0.5 gains {gain(streets_kitti, 'adabn_prior')} without any training, and on the "
    f"source {gain(streets_kitti, 'adabn_prior', 'source')}. CBST loses "
    f"{own_gain(streets_kitti, 'cbst')} to its control."
)

# %% [markdown]
# ### 7.3 Every method of the library once, streets → KITTI
#
# Short runs (60 steps after a common start), three seeds: a check of what is gained beyond the controls, no ranking.
# The figure shows differences to the *control*, with intervals that hold for all rows together; colour and test-time
# methods have source-only as their control, and rows named `bn_only` are controls themselves.

# %%
every_method = results.recorded("every_method_kitti")
say(source_line(every_method))
show(forest(RECORDED / "every_method_kitti", title="every method, streets → KITTI: minus the control"))

# %% [markdown]
# ## 8 The matrix: train on 1, on 2 and on both; score on each and on an unseen one
#
# How much does training elsewhere lose, and does training on both lose anything on each? Rows are trainings, columns
# data sets; the frame marks the diagonal (trained where it is scored), and the differences are to the diagonal of the
# column. In *both*, half of every batch is of each data set, whatever their sizes. `dacs` is ClassMix from one to the
# other. Measured here, one seed, small images:

# %%
matrix_changes = {**CHANGES, **LOOKS, "name": "matrix", "seeds": [0], **({"rows": {}} if SHORT else {})}
matrix_config = load_matrix("matrix_streets", changes=matrix_changes)
matrix_here = run_matrix(matrix_config, out=OUT, workers=WORKERS, report=lambda event: None)
show(matrix(matrix_here.matrix, title="measured here, one seed"))
say("Made with\n\n```sh\nuda bench benchmarks/matrix_streets.yaml --seeds 0 --workers 2\n```")

# %% [markdown]
# Recorded matrices, of photographs where they are there:

# %%
for name in ("matrix_streets", "matrix_camvid_kitti", "matrix_cityscapes_kitti_ika"):
    if results.is_recorded(name, "matrix.json"):
        picture = (RECORDED / name / "matrix.png").read_bytes()
        display(Image(data=picture, alt=f"{name}: trainings and data sets, three seeds", width=760))
        say(f"`{name}`, made with\n\n```sh\n{results.recorded(name, 'matrix.json')['command']}\n```")
    else:
        say(f"`{name}` is not recorded yet; [benchmarks/README.md](../benchmarks/README.md) has its command.")

# %% [markdown]
# ## 9 Ablations and the value of labels
#
# ### 9.1 Batch norm as a factor (recorded)
#
# Which part of a method is its batch norm? The same methods with four treatments of target images: *shared*
# statistics (as the papers), *frozen* at the start, moved by *source* images only, and a set *per domain*.

# %%
batch_norm = results.recorded("batch_norm")
say(table(batch_norm), source_line(batch_norm))
show(forest(RECORDED / "batch_norm", title="batch norm as a factor: minus the control"))
say(
    f"Letting target images pass gains {gain(batch_norm, 'bn_only')} on the target and costs "
    f"{gain(batch_norm, 'bn_only', 'source')} on the source; per domain it gains "
    f"{gain(batch_norm, 'bn_only_per_domain')} and costs "
    f"{gain(batch_norm, 'bn_only_per_domain', 'source')}. Where batch norm sees no target image, "
    f"ClassMix's losses are clearly worth something (frozen: {own_gain(batch_norm, 'class_mix_frozen')} to the "
    f"control); where it does, they add nothing that these runs could show ({own_gain(batch_norm, 'class_mix')})."
)

# %% [markdown]
# ### 9.2 Augmentation and regularisation (measured here)
#
# One lever at a time is taken from or added to source-only training from ImageNet weights: flips, scale, brightness
# and contrast (colour jitter), two penalties on the weights, and dropout:
#
# $$ \mathcal{L} = \mathcal{L}_{seg} + \lambda_1 \sum_i |w_i| + \tfrac{\lambda_2}{2} \sum_i w_i^2, $$
#
# L1 by $\lambda_1 = 10^{-5}$; L2 as AdamW's decoupled weight decay (0.01, none in `no_l2`); dropout
# of half of the decoder's channels (none in `no_dropout`). One seed: differences of a few points say nothing. The
# reference is the row `source_only`.

# %%
ablations = load_config("report_ablations.yaml", changes={**CHANGES, **PAIR})
levers = ["source_only", "l1"] if SHORT else None
ablated = run(ablations, out=OUT, workers=WORKERS, methods=levers, report=lambda event: None)
ablations_here = results.results_of(
    ablated,
    "uda bench experiments/report_ablations.yaml --out runs/report --workers 2",
)
say(table(ablations_here), source_line(ablations_here))
show(target_against_source(ablated, title="measured here, one seed: one lever at a time"))

# %% [markdown]
# One lever at a time needs many runs for few answers. A *fractional factorial design* varies all factors in every run,
# so that each main effect is a difference of two halves of all runs. Recorded, with 95 % intervals:

# %%
for name in ("factorial_streets", "factorial_camvid_kitti"):
    if results.is_recorded(name, "factorial.json"):
        measured = results.recorded(name, "factorial.json")
        picture = (RECORDED / name / "factorial.png").read_bytes()
        display(Image(data=picture, alt=f"{name}: main effects of all factors, three seeds", width=760))
        say(*measured["headline"], f"`{name}`, made with\n\n```sh\n{measured['command']}\n```")
    else:
        say(f"`{name}` is not recorded yet; [benchmarks/README.md](../benchmarks/README.md) has its command.")

# %% [markdown]
# ### 9.3 Learning curve: how many labelled target images is adaptation worth?
#
# Labelling a few target images is the alternative to adaptation. $k$ of them are mixed into the source: a share $s$
# of the draws of the source's half of each batch, with a weight $w$ on their loss,
#
# $$ \mathcal{L} = (1 - s) \, \mathbb{E}_{S}[\mathcal{L}_{seg}] + s \, w \, \mathbb{E}_{T_k}[\mathcal{L}_{seg}], $$
#
# here $s = 0.5$, $w = 1$, and labels chosen at random. Adaptation without labels is worth as many labelled images as
# source-only training needs for the same score. Measured here, one seed:

# %%
counts = [1] if SHORT else [2, 5, 20]
labels_config = load_config(
    "labels_streets",
    changes={
        "settings.crop": [64, 128],
        **CHANGES,
        **PAIR,
        **STARTED,
        "name": "labels",
        "seeds": [0],
        "learning_curve.counts": counts,
        "learning_curve.rows": {"source_only": ["random"]},
    },
)
labelled = run(
    labels_config,
    out=OUT,
    workers=WORKERS,
    methods=["source_only", "source_only-k1", "class_mix"] if SHORT else None,
    report=lambda event: None,
)
show(learning_curve(labelled, title="measured here, one seed"))
say(*labelled.table.learning.sentences)
say(
    "Made with\n\n```sh\nuda bench labels_streets --seeds 0 --set settings.crop=[64,128] "
    "--set 'learning_curve.rows={source_only: [random]}'\n```"
)

# %%
for name in ("labels_streets", "labels_kitti"):
    if results.is_recorded(name):
        measured = results.recorded(name)
        say(*measured["headline"], table(measured, domains=("target",)), source_line(measured))
    else:
        say(f"`{name}` (three seeds) is not recorded yet; [benchmarks/README.md](../benchmarks/README.md) says how.")

# %% [markdown]
# ## 10 What helped, and what did not
#
# Over all recorded benchmarks, with the intervals that hold for each table together. Rows of `bn_only`, `adabn` and
# colour methods are compared to source-only, which is their control; entropy, adversarial, self-training and mixing
# methods to the row that passes their images.

# %%
names = ["batch_norm", "quickstart", "every_method_streets", "streets_kitti", "every_method_kitti", "camvid_kitti"]
say(results.verdicts(names))

# %%
every_streets = results.recorded("every_method_streets")
say(
    "**Helped**",
    f"""* *Target statistics in batch norm*: the first explanation of almost every gain on streets
({gain(batch_norm, "bn_only")} points) and on streets → KITTI ({gain(streets_kitti, "bn_only")}). A set per domain
keeps the gain ({gain(batch_norm, "bn_only_per_domain")}) and gives the source back its loss
({gain(batch_norm, "bn_only", "source")} shared, {gain(batch_norm, "bn_only_per_domain", "source")} per domain).
* *AdaBN with prior 0.5* on the finished source-only network: {gain(batch_norm, "adabn_prior")} on streets,
{gain(streets_kitti, "adabn_prior")} on streets → KITTI, {gain(camvid_kitti, "adabn_prior")} on CamVid → KITTI; on the
source {gain(batch_norm, "adabn_prior", "source")}, {gain(streets_kitti, "adabn_prior", "source")} and
{gain(camvid_kitti, "adabn_prior", "source")}. It trains nothing, and adapts on training images of the target, not on
those scored.
* *Colour transfer*, where the shift is one of colour, drawn streets in two looks: Reinhard
{gain(every_streets, "reinhard")}, mean and deviation {gain(every_streets, "mean_std")}; on the source
{gain(every_streets, "reinhard", "source")} and {gain(every_streets, "mean_std", "source")}.
* *ClassMix's losses*, where batch norm sees no target image: {own_gain(batch_norm, "class_mix_frozen")} to its
control.""",
    "**Did not help, at these lengths**",
    f"""* *Entropy, adversarial and feature-statistics methods*: within the noise of their controls. On streets → KITTI
AdvEnt {own_gain(every_method, "advent")}, MinEnt {own_gain(every_method, "minent")},
MMD {own_gain(every_method, "mmd")}.
* *CBST and CRST* hurt where the start is weak: {own_gain(every_method, "cbst")} and {own_gain(every_method, "crst")}.
Their first labels come from a network that is wrong on most of the target.
* *Anything* on CamVid → KITTI, photographs to photographs: from {score(camvid_kitti, "source_only")} even the labels of
the target gain only {gain(camvid_kitti, "oracle")}. Batch norm explains nothing there either
({gain(camvid_kitti, "bn_only")}): what helps depends on the shift.
* *Colour transfer on photographs*: FDA {gain(every_method, "fda")} from streets, {gain(camvid_kitti, "fda")} from
CamVid. Colours are a small part of what differs.""",
    "**How to go on**, in this order: AdaBN with prior 0.5; training with batch norm per domain; ClassMix on top; then "
    "with a GPU and days, a published recipe whole. Judge every step by its control, on your own shift.",
)

# %% [markdown]
# ## 11 Limits
#
# * **Short runs of a small network.** The papers train 40 000 steps and more, of networks ten times as large, on 19
#   classes at 512 pixels and above. Nothing here ranks those methods; it says what is seen at a length that two cores
#   can afford.
# * **30 target images** of 19 drives score KITTI. The recorded benchmarks say which difference they would have shown
#   four times in five; differences of two or three points cannot be seen.
# * **Three seeds** (recorded) and one (measured here). Seed noise is in the recorded intervals, not in those of
#   section 6.8.
# * **CamVid's 50 scored source images are one sequence**, so its source column has values and no intervals.
# * **Procedural streets are not photographs.** A gain between two drawn looks is a gain on the differences that were
#   drawn.
# * **ika's photographs** and Cityscapes were not at hand; the matrix with them is a config that has not been run.
# * **Nothing was tuned.** The methods' arguments are the papers' (but for CBST's two rounds and MIC's smaller blocks,
#   as runs are short and images small), the learning rate is the baseline's. Tuning on target labels would be
#   adaptation with labels.
# * **Comparisons across tables** (another length, another start) are not covered by any interval here.
#
# Why a given network loses on a given target can be asked directly: `uda gap` edits target images towards the source
# one factor at a time and shares the loss among the factors ([docs/gap.md](../docs/gap.md)).

# %% [markdown]
# ## References
#
# * S. Ben-David et al., *A theory of learning from different domains*, Machine Learning 79, 2010.
# * L.-C. Chen et al., *Encoder-decoder with atrous separable convolution for semantic image segmentation*, ECCV 2018.
# * M. Cordts et al., *The Cityscapes dataset for semantic urban scene understanding*, CVPR 2016.
# * G. Brostow et al., *Semantic object classes in video: a high-definition ground truth database* (CamVid), PRL 2009.
# * H. Abu Alhaija et al., *Augmented reality meets computer vision* (KITTI semantics), IJCV 2018.
# * E. Reinhard et al., *Color transfer between images*, IEEE CG&A 21(5), 2001.
# * Y. Yang, S. Soatto, *FDA: Fourier domain adaptation for semantic segmentation*, CVPR 2020.
# * Y.-H. Tsai et al., *Learning to adapt structured output space for semantic segmentation*, CVPR 2018.
# * T.-H. Vu et al., *ADVENT: adversarial entropy minimization for domain adaptation in semantic segmentation*, CVPR
#   2019.
# * Y. Zou et al., *Unsupervised domain adaptation for semantic segmentation via class-balanced self-training*, ECCV
#   2018.
# * V. Olsson et al., *ClassMix: segmentation-based data augmentation for semi-supervised learning*, WACV 2021.
# * W. Tranheden et al., *DACS: domain adaptation via cross-domain mixed sampling*, WACV 2021.
# * L. Hoyer et al., *MIC: masked image consistency for context-enhanced domain adaptation*, CVPR 2023.
# * Y. Li et al., *Revisiting batch normalization for practical domain adaptation*, ICLR workshop 2017.
# * S. Schneider et al., *Improving robustness against common corruptions by covariate shift adaptation*, NeurIPS
#   2020.
# * D. Wang et al., *Tent: fully test-time adaptation by entropy minimization*, ICLR 2021.
# * S. Holm, *A simple sequentially rejective multiple test procedure*, Scand. J. Statistics 6, 1979.

# %%
for when, measured in {"Recorded (CamVid → KITTI)": camvid_kitti, "Measured here": streets_here}.items():
    say(f"{when} with " + ", ".join(f"{name} {version}" for name, version in measured["versions"].items()) + ".")
