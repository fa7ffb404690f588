"""The module JointRegSeg: registers and segments two volumes in one click."""

import shutil
import tempfile
from pathlib import Path

import qt
import slicer
import vtk
from JointRegSegGui.models import ModelPanel
from JointRegSegGui.parameters import Direction, JointRegSegParameterNode
from JointRegSegGui.quality import QualityPanel
from JointRegSegGui.show import ShowPanel
from JointRegSegLib.errors import Canceled, JointRegSegError
from JointRegSegLib.samples import samples
from JointRegSegLib.scene import propagate, requirements, results, sample
from JointRegSegLib.scene.registrar import Registrar, memory_needed, outside_domain
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

#: Milliseconds between two looks at what the computing process has to tell.
INTERVAL = 20


class JointRegSeg(ScriptedLoadableModule):
    """What Slicer knows about the module."""

    def __init__(self, parent: object) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "JointRegSeg"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = []
        self.parent.contributors = ["JointRegSeg contributors"]
        self.parent.helpText = _(
            "Registers a moving volume to a fixed one and segments both, with one click, and shows whether the result "
            "can be trusted. Choose two volumes and a model, click <b>Register & Segment</b>, and look at the results "
            "in the reading layout. For research use only."
        )
        self.parent.acknowledgementText = _("After five published systems, which the extension's home page names.")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer the sample pair in the module Sample Data; the files ship with the extension."""
    import SampleData

    for found in samples():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(category="JointRegSeg", **found.source())


class JointRegSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: what is chosen is in the parameter node, what is computed in the worker process."""

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._run = None
        self._log = []
        self._reportFolder = None
        self._reportRequest = None
        self._drawable = None  # the result whose report the computing process can draw: its last one

    def setup(self) -> None:
        """Called when the user opens the module the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/JointRegSeg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = JointRegSegLogic()
        self.models = ModelPanel(self.ui, self.onModelChosen)
        self.quality = QualityPanel(self.ui)
        self.show = ShowPanel(self.ui, self.tell)
        self.timer = qt.QTimer()
        self.timer.setInterval(INTERVAL)
        self.timer.connect("timeout()", self.onTimer)
        for button, slot in (
            (self.ui.applyButton, self.onApplyButton),
            (self.ui.swapButton, self.onSwapButton),
            (self.ui.sampleDataButton, self.onSampleDataButton),
            (self.ui.reportButton, self.onReportButton),
            (self.ui.propagateButton, self.onPropagateButton),
        ):
            button.connect("clicked(bool)", slot)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and the module widget is destroyed."""
        self.cancel()
        self.timer.stop()
        self.setParameterNode(None)
        self.removeObservers()
        self.logic.close()
        if self._reportFolder is not None:
            shutil.rmtree(self._reportFolder, ignore_errors=True)

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self.models.refresh()
        if not requirements.missing():
            self.logic.worker.start()  # ready by the time of the click
            self.timer.start()

    def exit(self) -> None:
        """Called each time the user opens a different module; a run goes on."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller: object, event: object) -> None:
        """Called just before the scene is closed."""
        self.cancel()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: object, event: object) -> None:
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller: object, event: object) -> None:
        """Called after a scene was loaded: it may hold a result."""
        if self._parameterNode is not None:
            self.setParameterNode(self.logic.getParameterNode())

    def initializeParameterNode(self) -> None:
        """Ensure that the parameter node exists and is observed; suggest the first two volumes."""
        self.setParameterNode(self.logic.getParameterNode())
        found = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        labels = "vtkMRMLLabelMapVolumeNode"
        found = [node for node in found if not node.GetAttribute(results.ATTRIBUTE) and not node.IsA(labels)]
        chosen = [self._parameterNode.fixedVolume, self._parameterNode.movingVolume]
        for name in ("fixedVolume", "movingVolume"):
            free = [node for node in found if node not in chosen]
            if getattr(self._parameterNode, name) is None and free:
                setattr(self._parameterNode, name, free[0])
                chosen.append(free[0])

    def setParameterNode(self, inputParameterNode: JointRegSegParameterNode | None) -> None:
        """Observe another parameter node, or none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameterNode = inputParameterNode
        if self._parameterNode is None:
            self.show.attach(None, None)
            return
        # As connectGui does, which returns no tag to disconnect by: stale connections would reset what is chosen.
        bound = {w.property("SlicerParameterName"): w for w in vars(self.ui).values()}
        bound.pop(None, None)
        self._parameterNodeGuiTag = self._parameterNode.connectParametersToGui(bound)
        self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.showResult(results.find(slicer.mrmlScene, self._parameterNode.result))
        self.onParametersChanged()

    def onParametersChanged(self, caller: object = None, event: object = None) -> None:
        """Bring the panel into step with what was chosen."""
        if self._parameterNode is None:
            return
        self.models.select(self._parameterNode.model)
        self._checkCanApply()
        self.show.update()

    def onModelChosen(self, name: str) -> None:
        """The user picked a model."""
        if self._parameterNode is not None:
            self._parameterNode.model = name

    def _checkCanApply(self) -> None:
        """The button says what is missing; warnings and the need of memory stand beside what they are about."""
        parameters, button = self._parameterNode, self.ui.applyButton
        fixed, moving, entry = parameters.fixedVolume, parameters.movingVolume, self.models.entry
        missing = None
        if fixed is None and moving is None:
            missing = _("Choose two volumes")
        elif fixed is None:
            missing = _("Choose a fixed volume")
        elif moving is None:
            missing = _("Choose a moving volume")
        elif fixed is moving:
            missing = _("Choose two different volumes")
        elif entry is None:
            missing = _("Choose a model that is installed")
        running = self._run is not None
        button.enabled = running or missing is None
        # Qt takes a single ampersand for the mark of a shortcut.
        button.text = _("Cancel") if running else missing or _("Register && Segment")
        button.toolTip = missing or (
            _("End the run now; the scene stays as it is.")
            if running
            else _("Register and segment; results are new nodes.")
        )
        result = self.show.result
        self.ui.propagateButton.enabled = parameters.propagateNode is not None and result is not None
        warnings, memory = [], ""
        if missing is None:
            chosen = ((fixed, _("Fixed")), (moving, _("Moving")))
            warnings = [text for node, role in chosen if (text := outside_domain(node, role, entry))]
            if all(node.GetImageData() is not None for node, _role in chosen):
                needed = memory_needed(fixed, moving, entry, parameters.workingSize)
                memory = _("Needs about {size:.1f} GB of memory").format(size=needed / 1e9)
        self.ui.modelWarningLabel.text = "⚠ " + "<br>".join(warnings) if warnings else ""
        self.ui.memoryLabel.text = memory

    def onApplyButton(self) -> None:
        """Start, or cancel."""
        if self._run is not None:
            self.cancel()
            self.tell(_("Canceled; the scene is as it was."))
            self.logic.worker.start()  # ready by the time of the next click
            return
        if (missing := requirements.missing()) and not self._install(missing):
            return
        parameters = self._parameterNode
        last = self.show.result if parameters.replaceLast else None
        try:
            self._run = self.logic.start(
                parameters.fixedVolume,
                parameters.movingVolume,
                parameters.options(),
                outputs=parameters.outputs(),
                replaced=last,
            )
        except JointRegSegError as error:
            self.tell(str(error))
            return
        self._drawable = None
        self.ui.reportButton.enabled = False
        self.tell("")
        self.ui.progressBar.setValue(0)
        self.ui.progressBar.visible = True
        self._checkCanApply()
        self.timer.start()

    def _install(self, missing: list[str]) -> bool:
        with slicer.util.tryWithErrorDisplay(_("The packages could not be installed."), waitCursor=True):
            return requirements.install(missing)
        return False

    def cancel(self) -> None:
        """End a run, if there is one."""
        if self._run is not None:
            self._run.cancel()
            self._ended()

    def onTimer(self) -> None:
        """Look what the computing process has to tell."""
        if self._reportRequest is not None:
            for event in self.logic.worker.events(self._reportRequest):
                self._onReport(event)
        if self._run is not None:
            self._follow()
        log = list(self.logic.worker.log)
        if log != self._log:
            self._log = log
            self.ui.logTextEdit.plainText = "\n".join(log)
        if self.logic.worker.device and self.ui.deviceLabel.text != self.logic.worker.device:
            self.ui.deviceLabel.text = self.logic.worker.device

    def _follow(self) -> None:
        if self._run.poll():
            run = self._ended()
            if run.error is not None and not isinstance(run.error, Canceled):
                self.tell(str(run.error))
            elif run.result is not None:
                report = run.result.report
                self.models.remember_seconds(report["settings"]["model"], report["seconds"]["total"])
                self._onResult(run.result)
        else:
            left = self._run.seconds_left
            text = _("{stage} …").format(stage=self._run.stage)
            if left is not None:
                text = _("{stage}, about {seconds:.0f} s left").format(stage=self._run.stage, seconds=left)
            self.ui.progressBar.setValue(round(100 * self._run.fraction))
            self.tell(text)

    def _ended(self) -> object:
        run, self._run = self._run, None
        self.ui.progressBar.visible = False
        if self._parameterNode is not None:
            self._checkCanApply()
        return run

    def _onResult(self, result: results.SceneResult) -> None:
        node = self.logic.getParameterNode()  # also while another module is open
        node.result = self._drawable = result.identifier
        if self._parameterNode is None:
            return
        self.showResult(result)
        self.ui.resultsCollapsibleButton.collapsed = False
        self.ui.showCollapsibleButton.collapsed = False
        self.show.suggest_spacing()
        self.show.lay_out()
        seconds = result.report["seconds"]["total"]
        self.tell(_("Done in {seconds:.1f} s: {verdict}").format(seconds=seconds, verdict=result.verdict))

    def showResult(self, result: results.SceneResult | None) -> None:
        """Fill the results section and let the views follow."""
        self.show.attach(result, self._parameterNode)
        if result is None or not result.report:
            self.quality.clear()
        else:
            self.quality.show(result.report, self.logic.worker.running and result.identifier == self._drawable)

    def onSwapButton(self) -> None:
        """Exchange fixed and moving volume."""
        parameters = self._parameterNode
        with slicer.util.NodeModify(parameters.parameterNode):
            fixed, moving = parameters.fixedVolume, parameters.movingVolume
            parameters.fixedVolume, parameters.movingVolume = moving, fixed

    def onSampleDataButton(self) -> None:
        """Load the sample and choose its volumes."""
        with slicer.util.tryWithErrorDisplay(_("The sample data could not be loaded."), waitCursor=True):
            nodes = self.logic.loadSample()
            with slicer.util.NodeModify(self._parameterNode.parameterNode):
                self._parameterNode.fixedVolume, self._parameterNode.movingVolume = nodes["fixed"], nodes["moving"]

    def onReportButton(self) -> None:
        """Have the report page drawn; it opens when it is there."""
        if self._reportFolder is None:
            self._reportFolder = tempfile.mkdtemp(prefix="jointregseg-report-")
        self._reportRequest = self.logic.worker.submit("report", file=str(Path(self._reportFolder) / "report.html"))
        self.tell(_("Drawing the report …"))
        self.timer.start()

    def _onReport(self, event: dict) -> None:
        """The report page is there, or is not to be had."""
        self._reportRequest = None
        if event["event"] == "error":
            self.tell(event["message"])
        else:
            self.tell("")
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(event["file"]))

    def onPropagateButton(self) -> None:
        """Carry the chosen node over."""
        node, result = self._parameterNode.propagateNode, self.show.result
        try:
            backward = self._parameterNode.direction is Direction.TO_MOVING
            copy = propagate.carry(slicer.mrmlScene, node, result, backward)
        except JointRegSegError as error:
            self.tell(str(error))
            return
        self.tell(_("Made '{name}'").format(name=copy.GetName()))

    def tell(self, text: str) -> None:
        """A sentence for the user, below the button."""
        if self.ui.statusLabel.text != text:
            self.ui.statusLabel.text = text


