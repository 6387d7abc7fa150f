"""Packaging data lives in pyproject.toml."""

from setuptools import setup

setup()
