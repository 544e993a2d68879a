"""The mutants still fit the code, and a mutant that no test can notice is called a survivor."""

from __future__ import annotations

from pathlib import Path

import pytest

import mutants
from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[1]


def test_every_mutant_has_its_place_and_its_tests():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
    texts = mutants.texts(ROOT / "src")
    for mutant in MUTANTS:
        assert mutants.place(mutant, texts).exists()
        assert mutant.becomes != mutant.text
        assert mutant.tests
        assert all((ROOT / "tests" / test).exists() for test in mutant.tests)


@pytest.fixture
def bare(monkeypatch) -> None:
    """The pytest that is started loads none of the plugins that are installed, which takes seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def project(folder: Path, wanted: int) -> Path:
    """A tree with one number in it and a test that wants another, or the same."""
    (folder / "src").mkdir()
    (folder / "tests").mkdir()
    (folder / "src" / "toy_of_mutants.py").write_text("NUMBER = 3\n")
    test = f"from toy_of_mutants import NUMBER\n\n\ndef test_number():\n    assert NUMBER >= {wanted}\n"
    (folder / "tests" / "test_toy.py").write_text(test)
    return folder


@pytest.mark.parametrize(("wanted", "killed"), [(3, True), (2, False)])
def test_a_mutant_is_noticed_by_a_test_that_fails_and_by_no_other(tmp_path, bare, wanted, killed):
    tree = project(tmp_path, wanted)
    assert mutants.noticed(Mutant("one less", "NUMBER = 3", "NUMBER = 2", ("test_toy.py",)), tree) is killed
    assert (tree / "src" / "toy_of_mutants.py").read_text() == "NUMBER = 3\n"


def test_a_mutant_without_its_place_or_its_tests_is_no_result(tmp_path, bare):
    tree = project(tmp_path, 3)
    with pytest.raises(LookupError, match=r"NUMBER = 4.*no file"):
        mutants.noticed(Mutant("gone", "NUMBER = 4", "NUMBER = 2", ("test_toy.py",)), tree)
    with pytest.raises(RuntimeError, match="pytest ended with 4"):
        mutants.noticed(Mutant("untested", "NUMBER = 3", "NUMBER = 2", ("test_none.py",)), tree)