class JointRegSegLogic(Registrar, ScriptedLoadableModuleLogic):
    """Everything that a script can do: see `Registrar` for registerAndSegment, registerSequence and registerBatch."""

    def getParameterNode(self) -> JointRegSegParameterNode:
        """The scene's parameters, with their types."""
        return JointRegSegParameterNode(super().getParameterNode())

    def loadSample(self) -> dict[str, slicer.vtkMRMLNode]:
        """Load the sample pair that ships with the extension: nodes by role, see `sample.load`.

        Raises
        ------
        InputError
            If a file is missing or damaged.
        """
        return sample.load(slicer.mrmlScene, samples()[0])


class JointRegSegTest(ScriptedLoadableModuleTest):
    """Run in Slicer with a click on *Reload and Test*, or as a CTest."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All of it, where the packages are installed that it computes with."""
        if missing := requirements.missing():
            self.skipTest(f"open the module and let it install {', '.join(missing)}")
        for test in (self.test_register, self.test_cancel, self.test_panel):
            self.setUp()
            test()

    def test_register(self) -> None:
        """The sample pair: a result that is green, and that Slicer's own transform pipeline reproduces."""
        self.delayDisplay("Registering the sample pair")
        logic = JointRegSegLogic()
        try:
            nodes = logic.loadSample()
            fixed, moving = nodes["fixed"], nodes["moving"]
            points = {side: nodes[f"{side}_points"] for side in ("fixed", "moving")}
            result = logic.registerAndSegment(fixed, moving, points=points, device_name="cpu")
        finally:
            logic.close()
        self.assertEqual(result.verdict, "green")
        self.assertLess(result.report["slicer_difference"]["p99"], 0.01)
        self.assertLess(result.report["quality"]["landmarks"]["after_mm"]["mean"], 2.0)
        self.assertIsNone(moving.GetTransformNodeID())
        self.assertEqual(
            slicer.util.arrayFromVolume(result.nodes["warped"]).shape, slicer.util.arrayFromVolume(fixed).shape
        )

    def test_cancel(self) -> None:
        """A canceled run leaves the scene as it was, and the next one works."""
        self.delayDisplay("Canceling a run")
        logic = JointRegSegLogic()
        try:
            nodes = logic.loadSample()
            pair = nodes["fixed"], nodes["moving"]
            before = slicer.mrmlScene.GetNumberOfNodes()
            with self.assertRaises(Canceled):
                logic.registerAndSegment(*pair, progress=lambda stage, fraction: stage != "affine")
            self.assertEqual(slicer.mrmlScene.GetNumberOfNodes(), before)
            self.assertIn(logic.registerAndSegment(*pair, working_size=32).verdict, ("green", "amber", "red"))
        finally:
            logic.close()

    def test_panel(self) -> None:
        """Click through the panel, as a user would."""
        self.delayDisplay("Clicking through the panel")
        slicer.util.selectModule("JointRegSeg")
        widget = slicer.util.getModuleWidget("JointRegSeg")
        widget.ui.sampleDataButton.click()
        self.assertTrue(widget.ui.applyButton.enabled)
        widget.ui.applyButton.click()
        while widget.ui.progressBar.visible:
            slicer.app.processEvents()
        self.assertGreater(widget.ui.resultsTable.rowCount, 3)
        self.delayDisplay("Reading layout")
