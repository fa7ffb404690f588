"""The module JointRegSeg: registers and segments two volumes in one click."""

import html
import time
import unittest

import slicer
import vtk
from JointRegSegGui import packages, words
from JointRegSegGui.parameters import JointRegSegParameterNode, forget_unknown
from JointRegSegLib.errors import Canceled, JointRegSegError
from JointRegSegLib.samples import samples
from JointRegSegLib.scene import layout, requirements, results, sample
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
#: Seconds after which the self test takes a run for one that hangs.
PATIENCE = 600


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
        slicer.app.connect("startupCompleted()", announce)


def announce() -> None:
    """Let Slicer know the reading layout, for scenes that were saved in it, and the sample pair that ships."""
    import SampleData

    layout.offer(slicer.mrmlScene)

    for found in samples():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(category="JointRegSeg", **found.source())


class JointRegSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: what is chosen is in the parameter node, what is computed in the worker process."""

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)  # needed for parameter node observation
        self.logic = None
        self._parameterNode = None
        self._bound = None  # the parameters that widgets are connected to, also while another module is open
        self._parameterNodeGuiTag = None
        self._run = None
        self._shown = None  # identifier of the result

    @property
    def running(self) -> bool:
        """Whether a registration is on its way."""
        return self._run is not None

    def setup(self) -> None:
        """Called when the user opens the module the first time."""
        # Here, for it takes qt, which the logic can do without.
        import qt
        from JointRegSegGui.lung import LungPanel
        from JointRegSegGui.models import ModelPanel
        from JointRegSegGui.progress import ProgressPanel
        from JointRegSegGui.propagate import PropagatePanel
        from JointRegSegGui.quality import QualityPanel
        from JointRegSegGui.report import ReportPanel
        from JointRegSegGui.show import ShowPanel

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/JointRegSeg.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = JointRegSegLogic()
        self.models = ModelPanel(self.ui, self.onModelChosen)
        self.progress = ProgressPanel(self.ui, self.logic.worker)
        self.tell = self.progress.tell
        self.quality = QualityPanel(self.ui, self.onResultChosen)
        self.report = ReportPanel(self.ui, self.logic.worker, self.tell)
        self.show = ShowPanel(self.ui, self.tell)
        self.propagate = PropagatePanel(self.ui, self.tell)
        self.lung = LungPanel(
            self.ui, self.logic, self.progress, self.show.lay_out, self.onParametersChanged, self._onResult
        )
        self.timer = qt.QTimer()
        self.timer.setInterval(INTERVAL)
        self.timer.connect("timeout()", self.onTimer)
        for button, slot in (
            (self.ui.applyButton, self.onApplyButton),
            (self.ui.swapButton, self.onSwapButton),
            (self.ui.sampleDataButton, self.onSampleDataButton),
            (self.ui.reportButton, self.onReportButton),
        ):
            button.connect("clicked(bool)", slot)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """Called when the application closes and the module widget is destroyed."""
        self.cancel()
        self.timer.stop()
        self.setParameterNode(None)
        self._bind(None)
        self.removeObservers()
        self.logic.close()
        self.report.close()
        self.lung.close()

    def enter(self) -> None:
        """Called each time the user opens this module."""
        self.initializeParameterNode()
        self.models.refresh()
        if not requirements.missing():
            self._startWorker()
        self.timer.start()

    def _startWorker(self) -> None:
        """Have the computing process ready by the time of the next click."""
        try:
            self.logic.worker.start()
        except JointRegSegError as error:
            self.tell(words.problem(error))

    def exit(self) -> None:
        """Called each time the user opens a different module; a run goes on, and the timer as long as it does."""
        self.setParameterNode(None)
        self.lung.leave()

    def onSceneStartClose(self, caller: object, event: object) -> None:
        """Called just before the scene is closed."""
        if self.running:
            self.cancel(_("Canceled: the scene was closed."))
        else:
            self.tell("")  # it is about what was in the scene
        for part in (self.show, self.propagate, self.lung):
            part.forget()
        self.setParameterNode(None)
        self._bind(None)

    def onSceneEndClose(self, caller: object, event: object) -> None:
        """Called just after the scene is closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller: object, event: object) -> None:
        """Called after a scene was loaded: it may hold a result."""
        if self._parameterNode is not None:
            self.setParameterNode(self.logic.getParameterNode())

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeRemoved(self, caller: object, event: object, node: object) -> None:
        """Called after each node that is removed: what served it goes too, and the panel shows what is left."""
        results.sweep(slicer.mrmlScene)
        if self._parameterNode is None or slicer.mrmlScene.IsClosing():
            return
        if node is not None and node.GetAttribute(results.ROLE):
            if node.GetAttribute(results.ATTRIBUTE) == self._shown:
                self.showResult(results.find(slicer.mrmlScene, self._shown))
            else:
                self.quality.list_results(self._shown)
        self.propagate.update(self._parameterNode, self.show.result)
        self.lung.update(self._parameterNode, self.show.result)

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
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameterNode = inputParameterNode
        if self._parameterNode is None:
            self.show.attach(None, None)
            return
        self._bind(self._parameterNode)
        self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self.showResult(results.find(slicer.mrmlScene, self._parameterNode.result))
        self.onParametersChanged()

    def _bind(self, parameters: JointRegSegParameterNode | None) -> None:
        """Connect widgets to these parameters, once: each connection observes the node for as long as it lives."""
        if parameters is self._bound:
            return
        if self._bound is not None:
            self._bound.disconnectGui(self._parameterNodeGuiTag)
        self._bound = parameters
        if parameters is not None:
            # As connectGui does, which returns no tag to disconnect by: stale connections would reset what is chosen.
            named = {w.property("SlicerParameterName"): w for w in vars(self.ui).values()}
            named.pop(None, None)
            self._parameterNodeGuiTag = parameters.connectParametersToGui(named)

    def onParametersChanged(self, caller: object = None, event: object = None) -> None:
        """Bring the panel into step with what was chosen."""
        if self._parameterNode is None:
            return
        if self._parameterNode.result != self._shown:
            self.showResult(results.find(slicer.mrmlScene, self._parameterNode.result))
        self.models.select(self._parameterNode.model)
        self._checkCanApply()
        self.propagate.update(self._parameterNode, self.show.result)
        self.lung.update(self._parameterNode, self.show.result)
        self.show.update()

    def onModelChosen(self, name: str) -> None:
        """The user picked a model."""
        if self._parameterNode is not None:
            self._parameterNode.model = name

    def onResultChosen(self, identifier: str) -> None:
        """The user picked another result."""
        self._parameterNode.result = identifier
        self.show.lay_out()

    def _checkCanApply(self) -> None:
        """The button says what is missing; warnings and the need of memory stand beside what they are about."""
        parameters, button = self._parameterNode, self.ui.applyButton
        fixed, moving, entry = parameters.fixedVolume, parameters.movingVolume, self.models.entry
        missing, unfit = None, ""
        if self.lung.reviewing:
            missing = _("The lungs are being reviewed")
        elif fixed is None and moving is None:
            missing = _("Choose two volumes")
        elif fixed is None:
            missing = _("Choose a fixed volume")
        elif moving is None:
            missing = _("Choose a moving volume")
        elif fixed is moving:
            missing = _("Choose two different volumes")
        elif unfit := words.unfit(fixed, moving):
            missing = _("Choose another volume")
        elif entry is None:
            missing = _("Choose a model that is installed")
        button.enabled = self.running or missing is None
        # Qt takes a single ampersand for the mark of a shortcut.
        button.text = _("Cancel") if self.running else missing or _("Register && Segment")
        button.toolTip = (
            unfit
            or missing
            or (
                _("End the run now; the scene stays as it is.")
                if self.running
                else _("Register and segment; results are new nodes.")
            )
        )
        warnings, memory = [unfit] if unfit else [], ""
        if missing is None:
            chosen = ((fixed, _("Fixed")), (moving, _("Moving")))
            warnings = [text for node, role in chosen if (text := outside_domain(node, role, entry))]
            if all(node.GetImageData() is not None for node, _role in chosen):
                needed = memory_needed(fixed, moving, entry, parameters.workingSize)
                memory = _("Needs about {size:.1f} GB of memory").format(size=needed / 1e9)
        self.ui.modelWarningLabel.text = "⚠ " + "<br>".join(map(html.escape, warnings)) if warnings else ""
        self.ui.memoryLabel.text = memory

    def onApplyButton(self) -> None:
        """Start, or cancel."""
        if self.running:
            self.cancel(_("Canceled; the scene is as it was."))
            self._startWorker()
            return
        if not packages.ready(self.tell):
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
            self.tell(words.problem(error))
            return
        self.report.remember(None)
        title = _("Register '{moving}' to '{fixed}'")
        pair = parameters.movingVolume, parameters.fixedVolume
        self.progress.begin(title.format(moving=pair[0].GetName(), fixed=pair[1].GetName()))
        self.onParametersChanged()
        self.timer.start()

    def cancel(self, text: str = "") -> None:
        """End a run, if there is one, and say why."""
        if self.running:
            self._run.cancel()
            self._end(text)

    def onTimer(self) -> None:
        """Look what the computing process has to tell; nobody has to look once all is told and the user gone."""
        self.report.poll()
        self.propagate.poll()
        self.lung.poll()
        if self.running:
            self._follow()
        self.progress.update()
        self.report.update(self.show.result)
        if not (self.parent.isEntered or self.running or self.report.busy or self.propagate.busy or self.lung.busy):
            self.timer.stop()

    def _follow(self) -> None:
        run = self._run
        if not run.poll():
            self.progress.follow(run)
        elif run.result is None:
            self._end("" if isinstance(run.error, Canceled) else words.problem(run.error))
        else:
            report = run.result.report
            seconds = report["seconds"]["total"]
            self.models.remember_seconds(report["settings"]["model"], seconds)
            text = _("Done in {seconds:.1f} s: {verdict}")
            self._end(text.format(seconds=seconds, verdict=words.verdict(run.result.verdict)))
            self.progress.keep(run.result)
            self._onResult(run.result)

    def _end(self, text: str) -> None:
        self._run = None
        self.progress.end(text)
        self.onParametersChanged()

    def _onResult(self, result: results.SceneResult) -> None:
        self.report.remember(result)
        node = self.logic.getParameterNode()  # also while another module is open
        node.result = result.identifier
        if self._parameterNode is None:
            return
        self.ui.resultsCollapsibleButton.collapsed = False
        self.ui.showCollapsibleButton.collapsed = False
        self.show.suggest_spacing()
        self.show.lay_out()

    def showResult(self, result: results.SceneResult | None) -> None:
        """Fill the results section and let the views follow."""
        self._shown = self._parameterNode.result
        self.show.attach(result, self._parameterNode)
        self.quality.list_results(self._shown)
        self.quality.show(result)
        self.report.update(result)

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
        self.report.draw()
        self.timer.start()


