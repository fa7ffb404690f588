"""A scene with what the application puts beside it."""

from __future__ import annotations

from pathlib import Path

import slicer


class Surroundings:
    """A scene, the application's logic and its helpers, which live as long as this object."""

    def __init__(self, home: str) -> None:
        self.scene = slicer.vtkMRMLScene()
        self.application = slicer.vtkSlicerApplicationLogic()
        Path(home, "ColorFiles").mkdir(exist_ok=True)  # the color logic looks there for files, and finds none
        self.application.SetHomeDirectory(home)
        self.application.SetShareDirectory(".")
        self.application.SetMRMLScene(self.scene)
        self.colors = slicer.vtkSlicerColorLogic()
        self.colors.SetMRMLApplicationLogic(self.application)
        self.colors.SetMRMLScene(self.scene)
        self.application.SetColorLogic(self.colors)
        self.remote = slicer.vtkMRMLRemoteIOLogic()
        self.remote.SetMRMLScene(self.scene)
        self.remote.AddDataIOToScene()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene)
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene).GetSceneItemID()
