"""Settings that every test shares: hypothesis profiles, and a run that checks the shapes written in annotations."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "default",
    max_examples=6,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("few", settings.get_profile("default"), max_examples=5)  # shapes show in the first ones
settings.register_profile("many", settings.get_profile("default"), max_examples=30)  # of `make slow`
settings.register_profile(  # of `make mutants`, which asks whether a test fails and for no smallest example
    "noticing", settings.get_profile("default"), phases=(Phase.explicit, Phase.generate), derandomize=True
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--typecheck",
        action="store_true",
        help="check every annotated shape and type at run time; leaves out the tests marked bad_input",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What imports and collection make stays to the end: Python's collector is not to look through it again and again.

    That was a tenth of the processor's time of all tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--typecheck"):
        return
    if {"bilens", "reproduction"} & set(sys.modules):
        raise pytest.UsageError("bilens was imported before --typecheck could hook its import")
    from jaxtyping import install_import_hook

    # beartype draws which items of a container to check; what a strategy returns does not depend on it
    config.addinivalue_line(
        "filterwarnings", "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
    )
    config.stash[_HOOK] = install_import_hook(["bilens", "reproduction"], "checked.check")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--typecheck"):
        return
    wrong = [item for item in items if item.get_closest_marker("bad_input")]
    if wrong:
        config.hook.pytest_deselected(items=wrong)
        items[:] = [item for item in items if item not in wrong]


_HOOK = pytest.StashKey[object]()
