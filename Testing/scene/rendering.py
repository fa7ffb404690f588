"""Slice views drawn off screen by Slicer's own displayable managers: what the application's views show, as pixels."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

#: What the application's slice views are made of, as far as this module uses it.
MANAGERS = (
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLTransformsDisplayableManager2D",
    "vtkMRMLColorLegendDisplayableManager",
)


class SliceView:
    """One slice view without a window on a screen.

    Parameters
    ----------
    view_name : str
        Layout name of the slice node, which is in the scene already.
    size : (int, int)
        Width and height in pixels; the field of view grows or shrinks with them, as when a window is resized.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        application: slicer.vtkMRMLApplicationLogic,
        view_name: str,
        size: tuple[int, int],
    ) -> None:
        node = scene.GetSingletonNode(view_name, "vtkMRMLSliceNode")
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application)
        self._logic.SetMRMLScene(scene)
        self._logic.SetSliceNode(node)
        if application.GetSliceLogics() is None:
            application.SetSliceLogics(vtk.vtkCollection())
        application.GetSliceLogics().AddItem(self._logic)  # where legends look for what a view shows
        self._application = application
        self._logic.ResizeSliceNode(*size)
        self._window = vtk.vtkEGLRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(0)
        self._window.SetNumberOfLayers(2)  # the legend has one of its own
        self._window.SetSize(*size)
        renderer = vtk.vtkRenderer()
        self._window.AddRenderer(renderer)
        interactor = vtk.vtkGenericRenderWindowInteractor()
        interactor.SetRenderWindow(self._window)
        self._window.SetInteractor(interactor)
        # The image comes first, as in the application: what is drawn before it lies over black.
        mapper = vtk.vtkImageMapper()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        mapper.SetInputConnection(self._logic.GetImageDataConnection())
        image = vtk.vtkActor2D()
        image.SetMapper(mapper)
        renderer.AddActor2D(image)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(renderer)
        self._managers = []
        for name in MANAGERS:
            manager = getattr(slicer, name)()
            manager.SetMRMLApplicationLogic(application)
            self._group.AddDisplayableManager(manager)
            self._managers.append(manager)
        self._group.SetMRMLDisplayableNode(node)
        # Legends are drawn of nodes that come after the view, as they do in the application.
        for i in range(scene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode")):
            legend = scene.GetNthNodeByClass(i, "vtkMRMLColorLegendDisplayNode")
            scene.InvokeEvent(slicer.vtkMRMLScene.NodeAddedEvent, legend)
            legend.Modified()

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, the first row on top."""
        self._logic.UpdatePipeline()
        self._window.Render()
        out = vtk.vtkUnsignedCharArray()
        width, height = self._window.GetSize()
        self._window.GetPixelData(0, 0, width - 1, height - 1, 1, out, 0)
        return vtk_to_numpy(out).reshape(height, width, 3)[::-1].copy()

    def close(self) -> None:
        """Let go of the scene and of the graphics card."""
        self._group.SetMRMLDisplayableNode(None)
        self._application.GetSliceLogics().RemoveItem(self._logic)
        self._window.Finalize()


def available() -> bool:
    """Whether this machine can draw without a screen."""
    window = vtk.vtkEGLRenderWindow()
    window.SetOffScreenRendering(True)
    try:
        return bool(window.SupportsOpenGL())
    finally:
        window.Finalize()


def render(scene: slicer.vtkMRMLScene, view_name: str, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 of a slice view, ``size`` being width and height."""
    view = SliceView(scene, scene.application, view_name, size)
    try:
        return view.pixels()
    finally:
        view.close()
