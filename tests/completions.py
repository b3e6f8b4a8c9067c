"""A loopback server of the OpenAI protocol around a local checkpoint: greedy text, echo with logprobs, and faults."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = ("429", "500", "slow", "cut", "no json", "no completion")
SLOW_S = 3.0


Bend = Callable[[dict[str, Any], dict[str, Any]], Any]  # (what was asked, the good answer) -> what is said instead


class Served:
    """The model behind the server.

    faults: what befalls the first calls, in turn. scores: whether echo is answered. bend: what is said instead of a
    good answer, as JSON or, where it is bytes, as it is. refuses_echo, refuses_logprobs: the status that answers a
    call with it. reads: the token ids that it reads instead of a prompt's. dtype: of its weights.
    """

    def __init__(
        self,
        folder: Path,
        faults: tuple[str, ...] = (),
        scores: bool = True,
        key: str | None = None,
        bend: Bend | None = None,
        refuses_echo: int | None = None,
        refuses_logprobs: int | None = None,
        reads: Callable[[list[int]], list[int]] | None = None,
        dtype: str = "float32",
    ):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.faults, self.scores, self.key, self.bend = list(faults), scores, key, bend
        self.refuses_echo, self.refuses_logprobs, self.reads = refuses_echo, refuses_logprobs, reads
        self.asked: list[dict[str, Any]] = []
        self.delivered: Counter[str] = Counter()  # what was asked, JSON -> times that it was answered well
        self.tokens = [0, 0]
        self.lock = threading.Lock()

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The body of a good answer."""
        texts = asked["prompt"] if isinstance(asked["prompt"], list) else [asked["prompt"]]
        with self.lock:
            found = [self.choice(text, i, asked) for i, text in enumerate(texts)]
            usage = [sum(n) for n in zip(*(n for _, n in found), strict=True)]
            self.tokens = [a + b for a, b in zip(self.tokens, usage, strict=True)]
            self.delivered[json.dumps([asked.get("echo", False), asked["prompt"], asked.get("seed")])] += 1
        return {
            "id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": [c for c, _ in found],
            "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
        }  # fmt: skip

    def choice(self, text: str, index: int, asked: dict[str, Any]) -> tuple[dict[str, Any], tuple[int, int]]:
        """(the completion, echoed with its log-probabilities where that is asked, (tokens read, tokens written))."""
        import torch

        encoded = self.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        ids = encoded["input_ids"]
        if self.reads:
            ids = torch.tensor([self.reads(ids[0].tolist())])
        with torch.inference_mode():
            made = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=asked["max_tokens"], do_sample=False
            )[0, ids.shape[1] :]
            logits = self.model(torch.cat([ids[0], made])[None]).logits[0].double().log_softmax(-1)
        said = self.tokenizer.decode(made, skip_special_tokens=True)
        ended = int(made[-1]) == self.model.generation_config.eos_token_id
        choice = {"index": index, "text": said, "finish_reason": "stop" if ended else "length", "logprobs": None}
        if asked.get("return_token_ids"):
            choice["prompt_token_ids"] = ids[0].tolist()
        if asked.get("echo") and self.scores:
            spans = [(int(start), int(stop)) for start, stop in encoded["offset_mapping"][0]]
            scored = logits[: ids.shape[1] - 1].gather(1, ids[0, 1:, None]).squeeze(1).tolist()
            choice["text"] = text + said
            choice["logprobs"] = {
                "text_offset": [*(start for start, _ in spans), len(text)], "token_logprobs": [None, *scored, -1.0],
                "tokens": [*(text[start:stop] for start, stop in spans), said], "top_logprobs": None,
            }  # fmt: skip
        elif asked.get("logprobs") and self.scores:
            written = logits[ids.shape[1] - 1 : -1].gather(1, made[:, None]).squeeze(1).tolist()
            choice["logprobs"] = {"tokens": [self.tokenizer.decode(i) for i in made], "token_logprobs": written}
        return choice, (ids.shape[1], len(made))


@contextmanager
def serving(served: Served) -> Iterator[str]:
    """The server's base URL, while it runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if served.key and self.headers["Authorization"] != f"Bearer {served.key}":
                refused = {"error": {"message": f"Wrong key {self.headers['Authorization'].split()[-1]}", "code": "x"}}
                return self.say(401, json.dumps(refused).encode())
            with served.lock:
                fault = served.faults.pop(0) if served.faults else ""
            if fault == "slow":
                time.sleep(SLOW_S)
            if fault == "cut":
                self.close_connection = True
                return self.wfile.flush()
            if fault.isdigit():
                return self.say(int(fault), b'{"error": {"message": "try again"}}')
            if fault in ("slow", "no json", "no completion"):
                return self.say(200, b'{"choices": [' if fault == "no json" else b'{"choices": []}')
            if served.refuses_echo and asked.get("echo"):
                return self.say(served.refuses_echo, b'{"error": {"message": "no echo here"}}')
            if served.refuses_logprobs and "logprobs" in asked:
                return self.say(served.refuses_logprobs, b'{"error": {"message": "no logprobs here"}}')
            answer: Any = served.answer(asked)
            with served.lock:
                served.asked.append(asked)
                answer = served.bend(asked, answer) if served.bend else answer
            return self.say(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # the caller hung up
                self.close_connection = True

        def log_message(self, *given: Any) -> None:
            """Nothing: a test's output is its own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
