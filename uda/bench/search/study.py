"""Run a search: trials one after the other or side by side, each a run of its own that a later call goes on with.

Optuna keeps the study (its journal, ``study.log``), draws values and decides what is pruned; training is that of
:func:`uda.bench.train`. Values depend on the sampler's seed and on the trials before, so that with one worker an
interrupted search ends as one that was not; with several, on which trial ended first. Any number of processes, on any
number of machines, may work on a search at once: each trial is claimed (:mod:`uda.claims`) by who trains it.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from uda.bench import build
from uda.bench.plan import make_plan
from uda.bench.pool import DIED, pool
from uda.bench.ranks import check_processes, is_launched, join
from uda.bench.restore import load_model, open_run
from uda.bench.run import see_that_folder_is_there, train, why_unwritable
from uda.bench.search.objectives import measurable, measure, measure_all
from uda.bench.work import POLL, TICK, Event, newly_logged, only_warn
from uda.claims import LostError, Watch, claimed, take
from uda.config import BenchConfig, ConfigError
from uda.config.search import OBJECTIVES, Choices, Range, SearchConfig, load_search
from uda.engine.identity import describe_differences, differences
from uda.engine.launching import LaunchError, launch
from uda.progress import losses_of

STUDY = "study.log"
"""Optuna's journal, in the search's folder."""
TRIALS = "trials"
"""Folder of the trials' runs, in the search's."""
CONFIG, VALUES, ERROR = "config", "objectives", "error"
"""What is kept with Optuna's study and trials."""
LAST_LOOKS = 20
"""At a trial whose process died, before it is left to others."""
FIRST = 5
"""Trials before which none is pruned."""
BATCH = "settings.batch_size"
State = Literal["finished", "pruned", "failed", "unfinished"]
Trained = tuple[dict[str, float], str, bool]
"""A trial's objectives, why it failed (empty if it did not), whether it was pruned."""


@dataclass(frozen=True)
class Trial:
    """One set of values and what came of it."""

    number: int
    values: dict[str, Any]
    """By dotted key of the config."""
    state: State
    objectives: dict[str, float]
    """By name, all that could be measured at its end; the objective alone, at its last look, where it was pruned."""
    steps: int
    """Trained."""
    message: str
    """Why it failed."""
    folder: Path
    """Its run's."""


@dataclass
class SearchResult:
    """What a call of :func:`run_search` did."""

    config: SearchConfig
    folder: Path
    trials: list[Trial]
    """All in the folder, of this call or an earlier one."""
    ran: list[int] = field(default_factory=list)
    """Numbers of those that this call ended."""

    @property
    def failed(self) -> dict[str, str]:
        """Failed trials' run folders below :attr:`folder`, with the reason in one line."""
        return {
            trial.folder.relative_to(self.folder).as_posix(): trial.message
            for trial in self.trials if trial.state == "failed"
        }  # fmt: skip

    @property
    def best(self) -> Trial | None:
        """The finished trial that the objective likes best, the first of equal ones."""
        return best_by(self.trials, self.config.spec.objective)


def best_by(trials: list[Trial], objective: str) -> Trial | None:
    """The finished trial with the best value of an objective, the first of equal ones; ``None`` without any."""
    known = [t for t in trials if t.state == "finished" and not math.isnan(t.objectives.get(objective, math.nan))]
    sign = 1 if OBJECTIVES[objective] == "maximize" else -1  # type: ignore[index]
    return max(known, key=lambda trial: sign * trial.objectives[objective], default=None)


