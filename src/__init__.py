"""emergence-audit: replicate, audit and extend Lu et al. (ACL 2024)."""

import os

from src.base.network import reach_this_machine
from src.base.streams import open_streams

for _switch, _off in {
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}.items():
    os.environ.setdefault(_switch, _off)  # before any of them is imported

open_streams()
reach_this_machine(os.environ)
