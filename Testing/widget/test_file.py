"""What the module is made of, and the self test that it brings."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve()
MODULE = HERE.parents[2] / "JointRegSeg"


def test_every_bound_widget_has_a_parameter_and_every_parameter_a_widget(module):
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "JointRegSeg.ui")
    bound = [p.findtext("string") for p in tree.iter("property") if p.get("name") == "SlicerParameterName"]
    parameters = set(module.JointRegSegParameterNode.allParameters)
    by_hand = {"model", "deformationSegment", "lungMeasure", "result"}  # the class says why
    assert len(bound) == len(set(bound)) and set(bound) == parameters - by_hand
    assert all(name in module.JointRegSegParameterNode.__doc__ for name in by_hand)


def test_every_widget_that_is_used_is_in_the_file():
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "JointRegSeg.ui")
    there = {w.get("name") for w in tree.iter("widget")}
    sources = [MODULE / "JointRegSeg.py", *(MODULE / "JointRegSegGui").glob("*.py")]
    used = {name for source in sources for name in re.findall(r"\bui\.(\w+)", source.read_text())}
    assert used and used <= there
    buttons = {w.get("name") for w in tree.iter("widget") if w.get("class") == "QPushButton"}
    assert buttons <= used
    tips = {w.get("name") for w in tree.iter("widget") if w.find("property[@name='toolTip']") is not None}
    taught = {"QPushButton", "QCheckBox", "QComboBox", "QSpinBox", "QLineEdit", "ctkSliderWidget", "qMRMLNodeComboBox"}
    assert not {w.get("name") for w in tree.iter("widget") if w.get("class") in taught} - tips - {"applyButton"}


def test_no_text_stays_untranslated():
    """Texts that users see go through the translation, with no f-string inside."""
    for source in [MODULE / "JointRegSeg.py", *(MODULE / "JointRegSegGui").glob("*.py")]:
        text = source.read_text()
        assert not re.findall(r"\b_\(\s*f[\"']", text), source
        assert not re.findall(r"(?:\.text|toolTip) = [\"'][A-Z]", text), source


def test_sizes():
    source = (MODULE / "JointRegSeg.py").read_text().splitlines()
    assert len(source) < 600
    starts = [i for i, line in enumerate(source) if line.startswith("class ")]
    first = next(i for i in starts if "Widget(" in source[i])
    assert next(i for i in starts if i > first) - first < 350


def test_importing_takes_no_torch_and_no_time(desktop, module):
    code = (
        "import sys, time; import slicer; sys.path[:0] = sys.argv[1:]; import standin; standin.install(); "
        "began = time.perf_counter(); import JointRegSeg; print(time.perf_counter() - began); "
        "assert not {'torch', 'SimpleITK._SimpleITK'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(HERE.parents[1]), str(MODULE)]
    took = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in "123"]
    assert min(took) < 0.3


def test_the_logic_runs_without_qt(module, tmp_path):
    """As where Slicer is built without a desktop; the stand-in's own Qt stays out of reach."""
    code = (
        "import sys; import slicer; sys.path[:0] = sys.argv[1:]; import standin; standin.install(); "
        "del sys.modules['qt'], sys.modules['ctk']\n"
        "import JointRegSeg\n"
        "logic = JointRegSeg.JointRegSegLogic()\n"
        "from samples import fixed_grid, thing, volume\n"
        "from JointRegSegLib.scene import volumes\n"
        "nodes = [slicer.mrmlScene.AddNewNodeByClass('vtkMRMLScalarVolumeNode') for _ in '12']\n"
        "for node in nodes: volumes.fill(node, volume(thing(), fixed_grid()))\n"
        "result = logic.registerAndSegment(*nodes, working_size=16, device_name='cpu')\n"
        "print(result.verdict, sorted(result.nodes)); logic.close()\n"
        "assert logic.getParameterNode().model == 'generic' and not {'qt', 'ctk'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(HERE.parents[1]), str(HERE.parents[1] / "integration"), str(MODULE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0 and "'warped'" in done.stdout, done.stderr


def self_test(module):
    """As Slicer runs it as a CTest: each test by itself."""
    suite = unittest.TestLoader().loadTestsFromTestCase(module.JointRegSegTest)
    return unittest.TextTestRunner(stream=io.StringIO()).run(suite)


def test_the_self_test_passes(desktop, module):
    window = desktop.open_window()
    try:
        outcome = self_test(module)
    finally:
        if hasattr(module.slicer.modules, "JointRegSegWidget"):
            desktop.close_panel(module.slicer.modules.JointRegSegWidget)
        window.deleteLater()
    assert outcome.wasSuccessful(), outcome.errors + outcome.failures
    assert outcome.testsRun == 3 and not outcome.skipped


def test_the_self_test_is_skipped_without_its_packages(desktop, module, monkeypatch):
    from JointRegSegLib.scene import requirements

    monkeypatch.setattr(requirements, "missing", lambda: ["torch"])
    outcome = self_test(module)
    assert outcome.wasSuccessful() and len(outcome.skipped) == outcome.testsRun == 3
    assert all("torch" in reason for _, reason in outcome.skipped)


def test_reload_and_test_tells_of_what_it_skips(module, monkeypatch):
    """There a skip that is raised would be shown as a failure."""
    from JointRegSegLib.scene import requirements

    told = []
    monkeypatch.setattr(requirements, "missing", lambda: ["torch"])
    monkeypatch.setattr(module.JointRegSegTest, "delayDisplay", lambda self, text: told.append(text))
    module.JointRegSegTest().runTest()
    assert len(told) == 3 and all(text.startswith("Skipped") and "torch" in text for text in told)


def test_sample_data_and_layout_are_known_from_startup_on(module, desktop):
    import slicer
    from JointRegSegLib import samples
    from JointRegSegLib.scene import layout

    module.announce()
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode").IsLayoutDescription(layout.LAYOUT)
    assert [s.sampleName for s in slicer.modules.sampleDataSources["JointRegSeg"]] == [
        s.name for s in samples.samples()
    ]
