"""The JavaScript client, the console's page and the demo's are data files of wsbus."""  # noqa: N999  # its name is PyInstaller's

from __future__ import annotations

from typing import Final

from PyInstaller.utils.hooks import collect_data_files

datas: Final = collect_data_files("wsbus")