class JointRegSegLogic(Registrar, ScriptedLoadableModuleLogic):
    """Everything that a script can do: see `Registrar` for registerAndSegment, registerSequence and registerBatch."""

    _parameters = None

    def getParameterNode(self) -> JointRegSegParameterNode:
        """The scene's parameters, with their types; the same object as long as the node is the same."""
        node = super().getParameterNode()
        forget_unknown(node)
        if self._parameters is None or self._parameters.parameterNode is not node:
            self._parameters = JointRegSegParameterNode(node)
        return self._parameters

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
        """An empty scene, where the packages are installed that it computes with."""
        if missing := requirements.missing():
            self.skipTest(f"open the module and let it install {', '.join(missing)}")
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All of it."""
        for test in (self.test_register, self.test_cancel, self.test_panel):
            try:
                self.setUp()
                test()
            except unittest.SkipTest as reason:  # which *Reload and Test* would show as a failure
                self.delayDisplay(f"Skipped: {reason}")

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
        if slicer.util.mainWindow() is None:
            self.skipTest("there is no main window to open the panel in")
        self.delayDisplay("Clicking through the panel")
        slicer.util.selectModule("JointRegSeg")
        widget = slicer.util.getModuleWidget("JointRegSeg")
        widget.ui.sampleDataButton.click()
        self.assertTrue(widget.ui.applyButton.enabled)
        widget.ui.applyButton.click()
        self.assertTrue(widget.running)
        end = time.monotonic() + PATIENCE
        while widget.running and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.01)  # the computing process needs the processor more
        self.assertFalse(widget.running)
        self.assertGreater(widget.ui.resultsTable.rowCount, 3)
        self.delayDisplay("Reading layout")
