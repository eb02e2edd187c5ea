# SPDX-License-Identifier: Apache-2.0
"""Tests of the lab: its network, its commands, and limpet running in it."""

import pytest

# What they assert is told in full, as in files of tests.
pytest.register_assert_rewrite("tests.lab.stage", "tests.lab.sequence", "tests.lab.trial")