def run_search(
    config: SearchConfig | Path | str | Mapping[str, Any],
    *,
    out: Path | str = "runs",
    roots: Mapping[str, str] | None = None,
    workers: int = 1,
    processes: int = 1,
    report: Callable[[Event], None] = only_warn,
) -> SearchResult:
    """Do what is missing of a search, beside whoever else works on it, and wait for what they do.

    A finished, pruned or failed trial is left as it is; one that a kill cut short goes on from its checkpoint.

    Args:
        config: a config, or what :func:`uda.config.search.load_search` reads.
        out: everything goes to ``out/<name>``, a trial's run to ``trials/trial000`` there.
        roots: values of the config's ``${name}`` variables.
        workers: trials side by side, each in a process of its own with an equal share of the cores; 1 runs them here.
        processes: that train each trial together, each with its share of every batch; the run is the same.
        report: told what happens.

    Raises:
        ConfigError: the config is wrong, another search is in the folder, Optuna is not installed, the processes do not
            go together with the batches or the GPUs here, or this is one of a launcher's processes.
        DataError: a data set is missing or damaged.
        KeyboardInterrupt: passed on; trials and checkpoints stay.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if is_launched():
        raise ConfigError("a search starts its processes itself (--processes), and not under a launcher (torchrun)")
    config = config if isinstance(config, SearchConfig) else load_search(config, roots)
    base, row = config.trial({})
    cells = make_plan(base, [row], [config.spec.seed])
    check_processes(processes, cells, batches=BATCH not in config.spec.space)
    import_optuna()
    folder = Path(out) / config.name
    see_that_folder_is_there(folder)
    if unwritable := why_unwritable(folder):
        raise ConfigError(f"{folder}: cannot be written ({unwritable}); use another --out")
    study = _open(config, folder)
    if base.streets is not None:
        build.make_streets(base.streets, workers=workers)
    build.check(base)
    work = _Work(config, folder, study, processes, report)
    work.here() if workers == 1 else work.side_by_side(workers)
    return SearchResult(config, folder, read_trials(config, folder, study), work.ran)


def import_optuna() -> Any:
    """Optuna, quiet; an extra of this package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        optuna = import_module("optuna")
    except ImportError as error:
        raise ConfigError("a search needs the package optuna: pip install 'uda-seg[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _storage(folder: Path) -> Any:
    optuna = import_optuna()
    backend = optuna.storages.journal.JournalFileBackend(str(folder / STUDY))
    return optuna.storages.JournalStorage(backend)


def _open(config: SearchConfig, folder: Path) -> Any:
    """The folder's study, new where there is none.

    Raises:
        ConfigError: it is of another config; the message names what differs.
    """
    optuna, direction = import_optuna(), OBJECTIVES[config.spec.objective]
    study = optuna.create_study(
        study_name=config.name, storage=_storage(folder), direction=direction, load_if_exists=True
    )
    searched = config.spec.model_dump(mode="json", exclude={"trials"})
    own = {"schema": 1, "run": json.loads(json.dumps(config.content)), "search": searched}
    old = study.user_attrs.get(CONFIG)
    if old is None:
        study.set_user_attr(CONFIG, own)
    elif changed := differences(old, own, {}):
        raise ConfigError(
            f"{folder}: holds a search of another config; use another name or --out\n{describe_differences(changed)}"
        )
    return study


def sampler_of(config: SearchConfig, number: int) -> Any:
    """Optuna's sampler for one trial: its draws follow from the seed and the trial's number, in whatever call it is."""
    samplers, spec = import_optuna().samplers, config.spec
    seed = spec.seed * 1_000_003 + number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental options
        if spec.sampler in ("random", "grid"):
            return samplers.RandomSampler(seed=seed)
        return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def combinations(config: SearchConfig) -> list[dict[str, Any]]:
    """Of a grid: Optuna's names of every combination of the choices."""
    labels = [list(_labels(entry)) for entry in config.spec.space.values() if isinstance(entry, Choices)]
    return [dict(zip(config.spec.space, chosen, strict=True)) for chosen in product(*labels)]


def _labels(entry: Choices) -> dict[Any, Any]:
    """Optuna's name of each choice, itself where it may be -> the choice."""
    plain = all(isinstance(choice, bool | int | float | str) or choice is None for choice in entry.choices)
    # 1, 1.0 and True are one key
    return {choice if plain and not _mixed(entry) else json.dumps(choice): choice for choice in entry.choices}


def _mixed(entry: Choices) -> bool:
    return len(set(entry.choices)) < len(entry.choices)


def draw_values(config: SearchConfig, trial: Any) -> dict[str, Any]:
    """The values of an Optuna trial, by dotted key."""
    values: dict[str, Any] = {}
    for key, entry in config.spec.space.items():
        if isinstance(entry, Range):
            suggest = trial.suggest_int if entry.whole else trial.suggest_float
            values[key] = suggest(key, entry.low, entry.high, log=entry.log)
        else:
            labels = _labels(entry)
            values[key] = labels[trial.suggest_categorical(key, list(labels))]
    return values


class _Work:
    """The trials that are left."""

    def __init__(
        self, config: SearchConfig, folder: Path, study: Any, processes: int, report: Callable[[Event], None]
    ) -> None:
        self.config, self.folder, self.study, self.processes, self.report = config, folder, study, processes, report
        self.ran: list[int] = []
        self.running: set[int] = set()
        """Numbers of those that this call works on."""
        self.untold: set[int] = set()
        """Of those that failed so that not even the study could be told."""
        self._watch, self._looked = Watch(), dict[int, float]()
        self.before = self._ended()
        self.grid = combinations(config) if config.spec.sampler == "grid" else None
        self.wanted = config.spec.trials if self.grid is None else min(config.spec.trials, len(self.grid))
        self.total = max(0, self.wanted - self.before)
        report(Event("plan", message=f"{self.total} of {self.wanted} trials to do in {folder}", total=self.total))

    def _trials(self, *states: str) -> list[Any]:
        kinds = import_optuna().trial.TrialState
        trials: list[Any] = self.study.get_trials(deepcopy=False, states=[kinds[state] for state in states])
        return trials

    def _ended(self) -> int:
        return len(self._trials("COMPLETE", "PRUNED", "FAIL"))

    def elsewhere(self) -> list[int]:
        """Numbers of the trials that have begun, and on which this call does not work."""
        return [
            trial.number
            for trial in self._trials("RUNNING")
            if trial.number not in self.running and trial.number not in self.untold
        ]

    def next(self) -> int | None:
        """The number of a trial that was cut short, else of a new one; ``None`` where others do all that is left."""
        number = next((number for number in self.elsewhere() if self._is_free(number)), None)
        if number is None:
            number = self._ask()
        if number is not None:
            self.running.add(number)
            self.report(Event("start", name_of(number), finished=self._ended() - self.before, total=self.total))
        return number

    def _is_free(self, number: int) -> bool:
        now = time.monotonic()
        if now - self._looked.get(number, -math.inf) < POLL:
            return False
        self._looked[number] = now
        return self._watch.holder(trial_folder(self.folder, number)) is None

    def _ask(self) -> int | None:
        """Draw a new trial, if there are fewer than were asked for; one process at a time, so that none is too many."""
        if len(self.study.get_trials(deepcopy=False)) >= self.wanted and not self._trials("WAITING"):
            return None
        with claimed(self.folder, wait=True):
            queued = [trial.number for trial in self._trials("WAITING")]  # by a kill between the two lines below
            number: int = queued[0] if queued else len(self.study.get_trials(deepcopy=False))
            if number >= self.wanted:
                return None
            if self.grid is not None and not queued:
                self.study.enqueue_trial(self.grid[number])
            self.study.sampler = sampler_of(self.config, number)
            draw_values(self.config, self.study.ask())
        return number

    def end(self, number: int, outcome: Ended | None) -> None:
        """Say what came of a trial; nothing where another process had it."""
        self.running.discard(number)
        if outcome is None:
            return
        if not outcome.told:
            self.untold.add(number)
        self.ran.append(number)
        objective, finished = self.config.spec.objective, self._ended() - self.before
        said = outcome.error or f"{objective} {outcome.values[objective]:.4f}" + (", pruned" if outcome.pruned else "")
        kind: Literal["failed", "done"] = "failed" if outcome.error else "done"
        self.report(Event(kind, name_of(number), said, finished=finished, total=self.total))

    def here(self) -> None:
        """Work in this process."""
        while (number := self.next()) is not None or self.elsewhere():
            if number is None:
                time.sleep(TICK)
            else:
                self.end(number, run_trial(self.config, self.folder, number, self.processes, self._tell(number)))

    def _tell(self, number: int) -> Callable[[Event], None]:
        finished = self._ended() - self.before

        def told(event: Event) -> None:
            if event.kind in ("step", "warning"):
                self.report(
                    Event(
                        event.kind, name_of(number), event.message, finished=finished, total=self.total,
                        step=event.step, steps=event.steps, losses=event.losses,
                    )
                )  # fmt: skip

        return told

    def side_by_side(self, workers: int) -> None:
        """Trials in processes; one that dies fails the trials that ran with it, and the others go on."""

        def call(number: int) -> tuple[Any, ...]:
            return run_trial, self.config, self.folder, number, self.processes

        while True:
            pool(workers, self.next, call, self.end, self.lose)
            if not self.elsewhere():
                if len(self.study.get_trials(deepcopy=False)) >= self.wanted:
                    return
            else:
                time.sleep(TICK)

    def lose(self, number: int) -> None:
        """Fail a trial whose process died, unless another machine's goes on with it."""
        place = trial_folder(self.folder, number)
        for _ in range(LAST_LOOKS):  # the processes that worked beside the dead one are about to be ended
            if Watch().holder(place) is None and (claim := take(place)) is not None:
                with claim:
                    self.end(number, _tell_study(self.config, self.study, number, {}, DIED, False))
                return
            time.sleep(TICK)
        self.end(number, None)


def name_of(number: int) -> str:
    """A trial's, in reports and on disk."""
    return f"trial{number:03d}"


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial's run lies."""
    return folder / TRIALS / name_of(number)


@dataclass(frozen=True)
class Ended:
    """What came of a trial."""

    values: dict[str, float]
    """Of its objectives."""
    error: str
    """Why it failed, or empty."""
    pruned: bool
    told: bool = True
    """Whether the study knows."""


def run_trial(
    config: SearchConfig,
    folder: Path,
    number: int,
    processes: int = 1,
    report: Callable[[Event], None] = only_warn,
) -> Ended | None:
    """Train a trial and measure it, unless it is pruned on the way, and tell the study.

    Returns:
        ``None`` where another process works on it, or has ended it.
    """
    optuna = import_optuna()
    try:
        claim = take(trial_folder(folder, number))
        if claim is None:
            return None
        with claim:
            study = optuna.load_study(study_name=config.name, storage=_storage(folder))
            if study.get_trials(deepcopy=False)[number].state != optuna.trial.TrialState.RUNNING:
                return None
            ended = _run_trial(config, folder, study, number, processes, report)
            claim.check()
            return _tell_study(config, study, number, *ended)
    except LostError:
        return None
    except OSError as error:
        return Ended({}, f"{type(error).__name__}: {' '.join(str(error).split())}", False, told=False)


def _tell_study(
    config: SearchConfig, study: Any, number: int, values: dict[str, float], error: str, pruned: bool
) -> Ended:
    """Keep what came of a trial."""
    optuna = import_optuna()
    states = optuna.trial.TrialState
    trial = _optuna_trial(study, number)
    trial.set_user_attr(VALUES, values)
    value = values.get(config.spec.objective, math.nan)
    if not error and math.isnan(value):
        error = f"{config.spec.objective} is NaN: no pixel to measure it on"
    if error:
        trial.set_user_attr(ERROR, error)
        study.tell(trial, state=states.FAIL)
    elif pruned:
        study.tell(trial, state=states.PRUNED)
    else:
        study.tell(trial, value)
    return Ended(values, error, pruned)


def _run_trial(
    config: SearchConfig, folder: Path, study: Any, number: int, processes: int, report: Callable[[Event], None]
) -> Trained:
    """Train a trial and measure it; what one fails with is its own."""
    run, row = config.trial(draw_values(config, _optuna_trial(study, number)), name_of(number))
    if config.spec.pruner == "median":
        # looks are taken at what lies in the checkpoint
        run = run.model_copy(
            update={"settings": run.settings.model_copy(update={"checkpoint_every": _between_looks(config, run)})}
        )
    try:
        if processes == 1:
            return _train_trial(config, folder, study, number, run, row, report)
        path, told = _run_folder(config, folder, run, row), dict[str, int]()

        def look() -> None:
            if record := newly_logged(path, told, row):
                report(Event("step", step=record["step"] + 1, steps=run.settings.steps, losses=losses_of(record)))

        return launch(processes, _train_share, config, folder, number, run, row, look=look)
    except LaunchError as error:
        return {}, str(error), False
    except Exception as error:
        return {}, f"{type(error).__name__}: {' '.join(str(error).split())}", False


def _train_share(config: SearchConfig, folder: Path, number: int, run: BenchConfig, row: str) -> Trained:
    """A process' part of a trial: the first measures it and prunes it."""
    together = join(run.settings.device)
    if together is None or together.rank == 0:
        study = import_optuna().load_study(study_name=config.name, storage=_storage(folder))
        return _train_trial(config, folder, study, number, run, row, only_warn)
    stop = (lambda: False) if config.spec.pruner == "median" else None
    train(run, row, seed=config.spec.seed, out=folder / TRIALS, stop=stop)
    return {}, "", False


def _train_trial(
    config: SearchConfig,
    folder: Path,
    study: Any,
    number: int,
    run: BenchConfig,
    row: str,
    report: Callable[[Event], None],
) -> Trained:
    """Train a trial here, as far as it is not pruned, and measure it."""
    optuna, trial = import_optuna(), _optuna_trial(study, number)
    prunes = config.spec.pruner == "median"
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=FIRST) if prunes else optuna.pruners.NopPruner()
    seen: dict[int, float] = {}
    pruned = False
    path, every = _run_folder(config, folder, run, row), _between_looks(config, run)

    def watch(event: Event) -> None:
        nonlocal pruned
        report(event)
        trained = event.kind == "step" and event.cell == f"{row}/seed{config.spec.seed}"
        if trained and prunes and event.step % every == 0 and event.step < event.steps:
            with torch.random.fork_rng():
                seen[event.step] = _value(config.spec.objective, path)
            trial.report(seen[event.step], event.step)
            pruned = bool(trial.should_prune())  # numpy's, now and then

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The reported value is ignored")  # looked at before a kill
        stop = (lambda: pruned) if prunes else None
        result = train(run, row, seed=config.spec.seed, out=folder / TRIALS, report=watch, stop=stop)
    if result.failed:
        return {}, next(iter(result.failed.values())), False
    if pruned:
        return {config.spec.objective: seen[max(seen)]}, "", True
    opened = open_run(path)
    model = load_model(opened).to(build.open_device(run.settings.device))
    return measure_all(measurable(run), run, opened.evaluate, model, run.settings.precision), "", False


