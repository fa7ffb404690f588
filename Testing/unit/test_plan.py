"""Configurations: what they may say, what they mean, and what is said when they are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import partial

import pytest
import torch
from JointRegSegLib.errors import InputError
from JointRegSegLib.networks import DeepAtlas, LinearDeformableNetwork, SVFNet, SymmetricNetwork, UResNet
from JointRegSegLib.preprocess import Preprocessing
from JointRegSegLib.refine import Refinement
from JointRegSegTrainingLib import plan, trainer
from JointRegSegTrainingLib.augment import Augmentation
from JointRegSegTrainingLib.plan import (
    CONFIGURATIONS,
    Breaths,
    Label,
    Plan,
    Shapes,
    Weights,
    find,
    from_entries,
    read_entries,
)

TEXT = """
network: symmetric
preprocessing: {size: [16, 16, 16], spacing: [2, 2, 2]}
labels:
  - {value: 1, name: left, color: "#000000"}
  - {value: 2, name: right, color: "#ffffff", sources: [47, 48]}
weights: {inverse: 0.5}
"""
SCHEMA = plan.schema()
PLACES = {
    "plan": (Plan, SCHEMA["properties"]),
    "weights": (Weights, SCHEMA["properties"]["weights"]["properties"]),
    "augmentation": (Augmentation, SCHEMA["properties"]["augmentation"]["properties"]),
    "references": (Shapes, SCHEMA["properties"]["references"]["properties"]),
    "label": (Label, SCHEMA["properties"]["labels"]["items"]["properties"]),
    "preprocessing": (Preprocessing, SCHEMA["properties"]["preprocessing"]["properties"]),
    "breaths": (Breaths, SCHEMA["properties"]["breaths"]["properties"]),
    "refinement": (Refinement, SCHEMA["properties"]["card"]["properties"]["refinement"]["properties"]),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def made(path, *changes: str) -> Plan:
    return from_entries(read_entries(path, changes), str(path))


def test_what_a_file_says_and_what_it_leaves_out(file):
    found = made(file)
    assert found.values == (1, 2)
    assert [label.origins for label in found.labels] == [(1,), (47, 48)]
    assert found.weights == Weights(inverse=0.5)
    assert found.preprocessing == Preprocessing((16, 16, 16), (2, 2, 2))
    assert found.augmentation == Augmentation() and found.mixed is None


def test_the_keys_that_no_class_has_are_described_too():
    def properties(schema: dict) -> Iterator[tuple[str, dict]]:
        for key, entry in schema.get("properties", {}).items():
            yield key, entry
            yield from properties(entry)
            yield from properties(entry.get("items", {}) if isinstance(entry.get("items"), dict) else {})

    every = list(properties(SCHEMA))
    assert {"meaning", "modality", "command", "flips"} <= {key for key, _ in every}
    assert not [key for key, entry in every if len(entry.get("description", "")) < 4]


@pytest.mark.parametrize("place", PLACES)
def test_schema_and_classes_have_the_same_keys_and_each_is_described(place):
    kind, described = PLACES[place]
    chosen = {"similarity"} if kind is Refinement else set()  # which is for the user to say
    assert {field.name for field in fields(kind)} - chosen == set(described) - {"card"}
    assert not [key for key, entry in described.items() if len(entry.get("description", "")) < 4]


def test_the_plan_of_a_run_reads_back_the_same(file):
    found = made(file, "alternate={encoder: 1}", "frozen=[encoder]", "augmentation.flips=[0, 0, 1]")
    again = from_entries(json.loads(json.dumps(asdict(found))), "plan.json")
    assert again == found and again.weights.inverse == 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stepps=3", ("the plan", "'stepps' was unexpected")),
        ("steps=many", ("steps: 'many' is not of type 'integer'",)),
        ("steps=0", ("steps: 0 is less than the minimum of 1",)),
        ("weights.smothness=1", ("weights", "'smothness' was unexpected", "did you mean smoothness?")),
        ("pairs=2.0", ("pairs: 2.0 is not of type 'integer'",)),
        ("preprocessing.size=[40.0, 56, 40]", ("preprocessing.size.0: 40.0 is not of type 'integer'",)),
        ("augmentation.rotation=1e9", ("augmentation.rotation: 1000000000.0 is greater than",)),
        ("weights.inverse=-1", ("weights.inverse: -1 is less than",)),
        ("weights=[1]", ("weights: [1] is not of type 'object'",)),
        ("augmentation.flips=1", ("augmentation.flips: 1 is not of type 'array'",)),
        ("preprocessing.size=[16, 16]", ("preprocessing.size: [16, 16] is too short",)),
        ("preprocessing.intensity=loud", ("preprocessing", "unknown intensity", "'loud'", "zscore")),
        ("preprocessing.alignment=world", ("preprocessing.alignment: 'world' is not one of",)),
        ("schedule=linear", ("schedule: 'linear' is not one of", "cosine")),
        ("labels=[{value: 1, name: a, color: red}]", ("labels.0.color: 'red' does not match",)),
        (
            "labels=[{value: 1, name: a, color: '#000000'}, {value: 1, name: b, color: '#000000'}]",
            ("labels: two of them have the value 1",),
        ),
        (
            "labels=[{value: 1, name: a, color: '#000000'}, {value: 2, name: b, color: '#000000', sources: [1]}]",
            ("labels: two of them have the source 1",),
        ),
        ("network=u-net", ("network: unknown 'u-net'", "known: ", "symmetric")),
        ("card.name=Two Words", ("card.name: 'Two Words' does not match",)),
        ("card.refinement={speed: 1}", ("card.refinement: ", "'speed' was unexpected")),
        ("preprocessing.orientation=RRR", ("preprocessing.orientation: 'RRR' does not match",)),
        ("labels=[]", ("labels: [] should be non-empty",)),
        ("rate=.inf", ("rate: is no finite number",)),
        ("augmentation.flips=[.nan, 0, 0]", ("augmentation.flips: is no finite number",)),
        (f"weights={{{', '.join(f'{name}: 0' for name in asdict(Weights()))}}}", ("weights: all are 0",)),
    ],
)
def test_an_error_names_file_and_key(file, change, words):
    with pytest.raises(InputError) as error:
        made(file, change)
    assert str(error.value).startswith(f"{file}: ")
    assert not [word for word in words if word not in str(error.value)], error.value
    assert "\n" not in str(error.value)


def test_all_errors_are_named_at_once(file):
    with pytest.raises(InputError) as error:
        made(file, "rate=fast", "pairs=0", "weights.folding=no")
    assert all(f"{key}: " in str(error.value) for key in ("rate", "pairs", "weights.folding"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"network: [", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "is not in UTF-8; save it in that encoding"),
        (b"steps: 3\nsteps: 4\n", "cannot be read as YAML .*'steps' is there twice"),
        (b"", "has to be a mapping"),
        (b"- 1", "has to be a mapping"),
        (b"network: symmetric", "'preprocessing' is a required property.*'labels' is a required property"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.yaml: .*{words}"):
        made(path)


def test_changes(file):
    found = made(
        file, "rate=1e-3", "weights.inverse=2.5E-1", "arguments.channels=[4, 8]", "complete=true", "mixed=null"
    )
    assert found.rate == 1e-3  # which YAML 1.1 takes for text
    assert found.weights.inverse == 0.25
    assert found.arguments == {"channels": [4, 8]} and found.complete is True and found.mixed is None
    assert made(file, "steps=2", "steps=3").steps == 3


@pytest.mark.parametrize(
    "change", ["steps", "=3", "network.more=3", "network.much.more=3", "labels.0.value=3", "steps={"]
)
def test_changes_that_are_none(file, change):
    with pytest.raises(InputError, match=r"has no entries|KEY=VALUE") as error:
        made(file, change)
    assert change in str(error.value)


def test_rates_in_a_file_may_be_written_without_a_point(file):
    file.write_text(TEXT + "rate: 1e-3\n", encoding="utf-8")
    assert made(file).rate == 1e-3


def test_a_configuration_is_found_by_name_or_file(file):
    assert find("symmetric-hippocampus").parent == CONFIGURATIONS
    assert find(file) == find(str(file)) == file
    with pytest.raises(InputError, match=r"hipocampus: neither a YAML file nor .*symmetric-hippocampus"):
        find("hipocampus")


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_are_whole(path):
    entries = read_entries(path)
    found = from_entries(entries, str(path))
    trainer.build(found)  # network, lattice, channels and labels fit each other
    assert found.labels and entries["card"]["name"] == path.stem
    assert not [text for text in (*entries["card"].values(), *entries["card"]["training"].values()) if not text]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("arguments.foo=1", "arguments: network 'symmetric' has no 'foo'; it has channels, "),
        ("arguments.finest=9", "arguments: .*does not take these values .finest is a level between"),
        ("arguments.classes=4", r"arguments\.classes: .*labels and background are 3, not 4"),
        (
            "preprocessing.size=[16, 17, 16]",
            r"preprocessing\.size: network 'symmetric' needs multiples of 8, which 16 x 17 x 16",
        ),
        ("preprocessing.intensity=ct-windows", r"arguments\.inputs: images have 3 channels, not 1"),
    ],
)
def test_networks_that_do_not_fit_the_plan(file, change, words):
    with pytest.raises(InputError, match=words):
        trainer.build(made(file, change))


def test_a_base_says_what_the_file_leaves_out(file):
    own = file.with_name("own.yaml")
    own.write_text("base: mine\nweights: {overlap: 2}\narguments: {classes: 3}\n", encoding="utf-8")
    file.write_text(TEXT + "arguments: {velocity: true}\nsteps: 7\n", encoding="utf-8")
    found = made(own, "weights.similarity=3")
    assert found.weights == Weights(inverse=0.5, overlap=2, similarity=3)
    assert found.arguments == {"classes": 3}  # another network's would not fit
    assert found.steps == 7 and found.values == (1, 2)
    own.write_text("base: own\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"base: 'own' leads back to own\.yaml"):
        made(own)
    own.write_text("base: nothing-of-that-name\n", encoding="utf-8")
    with pytest.raises(InputError, match="neither a YAML file nor a configuration"):
        made(own)


def test_a_base_that_leads_back(file):
    other = file.with_name("other.yaml")
    other.write_text(f"base: {file.stem}\n", encoding="utf-8")
    file.write_text(f"base: other\n{TEXT}", encoding="utf-8")
    with pytest.raises(InputError, match=f"base: '{file.stem}' leads back to {file.name}"):
        read_entries(file)


def test_segments_are_labels_by_name(file):
    assert made(file).segmented == (0, 1)
    assert made(file, "segments=[right]").segmented == (1,)
    assert made(file, "segments=null").segmented == (0, 1)
    with pytest.raises(InputError, match=r"segments: 'middle' is none of the labels \(left, right\)"):
        made(file, "segments=[middle]")


def test_references_need_their_shapes(file):
    with pytest.raises(InputError, match="references: scheme 'references' needs this entry"):
        made(file, "scheme=references")
    found = made(file, "scheme=references", "references={structures: [[1], [1, 2]], spacing: [1, 2, 3]}")
    assert found.references == Shapes(((1,), (1, 2)), (1, 2, 3))


@pytest.mark.parametrize(
    ("name", "paper", "keys"),
    [
        ("lung-published", LinearDeformableNetwork.paper, ("stride", "both", "velocity", "passes", "divisor")),
        ("uresnet-brain-published", partial(UResNet.paper, classes=4), ("both", "velocity", "passes")),
        (
            "symmetric-hippocampus-published",
            partial(SymmetricNetwork.paper, (16, 32, 64, 96), counts=(1, 2, 2, 2), classes=0),
            ("finest", "velocity", "passes", "warping", "divisor"),
        ),
        ("deepatlas-brain-published", partial(DeepAtlas.paper, classes=16), ("both", "velocity", "passes", "divisor")),
        (
            "svfnet-heart-published",
            partial(SVFNet.paper, (16, 32, 64, 128)),  # half of the published channels
            ("symmetric", "passes", "halved", "divisor"),
        ),
    ],
)
def test_published_networks_are_the_papers(name, paper, keys):
    path = find(name)
    with torch.device("meta"):
        network, published = trainer.build(from_entries(read_entries(path), str(path))), paper()
    shapes = ({k: v.shape for k, v in n.state_dict().items()} for n in (network, published))
    assert next(shapes) == next(shapes)
    for key in keys:
        assert getattr(network, key) == getattr(published, key)


def test_a_network_that_comes_down_to_few_voxels_is_tried_on_enough_of_them():
    """Of a single voxel, to which a registration alone comes down on the smallest lattice, there is no deviation."""
    changes = ("arguments={classes: 0, normalized: true}", "annotated_share=0", "complete=false", "weights.overlap=0")
    made_of = from_entries(read_entries(find("deepatlas-brain"), changes), "deepatlas-brain")
    trainer.require_computable(trainer.build(made_of), made_of)
