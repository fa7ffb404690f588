"""A package that is imported when it is used, and not before."""

from __future__ import annotations

import sys

import pytest
from JointRegSegLib.delayed import delay


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of its own for the test, which says when it is run."""
    (tmp_path / "slowly").mkdir()
    (tmp_path / "slowly" / "__init__.py").write_text("import sys\nsys.slowly_ran = True\nfrom .inner import value\n")
    (tmp_path / "slowly" / "inner.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "slowly_ran", False, raising=False)
    yield
    for name in [name for name in sys.modules if name.startswith("slowly")]:
        del sys.modules[name]


def test_it_is_imported_when_it_is_used(package):
    delay("slowly")
    import slowly

    assert not sys.slowly_ran
    assert slowly.value == 7 and sys.slowly_ran
    assert sys.modules["slowly"].value == 7 and sys.modules["slowly"] is not slowly
    with pytest.raises(AttributeError, match="module 'slowly' has no attribute 'nothing'"):
        slowly.nothing  # noqa: B018


def test_what_was_imported_or_is_not_there_stays_so(package):
    import slowly

    delay("slowly")
    assert sys.modules["slowly"] is slowly
    delay("no_such_package")
    with pytest.raises(ImportError):
        import no_such_package  # noqa: F401
