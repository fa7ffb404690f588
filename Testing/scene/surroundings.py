"""A scene with what the application would put beside it."""

from __future__ import annotations

import slicer
import vtk


def new_scene() -> slicer.vtkMRMLScene:
    """An empty scene, which becomes Slicer's own; ``application`` and ``helpers`` live as long as it does."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    colors = slicer.vtkMRMLColorLogic()
    colors.SetMRMLScene(scene)
    application.SetMRMLScene(scene)
    application.SetColorLogic(colors)
    application.SetSliceLogics(vtk.vtkCollection())
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(scene)
    remote.AddDataIOToScene()
    segmentations = slicer.vtkSlicerSegmentationsModuleLogic()  # knows how surfaces become label maps
    segmentations.SetMRMLScene(scene)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene).GetSceneItemID()  # the application has one
    scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    scene.application, scene.helpers = application, [colors, remote, segmentations]
    return scene
