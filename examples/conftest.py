"""The settings of the project's own tests, for those of the examples."""

from tests.conftest import pytest_configure as pytest_configure
