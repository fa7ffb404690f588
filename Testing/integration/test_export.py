"""From a run to figures, and to a bundle that is installed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ENTRIES
from JointRegSegLib import catalog, models
from JointRegSegLib.errors import OutputError
from JointRegSegTrainingLib import trainer
from JointRegSegTrainingLib.export import export_bundle
from JointRegSegTrainingLib.runs import load_run

CARD = ENTRIES["card"]


def test_bundle_of_a_run(bundle, run_folder):
    manifest = bundle.manifest
    assert {key: manifest[key] for key in ("name", "license")} == {key: CARD[key] for key in ("name", "license")}
    assert manifest["labels"] == ENTRIES["labels"]
    figures = manifest["validation"]["figures"]
    measured = {"dice", "dice30", "before", "hd95", "folded", "spread", "inverse", "segmentation", "seconds"}
    assert set(figures) == measured
    assert 0.6 < figures["segmentation"] <= 1 and 0 < figures["seconds"] < 60
    assert manifest["validation"]["pairs"] == 4 and manifest["validation"]["subjects"] == 3
    assert manifest["training"]["subjects"] == 7
    assert manifest["training"]["held_out"] == sorted(manifest["training"]["held_out"])
    assert len(manifest["training"]["validated_on"]) == 2
    assert manifest["requires"] == "0.1.0"
    low, high = manifest["domain"]["extent"]
    assert 20 <= low < high <= 36
    assert manifest["domain"]["spacing"] == [2, 2]
    assert len(manifest["domain"]["volumes"]) == 2 and 0.3 < manifest["domain"]["confidence"] <= 1
    assert manifest["arguments"]["warping"] is True  # defaults are written out
    _, _, network = load_run(run_folder)
    for name, value in models.load(bundle).state_dict().items():
        np.testing.assert_allclose(value, network.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_a_network_may_look_more_often_once_it_is_trained(bundle, run_folder, shell, refused, tmp_path):
    def command(**arguments: object) -> list[object]:
        card = tmp_path / "card.yaml"
        card.write_text(yaml.safe_dump({"card": CARD | {"arguments": arguments}}), encoding="utf-8")
        return ["export", "--run", run_folder, "--card", card, "--pairs", 4, "--output", tmp_path / "out"]

    refused(*command(looks=0), words=("looks has to be 1 or more",))
    refused(*command(channels=[4, 4], counts=[1, 1]), words=("card.arguments", "do not fit"))
    code, _, error = shell(*command(looks=3, passes=1))
    assert code == 0, error
    other = models.open_bundle(tmp_path / "out")
    assert other.manifest["arguments"] == bundle.manifest["arguments"] | {"looks": 3, "passes": 1}
    assert other.manifest["sha256"] == bundle.manifest["sha256"]
    before, after = (b.manifest["validation"]["figures"]["inverse"] for b in (bundle, other))
    assert after != before  # it is the network that ships which was measured
    assert models.load(other).looks == 3


def test_without_a_folder_it_is_installed(run_folder, shell, tmp_path, monkeypatch):
    monkeypatch.setenv(catalog.HOME_VARIABLE, str(tmp_path / "home"))
    code, said, error = shell("export", "--run", run_folder, "--pairs", 2)
    assert code == 0, error
    assert Path(said.splitlines()[-1]) == catalog.user_folder() / CARD["name"]
    entry = {e["name"]: e for e in catalog.entries()}[CARD["name"]]  # what the Slicer module lists
    assert entry["title"] == CARD["title"] and catalog.removable(entry)
    assert models.load(models.find(CARD["name"])).training is False


def test_a_shipped_model_is_not_covered(run_folder, shell, tmp_path, monkeypatch):
    monkeypatch.setenv(catalog.HOME_VARIABLE, str(tmp_path / "home"))
    card = tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump({"card": CARD | {"name": "symmetric-hippocampus"}}), encoding="utf-8")
    code, _, error = shell("export", "--run", run_folder, "--card", card, "--pairs", 1)
    assert code == 2 and "is the name of a model that ships" in error
    assert not (tmp_path / "home").exists()


def test_the_card_tells_how_many_pairs_there_were(run_folder, tmp_path):
    """Of three people no more than six can be made."""
    told = export_bundle(run_folder, tmp_path / "out", pairs=60).manifest["validation"]
    assert told["pairs"] == 6 and told["subjects"] == 3


def test_a_run_that_is_not_complete_is_exported_with_a_warning(config_file, cohort_file, run_folder, shell, tmp_path):
    command = ["train", "--config", config_file, "--cohort", cohort_file, "--output", tmp_path / "run"]
    assert shell(*command, "--max-minutes", 0)[0] == 0
    code, _, error = shell("export", "--run", tmp_path / "run", "--pairs", 1, "--output", tmp_path / "out")
    assert code == 0 and "120 steps of its training are left" in error
    code, _, error = shell("export", "--run", run_folder, "--pairs", 1, "--output", tmp_path / "complete")
    assert code == 0 and "steps" not in error


def test_who_gives_a_start_to_a_run_that_has_begun_is_told(config_file, cohort_file, bundle, run_folder, shell):
    command = ["train", "--config", config_file, "--cohort", cohort_file, "--output", run_folder]
    code, said, _ = shell(*command, "--start", bundle.folder)
    assert code == 0 and "goes on at step 120; --start counts where a run begins" in said


def test_a_bundle_is_replaced_whole_or_not_at_all(bundle, tmp_path, monkeypatch):
    """As when the disk is full: what was there still loads."""
    manifest = {k: v for k, v in bundle.manifest.items() if k not in ("sha256", "requires")}
    network = models.load(bundle)
    there = models.write_bundle(tmp_path / "there", manifest, network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(1)

    def full(path: Path, content: bytes) -> None:
        if path.name.endswith("model.json"):
            raise OSError(28, "No space left on device")
        write(path, content)

    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space"):
        models.write_bundle(there.folder, manifest, other)
    kept = models.load(models.open_bundle(there.folder)).state_dict()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in kept.items())


def test_evaluate(run_folder, shell):
    command = ["evaluate", "--run", run_folder, "--pairs", "2"]
    code, said, _ = shell(*command, "--part", "validation")
    assert code == 0
    rows = dict(line.split() for line in said.splitlines())
    log = json.loads((run_folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    for name, value in log["validation"].items():
        assert float(rows[name]) == pytest.approx(value, abs=1e-3)
    assert shell(*command)[1] != said


def test_bad_runs_and_cards(run_folder, refused, tmp_path):
    card = tmp_path / "card.yaml"
    refused("export", "--run", tmp_path, words=("plan.json", "folder of a training run"))
    run = ["--run", run_folder, "--card", card]
    refused("export", *run, words=(str(card), "no such file"))
    card.write_text("card: [", encoding="utf-8")
    refused("export", *run, words=(str(card), "cannot be read as YAML"))
    card.write_text(yaml.safe_dump({"title": "a"}), encoding="utf-8")
    refused("export", *run, words=(str(card), "no 'card'"))
    for key in ("license", "training"):
        card.write_text(yaml.safe_dump({"card": {k: v for k, v in CARD.items() if k != key}}), encoding="utf-8")
        refused("export", *run, words=(str(card), "card: ", f"'{key}' is a required property"))
    card.write_text(yaml.safe_dump({"card": CARD | {"refinement": {"speed": 1}}}), encoding="utf-8")
    refused("export", *run, "--pairs", "1", words=("card", "'speed' was unexpected"))
    assert sorted(tmp_path.iterdir()) == [card]


def test_bad_options(refused, config_file, cohort_file, tmp_path):
    train = ["train", "--cohort", cohort_file, "--config"]
    own = [*train, config_file]
    refused(*train, "nowhere", words=("nowhere", "neither a YAML file nor", "symmetric-hippocampus"))
    refused(*own, "--set", "weights.smothness=1", words=("tiny.yaml", "weights", "'smothness' was unexpected"))
    refused(*own, "--set", "weights.inverse=a", words=("weights.inverse: 'a' is not of type 'number'",))
    refused(*own, "--set", "arguments={", words=("KEY=VALUE",))
    refused(*own, "--set", "arguments.foo=1", words=("network 'symmetric' has no 'foo'",))
    refused(*own, "--set", "arguments.finest=9", words=("does not take", "finest is a level between"))
    refused(*own, "--start", "nothing", words=("no model 'nothing'",))
    refused(*own, "--start", "generic", words=("'generic' has no weights",))
    refused("train", "--config", config_file, "--cohort", tmp_path / "no.csv", words=("no.csv", "no such file"))
    refused(*own, "--set", "pairs=9", words=("7 images are too few for batches of 9 pairs",))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("train", "--config", "a", "--cohort", "b", "--output", "c", "--every", 0), "--every: takes a whole number"),
        (("train", "--config", "a", "--cohort", "b", "--output", "c", "--max-minutes", -1), "a number of 0 or more"),
        (("evaluate", "--run", "a", "--pairs", 0), "--pairs: takes a whole number of 1 or more, not '0'"),
        (("export", "--run", "a", "--pairs", "few"), "--pairs: takes a whole number of 1 or more, not 'few'"),
        (("cohort", "a", "--output", "b", "--validation", -3), "--validation: takes a whole number of 0 or more"),
    ],
)
def test_numbers_that_make_no_sense(shell, command, words):
    code, _, error = shell(*command)
    assert code == 2 and words in error and error.count("\n") == 1


def test_a_bundle_replaces_nothing_but_a_bundle(run_folder, shell, refused, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "thesis.txt").write_text("mine", encoding="utf-8")
    refused("export", "--run", run_folder, "--pairs", 1, words=("thesis.txt", "no part of a bundle"), output=place)
    refused("export", "--run", run_folder, words=("cannot be a bundle's folder",), output=place / "thesis.txt")
    (place / "thesis.txt").unlink()
    for _ in range(2):
        assert shell("export", "--run", run_folder, "--pairs", 1, "--output", place)[0] == 0
    assert sorted(path.name for path in place.iterdir()) == ["model.json", "weights.safetensors"]


def test_weights_that_are_not_finite_are_not_exported(run_folder, refused, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(run_folder, broken)
    state = trainer.read_state(broken)
    next(iter(state["average"].values())).fill_(float("nan"))
    torch.save(state, broken / "state.pt")
    refused("export", "--run", broken, words=("weights are not finite", "lower 'rate'"))


def test_a_run_whose_images_have_gone(run_folder, shell, tmp_path):
    for name in ("plan.json", "state.pt"):
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())
    text = (run_folder / "cohort.csv").read_text(encoding="utf-8")
    (tmp_path / "cohort.csv").write_text(text.replace("images/", "gone/"), encoding="utf-8")
    code, _, error = shell("evaluate", "--run", tmp_path)
    assert code == 2 and "12 problems" in error and error.count("no such image file") == 12
