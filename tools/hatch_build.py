# SPDX-License-Identifier: Apache-2.0
"""Build hook: the wheel carries the compiled data plane, so that users need no compiler."""

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        path = Path(self.root) / "tools" / "compile_bpf.py"
        spec = importlib.util.spec_from_file_location("compile_bpf", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.build()
