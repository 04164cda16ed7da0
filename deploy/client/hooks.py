# SPDX-License-Identifier: BSD-3-Clause
"""By which hatchling builds dpsup-client from `parts`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

sys.path.insert(0, str(Path(__file__).parent))
import parts


class Metadata(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        project = parts.project()
        metadata["version"] = project["version"]
        metadata["dependencies"] = project["dependencies"]
        text = (parts.ROOT / "README.md").read_text()
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


class Build(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self.made = tempfile.TemporaryDirectory()
        files = parts.parts(Path(self.made.name)).items()
        build_data["force_include"] |= {str(path): f"dpsup/{name}" for name, path in files}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self.made.cleanup()
