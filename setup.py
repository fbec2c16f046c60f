"""Beside pyproject.toml: the configs of the repository are part of the package, as alignjax/configs in a wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["alignjax", "alignjax.*"]), "alignjax.configs"],
    package_dir={"alignjax.configs": "configs"},
)
