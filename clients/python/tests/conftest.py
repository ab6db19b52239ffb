import os

import pytest


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ["HEARTH_LOADER_URL"]


@pytest.fixture(scope="session")
def token() -> str:
    return os.environ["HEARTH_LOADER_TOKEN"]
