"""DICOM tags that a lung review looks at, by what they are called here."""

from __future__ import annotations

#: Of how a scan was made.
TAGS = {"0018|0050": "slice thickness", "0018|1210": "kernel"}
#: By which two people are told apart; what they hold is not told.
PERSON = {"0010|0020": "number", "0010|0030": "birth date"}