def _optuna_trial(study: Any, number: int) -> Any:
    return import_optuna().trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _between_looks(config: SearchConfig, run: BenchConfig) -> int:
    """Steps."""
    return max(1, run.settings.steps // config.spec.looks)


def _run_folder(config: SearchConfig, folder: Path, run: BenchConfig, row: str) -> Path:
    return folder / TRIALS / run.name / row / f"seed{config.spec.seed}"


def _value(objective: str, path: Path) -> float:
    """An objective of the network in a run's checkpoint."""
    opened = open_run(path)
    device = build.open_device(opened.config.settings.device)
    model = load_model(opened).to(device)
    return measure(objective, opened.config, opened.evaluate, model, opened.config.settings.precision)


def read_trials(config: SearchConfig, folder: Path, study: Any = None) -> list[Trial]:
    """What is in a search's folder, by number."""
    optuna = import_optuna()
    study = study or optuna.load_study(study_name=config.name, storage=_storage(folder))
    states = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    trials = []
    for frozen in study.get_trials(deepcopy=False):
        values = draw_values(config, optuna.trial.FixedTrial(frozen.params))
        run, row = config.trial(values, name_of(frozen.number))
        state: Any = states.get(frozen.state.name, "unfinished")
        steps = run.settings.steps if state == "finished" else frozen.last_step or 0
        trials.append(
            Trial(
                frozen.number, values, state, frozen.user_attrs.get(VALUES, {}), steps,
                frozen.user_attrs.get(ERROR, ""), _run_folder(config, folder, run, row),
            )
        )  # fmt: skip
    return trials
