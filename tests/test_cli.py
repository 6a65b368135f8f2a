from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.bench import tiny
from tests.bench.test_run import BOOM
from uda.bench import run
from uda.bench.build import open_dataset
from uda.bench.restore import load_model, open_run
from uda.cli import main
from uda.engine import Inference, evaluate
from uda.engine.predict import label_map
from uda.methods import METHODS, TEST_TIME_METHODS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="module")
def config(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file with the data's folder as a root, one row to train and one for test time."""
    methods = {"source_only": ["Supervised"], "adabn": {"test_time": "AdaBN"}}
    content = tiny.content(Path("${data}"), methods=methods, warm_start=None, oracle=False, space="cityscapes19")
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def runs(config: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert run(config, out=out, roots={"data": str(data)}).failed == {}
    return out


def call(*arguments: object) -> int:
    """The exit code of ``uda ...``."""
    with pytest.raises(SystemExit) as caught:
        main([str(one) for one in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom uda.cli import main\n"
        "for arguments in (['--help'], ['bench', '--help'], ['data', 'check', '--help']):\n"
        "    try:\n        main(arguments)\n    except SystemExit as done:\n        assert done.code == 0\n"
        "heavy = {name.split('.')[0] for name in sys.modules} & {'torch', 'numpy', 'cv2', 'timm', 'matplotlib'}\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("train", "eval", "bench", "predict", "methods", "data"):
        assert command in done.stdout


def test_bench_shows_the_table_and_writes_it(
    runs: Path, config: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("bench", config, "--root", f"data={data}", "--out", runs, "--record", tmp_path / "record") == 0
    out, err = capfd.readouterr()
    assert "source_only" in out
    assert "image noise only" in out
    assert "0 of 2 cells to do" in err
    assert (runs / "tiny" / "report.html").is_file()
    assert sorted(path.name for path in (tmp_path / "record").iterdir()) == [
        "results.csv", "results.json", "results.md",
    ]  # fmt: skip


def test_quiet_shows_results_and_failures_alone(
    config: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(config.read_text())
    content["methods"]["boom"] = ["Supervised", BOOM]
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    only = ["--only", "source_only", "--only", "boom"]
    assert call("bench", path, "--root", f"data={data}", "--out", tmp_path, "--quiet", *only) == 1
    out, err = capfd.readouterr()
    assert "source_only" in out
    assert "cells to do" not in err
    assert "source_only/seed0" not in err
    assert "failed: boom/seed0: RuntimeError: boom at once" in err


def test_bench_with_a_failed_cell_gives_1(
    runs: Path,
    config: Path,
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = yaml.safe_load(config.read_text())
    content["methods"]["boom"] = ["Supervised", BOOM]
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert call("bench", path, "--root", f"data={data}", "--out", runs) == 1
    out, err = capfd.readouterr()
    assert "source_only" in out
    assert "failed: boom/seed0: RuntimeError: boom at once" in err
    assert "error.txt" in err


def test_train_shows_scores_and_where_the_curves_are(
    runs: Path, config: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("train", config, "--root", f"data={data}", "--out", runs) == 0
    out = capfd.readouterr().out
    assert "target: mIoU" in out
    assert f"tensorboard --logdir {runs}/tiny/source_only/seed0" in out


def test_eval_scores_a_run(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = runs / "tiny/source_only/seed0"
    json_file, csv_file = tmp_path / "x.json", tmp_path / "x.csv"
    assert call("eval", folder, "--on", "target", "--on", "ika", "--json", json_file, "--csv", csv_file) == 0
    assert "sidewalk" in capfd.readouterr().out
    found = json.loads(json_file.read_text())
    assert set(found["results"]) == {"target", "ika"}
    assert found["results"]["target"]["images"] == 3
    lines = list(csv.reader(csv_file.open()))
    assert ["target", "images", "3"] in lines


def test_eval_never_scores_other_classes_than_the_networks(
    runs: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kitti = ["--kind", "kitti", "--root", data / "kitti", "--split", "val", "--option", "space=street8"]
    assert call("eval", runs / "tiny/source_only/seed0", *kitti) == 2
    assert "kitti/val: the model was trained without 'construction', 'pole or sign'" in capfd.readouterr().err


def test_eval_with_a_test_time_method_and_another_data_set(runs: Path, data: Path, tmp_path: Path) -> None:
    folder = runs / "tiny/source_only/seed0"
    base = ["eval", folder, "--kind", "kitti", "--root", data / "kitti", "--split", "val", "--json"]
    assert call(*base, tmp_path / "a.json") == 0
    assert call(*base, tmp_path / "b.json", "--test-time", "{AdaBN: {prior: 0.0}}") == 0
    on_target = ["--on", "target", "--json"]
    assert call("eval", folder, *on_target, tmp_path / "c.json", "--test-time", "AdaBN") == 0
    assert call("eval", runs / "tiny/adabn/seed0", *on_target, tmp_path / "d.json") == 0
    results = [json.loads((tmp_path / f"{name}.json").read_text())["results"] for name in "abcd"]
    plain, adapted, by_hand, row = (next(iter(result.values()))["loss"] for result in results)
    assert plain != adapted
    assert by_hand == row, "a test-time row's folder is its base model with its method"
    assert row != adapted, "statistics of the target's training images are not those of the scored ones"


def test_predict_keeps_going_and_reports(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (40, 70)), ("deep/b.jpg", (65, 33))):
        cv2.imwrite(str(images / name), rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    out = tmp_path / "out"
    assert call("predict", runs / "tiny/source_only/seed0", images, "--out", out, "--ids", "both") == 0
    train = cv2.imread(str(out / "train_ids/deep/b.png"), cv2.IMREAD_UNCHANGED)
    raw = cv2.imread(str(out / "raw_ids/deep/b.png"), cv2.IMREAD_UNCHANGED)
    assert train.shape == (65, 33)
    assert train.max() < 19
    pairs = {(int(a), int(b)) for a, b in zip(train.ravel(), raw.ravel(), strict=True)}
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert pairs <= set(enumerate(ids))
    assert cv2.imread(str(out / "overlay/a.jpg")).shape == (40, 70, 3)

    (images / "bad.png").write_bytes(b"nothing")
    assert call("predict", runs / "tiny/source_only/seed0", images, "--out", tmp_path / "again", "--no-overlay") == 1
    captured = capfd.readouterr()
    assert "2 of 3 images predicted" in captured.out
    assert "bad.png" in captured.err
    assert sorted(path.name for path in (tmp_path / "again").rglob("*.png")) == ["a.png", "b.png"]


def test_a_model_of_somebody_elses(tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\nfrom uda.models import adapt\n\n"
        "def build():\n"
        "    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1))\n"
        "    return adapt(network, num_classes=8, mean=[0, 0, 0], std=[1, 1, 1], feature_layer='1')\n"
    )
    model = f"{file}:build"
    kitti = ["--kind", "kitti", "--root", data / "kitti", "--split", "val"]
    assert call("eval", model, "--space", "street8", *kitti, "--test-time", "AdaBN") == 0
    assert call("predict", model, data / "kitti/training/image_2", "--out", tmp_path / "p", "--space", "street8") == 0
    assert call("eval", model, *kitti) == 2
    assert "--space" in capfd.readouterr().err


def test_predictions_among_the_images_are_not_predicted_again(runs: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((40, 40, 3), 100, dtype=np.uint8))
    for _ in range(2):
        assert call("predict", runs / "tiny/source_only/seed0", tmp_path, "--out", tmp_path) == 0
        # two images that differ in their suffix only do not share a file
        names = sorted(path.name for path in (tmp_path / "train_ids").rglob("*"))
        assert names == ["a.jpg.png", "a.png.png", "b.png"]


def test_a_model_that_does_not_fit(tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\nfrom uda.models import adapt\n\n"
        "def bare():\n    return nn.Conv2d(3, 8, 3, stride=4)\n\n"
        "def seven():\n    network = nn.Sequential(nn.Conv2d(3, 7, 1))\n"
        "    return adapt(network, num_classes=7, mean=[0, 0, 0], std=[1, 1, 1], feature_layer='0')\n"
    )
    images = data / "kitti/training/image_2"
    assert call("predict", f"{file}:seven", images, "--out", tmp_path / "p", "--space", "street8") == 2
    assert "predicts 7 classes, 'street8' has 8" in capfd.readouterr().err
    # logits of another size are brought to the image's
    assert call("predict", f"{file}:bare", images, "--out", tmp_path / "p", "--space", "street8") == 0
    assert call("predict", f"{file}:bare", images, "--out", "x", "--space", "street8", "--test-time", "AdaBN") == 2
    assert "Conv2d has no 'num_classes', so it is no segmenter; wrap it: uda.models.adapt" in capfd.readouterr().err


def test_eval_of_a_row_gives_the_tables_numbers(config: Path, data: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["methods"]["adabn"] = {"test_time": "AdaBN"}
    content["settings"]["precision"] = "bf16"
    done = run(content, out=tmp_path, roots={"data": str(data)})
    assert done.failed == {}
    for name in ("source_only", "adabn"):
        assert call("eval", done.folder / name / "seed0", "--json", tmp_path / f"{name}.json") == 0
        found = json.loads((tmp_path / f"{name}.json").read_text())["results"]
        for domain, score in done.table.row(name).scores.items():
            assert found[domain]["miou"] == pytest.approx(score.by_seed[0], abs=1e-9), (name, domain)


def test_evaluate_options(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = runs / "tiny/source_only/seed0"
    model, dataset = load_model(folder), open_run(folder).config.domains["target"]
    options = ["--evaluate", "window=[48, 64]", "--evaluate", "flip=true", "--scale", "0.75"]
    means = ["--evaluate", "classes={some: [road, car], other: [train]}"]
    files = ["--json", tmp_path / "x.json", "--csv", tmp_path / "x.csv"]
    assert call("eval", folder, "--on", "target", *options, *means, *files) == 0
    inference = Inference(window=(48, 64), flip=True, scale=0.75)
    expected = evaluate(model, open_dataset(dataset, "cityscapes19"), inference=inference)
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["evaluate"] == {
        "window": [48, 64], "flip": True, "scale": 0.75, "classes": {"some": ["road", "car"], "other": ["train"]},
    }  # fmt: skip
    scores = found["results"]["target"]
    assert (scores["miou"], scores["loss"]) == (expected.miou(), expected.loss())
    assert scores["means"] == {"some": expected.miou(["road", "car"]), "other": None}
    assert "mean, some" in capfd.readouterr().out
    lines = list(csv.reader((tmp_path / "x.csv").open()))
    assert ["target", "miou/some", str(scores["means"]["some"])] in lines
    assert ["target", "miou/other", ""] in lines


def test_predict_as_the_run_was_evaluated_or_otherwise(config: Path, data: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["methods"] = {"source_only": ["Supervised"]}
    content["evaluate"] = {"input_size": [32, 48], "flip": True, "domains": {"source": {"flip": False}}}
    done = run(content, out=tmp_path / "runs", roots={"data": str(data)})
    folder, images = done.folder / "source_only/seed0", data / "kitti/training/image_2"
    image = cv2.cvtColor(cv2.imread(str(sorted(images.glob("*.png"))[0])), cv2.COLOR_BGR2RGB)
    cases: list[tuple[list[str], Inference]] = [
        ([], Inference(input_size=(32, 48), flip=True)),
        (["--statistics", "source"], Inference(input_size=(32, 48))),
        # what is asked for holds on every domain
        (["--statistics", "source", "--evaluate", "flip=true"], Inference(input_size=(32, 48), flip=True)),
        (["--evaluate", "input_size=null", "--evaluate", "flip=false"], Inference()),
    ]
    maps = []
    for at, (options, inference) in enumerate(cases):
        out = tmp_path / str(at)
        assert call("predict", folder, images, "--out", out, "--no-overlay", *options) == 0
        written = cv2.imread(str(sorted((out / "train_ids").glob("*.png"))[0]), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(written, label_map(load_model(folder), image, inference))
        maps.append(written)
    assert (maps[0] != maps[3]).any()


def test_data_commands(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new"
    arguments = ["--domain", "kitti", "--split", "train=1", "--split", "val=1", "--size", "64x96"]
    assert call("data", "streets", "--out", out, *arguments) == 0
    assert call("data", "check", "kitti", out / "kitti", "--split", "train") == 0
    assert "road" in capfd.readouterr().out
    assert call("data", "show", "kitti", out / "kitti", "--out", tmp_path / "sheet.png", "--split", "val") == 0
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None
    next((out / "kitti/training/semantic").glob("*.png")).write_bytes(b"broken")
    codes = {call("data", "check", "kitti", out / "kitti", "--split", split) for split in ("train", "val")}
    assert codes == {0, 1}


def test_streets_with_changes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = ["--split", "val=1", "--size", "32x64"]
    dim = ["--change", "sensor.contrast=0.7", "--change", "camera.shift=[0.1, 0, 0]"]
    only = ["--domain", "ika", "--name", "dim"]
    assert call("data", "streets", "--out", tmp_path, *small, *only, *dim) == 0
    written = json.loads((tmp_path / "dim/streets.json").read_text())
    changes = {"sensor.contrast": 0.7, "camera.shift": [0.1, 0.0, 0.0]}
    assert (written["domain"], written["base"], written["changes"]) == ("dim", "ika", changes)
    assert call("data", "check", "ika", tmp_path / "dim", "--split", "val") == 0
    assert call("data", "streets", "--out", tmp_path, *small, *only, *dim[:2]) == 2
    assert "in the look of 'ika' with camera.shift=[0.1, 0.0, 0.0], sensor.contrast=0.7" in capfd.readouterr().err
    assert call("data", "streets", "--out", tmp_path, *small, "--change", "sensor.contrast=1", "--name", "x") == 2
    assert "--name x is of one domain, not of cityscapes, kitti, ika" in capfd.readouterr().err
    assert call("data", "streets", "--out", tmp_path, *small, *only, "--change", "sensor.contrst=1") == 2
    assert "the nearest are 'sensor.contrast'" in capfd.readouterr().err
    assert call("data", "streets", "--out", tmp_path, *small, "--domain", "ika", "--name", "a/b") == 2
    assert call("data", "streets", "--out", tmp_path, *small, "--domain", "ika", "--factor", "noise=big") == 2
    assert "--factor noise=big: the strength is a number" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["dim"]
    factors = ["--factor", "mean", "--factor", "noise=0.5"]
    assert call("data", "streets", "--out", tmp_path, *small, "--domain", "ika", *factors, *dim[:2]) == 0
    noise = json.loads((tmp_path / "ika_noise/streets.json").read_text())
    assert noise["changes"] == {"sensor.contrast": 0.7, "camera.noise": 0.02}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dim", "ika_mean", "ika_noise"]


def test_data_check_of_a_config(config: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("data", "check", config, "--root", f"data={data}") == 0
    out = capfd.readouterr().out
    for name in ("cityscapes/train", "cityscapes/val", "kitti/train", "kitti/val", "ika/val"):
        assert name in out


def test_methods_are_listed_with_papers(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("methods") == 0
    out = capfd.readouterr().out
    for name in (*METHODS, *TEST_TIME_METHODS):
        assert f"  {name}(" in out
    assert "Yang and Soatto, CVPR 2020" in out


WRONG = [
    (["bench", "nowhere.yaml"], "nowhere.yaml: no such config file"),
    (["bench", "{config}"], "give --root data=PATH"),
    (["bench", "{config}", "--root", "data"], "--root takes NAME=VALUE, got 'data'"),
    (["bench", "{config}", "--root", "data=/nowhere"], "/nowhere/cityscapes: no such folder"),
    (["bench", "{config}", "--root", "data={data}", "--only", "fdaa"], "has no row 'fdaa'"),
    (["bench", "{config}", "--root", "data={data}", "--seeds", "a"], "whole numbers"),
    (["train", "{config}", "--root", "data={data}", "-m", "nothing"], "known: source_only, adabn"),
    (["train", "{config}", "--settings", "cpu-2-core"], "no machine of that name; the nearest is 'cpu-2-cores'"),
    (["bench", "{config}", "--settings", "{config}"], "tiny.yaml: must have `settings:` with a mapping"),
    (["eval", "nowhere"], "nowhere: no such folder"),
    (["eval", "{run}", "--on", "mars"], "there are: source, target, ika"),
    (["eval", "{run}", "--on", "target", "--test-time", "AdaBM"], "AdaBN"),
    (["eval", "{run}", "--on", "target", "--test-time", "FDA"], "in training"),
    (["eval", "{run}", "--on", "target", "--test-time", "{{AdaBN: 1"], "--test-time: '{{AdaBN: 1' is not valid YAML"),
    (
        ["eval", "{run}", "--on", "target", "--evaluate", "flop=1"],
        "--evaluate flop: unknown key; the nearest is 'flip'",
    ),
    (["eval", "{run}", "--evaluate", "flip"], "--evaluate takes NAME=VALUE, got 'flip'"),
    (["eval", "{run}", "--evaluate", "window=[8]"], "--evaluate window.1: Field required"),
    (["eval", "{run}", "--evaluate", "stride=[4, 4]"], "--evaluate: stride is (4, 4), but there is no window"),
    (["eval", "{run}", "--evaluate", "classes=[rod]"], "--evaluate classes.1 classes: no class 'rod'; the nearest is"),
    (["eval", "{run}", "--evaluate", "model=teacher"], "trained without a teacher"),
    (["eval", "{run}", "--test-time", "TENT", "--evaluate", "flip=true"], "TENT adapts to every pass"),
    (["predict", "{run}", "{data}", "--out", "x", "--evaluate", "aux=1"], "no auxiliary classifier"),
    (["eval", "{run}", "--on", "target", "--device", "gpu"], "device: "),
    (["eval", "{run}", "--on", "target", "--device", "cuda:99"], "device: no 'cuda:99' here"),
    (["predict", "{run}", "nowhere", "--out", "x"], "nowhere: no such folder"),
    (["predict", "{run}", "{data}", "--out", "x", "--device", "cuda:99"], "device: no 'cuda:99' here"),
    (["data", "check", "kitti", "{data}/kitti", "--option", "limit=["], "--option limit: '[' is not valid YAML"),
    (["data", "check", "kity", "{data}"], "kitti"),
    (["data", "check", "kitti", "/nowhere"], "/nowhere: no such folder"),
    (["data", "streets", "--out", "x", "--size", "big"], "HEIGHTxWIDTH"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=[" ".join(one[:2]) + str(at) for at, (one, _) in enumerate(WRONG)]
)
def test_wrong_input_gives_2_and_a_line_or_two(
    arguments: list[str],
    message: str,
    config: Path,
    data: Path,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"config": config, "data": data, "run": runs / "tiny/source_only/seed0"}
    assert call(*(one.format(**places) for one in arguments)) == 2
    err = capfd.readouterr().err
    assert message.format() in err
    lines = [line for line in err.splitlines() if not line.startswith(("street scenes", "0 of"))]
    assert 1 <= sum(line.startswith("error: ") for line in lines) <= len(lines) <= 3
    assert "Traceback" not in err


def test_debug_shows_the_traceback_wherever_it_stands(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "bench", "nowhere.yaml"], ["bench", "nowhere.yaml", "--debug"]):
        assert call(*arguments) == 2
        assert "Traceback" in capfd.readouterr().err
    assert call("bench", "nowhere.yaml") == 2
    assert "Traceback" not in capfd.readouterr().err


def test_unknown_option_gives_2() -> None:
    assert call("bench", "--nonsense") == 2


def test_interrupt_gives_130(
    config: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("uda.engine.Trainer.fit", interrupt)
    assert call("bench", config, "--root", f"data={data}", "--out", tmp_path) == 130
    assert "goes on from there" in capfd.readouterr().err
