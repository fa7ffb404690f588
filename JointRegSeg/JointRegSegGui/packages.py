"""What has to be installed before anything can be computed, with the user's leave."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from JointRegSegLib.errors import JointRegSegError
from JointRegSegLib.scene import requirements
from slicer.i18n import tr as _

from . import words


def ready(tell: Callable[[str], None]) -> bool:
    """Whether all packages are there, in the end; ``tell`` takes a sentence that says why not."""
    missing = requirements.missing()
    if not missing:
        return True
    try:
        if requirements.install(missing):
            return True
        tell(_("Nothing was installed, and nothing can be computed without it."))
    except JointRegSegError as error:
        tell(words.problem(error))
    except Exception as error:  # of pip, or of what runs it
        slicer.util.errorDisplay(
            _("The packages could not be installed."), windowTitle="JointRegSeg", detailedText=str(error)
        )
    return False
