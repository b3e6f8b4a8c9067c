"""Real servers, each in an environment of its own (.venv/servers), on a free port of this machine, surely stopped."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from src.base.files import ROOT

VENVS = Path(os.environ.get("SERVERS", ROOT / ".venv/servers"))
WEIGHTS = ROOT / "data/raw/smollm2_135m_instruct"
FOLDER, GGUF = WEIGHTS / "fp32", WEIGHTS / "SmolLM2-135M-Instruct.Q4_1.gguf"
QUIET = {
    "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "PYTHONDONTWRITEBYTECODE": "",
}  # fmt: skip
LLAMA = """
import json, sys, time
import xllamacpp
params = xllamacpp.CommonParams()
for name, value in json.loads(sys.argv[1]).items():
    *path, last = name.split(".")
    place = params
    for part in path:
        place = getattr(place, part)
    setattr(place, last, value)
server = xllamacpp.Server(params)
while True:
    time.sleep(3600)
"""
ADDS_BOS = "tokenizer.ggml.add_bos_token"
EXACT = {"cache_type_k": 0, "cache_type_v": 0, "flash_attn_type": 0}  # keys and values in float32, plain attention


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def dies_with_its_parent() -> None:
    """In the child: a signal when this process ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Started:
    """A server process. with: it answers; behind it, it and all its children are gone."""

    def __init__(self, command: list[str], port: int, log: Path):
        self.command, self.port, self.path = command, port, log
        self.url = f"http://127.0.0.1:{port}/v1"

    def __enter__(self) -> Started:
        self.log = self.path.open("a")
        self.process = subprocess.Popen(
            self.command, stdout=self.log, stderr=self.log, env={**os.environ, **QUIET}, start_new_session=True,
            preexec_fn=dies_with_its_parent,
        )  # fmt: skip
        end = time.monotonic() + 900
        try:
            while not self.answers():
                assert self.process.poll() is None, self.path.read_text()[-3000:]
                assert time.monotonic() < end, self.path.read_text()[-3000:]
                time.sleep(0.5)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.log.close()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5) as said:
                return bool(said.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL to the server and its children, as a lost machine would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


def vllm(scratch: Path, *words: str, folder: Path = FOLDER, port: int | None = None, dtype: str = "float32") -> Started:
    """`vllm serve`, the model named m."""
    tool, port = VENVS / "vllm/bin/vllm", port or free_port()
    if not tool.exists():
        pytest.skip("vLLM is not installed: make test-servers installs it into .venv/servers (3.6 GB)")
    command = [
        str(tool), "serve", str(folder), "--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", dtype, "--enforce-eager", *words,
    ]  # fmt: skip
    if "--max-model-len" not in words:
        command += ["--max-model-len", "2048"]
    return Started(command, port, scratch / f"vllm{port}.log")


def llamacpp(scratch: Path, file: Path = GGUF, port: int | None = None, **params: Any) -> Started:
    """llama.cpp's server, as the package xllamacpp carries it. params: fields of its CommonParams."""
    python, port = VENVS / "llamacpp/bin/python", port or free_port()
    if not python.exists():
        pytest.skip("xllamacpp is not installed: make test-servers installs it into .venv/servers")
    how = {"model.path": str(file), "port": port, "n_ctx": 2048, "cpuparams.n_threads": os.cpu_count(), **params}
    return Started([str(python), "-c", LLAMA, json.dumps(how)], port, scratch / f"llamacpp{port}.log")


def float32_gguf(file: Path, into: Path, adds_bos: bool = False) -> Path:
    """The GGUF file with every tensor dequantised, so that no 4-bit arithmetic is between it and this engine."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader = GGUFReader(file)
    writer = GGUFWriter(into, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type", ADDS_BOS):
            continue
        inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_uint32("general.file_type", 0)
    writer.add_bool(ADDS_BOS, adds_bos)
    for tensor in reader.tensors:
        values = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        writer.add_tensor(tensor.name, values, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return into
