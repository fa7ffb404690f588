"""A scene with what the application would put beside it."""

from __future__ import annotations

import SimpleITK as sitk
import slicer
import vtk
from JointRegSegLib.scene.seen import Seen


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


def image_of(node: slicer.vtkMRMLVolumeNode | None, role: str) -> sitk.Image:
    """A volume node as an image where it is seen, without a break."""
    seen = Seen(node, role)
    seen.look()
    return seen.image()
