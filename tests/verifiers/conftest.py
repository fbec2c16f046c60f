"""Functions are asked as those of a person are."""

from tests.asking.conftest import ask as ask, caller as caller
