"""The client. It keeps no state and no connection, so that one may be used by many threads."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PATH = "/.hearth/loader"

# A script is the body of the handler: `console.log` is its output, and it may `await` and `return`.
_SCRIPT = """import { main } from "script.js";
export default {
  async fetch() {
    const value = await main();
    return Response.json(value === undefined ? null : value);
  },
};
"""


class LoaderError(Exception):
    """The loader could not be asked, or refused what it was asked for. Code that fails is a `Result`, and no exception."""

    def __init__(self, status: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Bounds of one call, each at most what the function's `spec.loader.limits` allow. `None`: what they allow."""

    memory_bytes: int | None = None
    deadline_milliseconds: int | None = None
    cpu_milliseconds: int | None = None
    outbound_calls: int | None = None

    def _json(self) -> dict[str, int]:
        names = {
            "memoryBytes": self.memory_bytes,
            "deadlineMilliseconds": self.deadline_milliseconds,
            "cpuMilliseconds": self.cpu_milliseconds,
            "outboundCalls": self.outbound_calls,
        }
        return {name: value for name, value in names.items() if value is not None}


@dataclass(frozen=True)
class Line:
    """A line of the code's log."""

    stream: str
    text: str


@dataclass(frozen=True)
class Response:
    """What the code answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Result:
    """How a call of code ended."""

    outcome: str
    """`answered`, or what went wrong: `threw`, `load_failed`, `cpu_exceeded`, `deadline_exceeded`, `out_of_memory`, …"""
    start: str
    """`hit` or `instantiate` for code that was known, `compile` for code that was not."""
    problem: str
    """What went wrong, with its position in the code; empty where nothing did."""
    milliseconds: float
    cpu_milliseconds: float
    memory_bytes: int
    log: list[Line] = field(default_factory=list)
    dropped_lines: int = 0
    response: Response | None = None

    @property
    def ok(self) -> bool:
        return self.outcome == "answered"

    @property
    def stdout(self) -> str:
        return "".join(f"{line.text}\n" for line in self.log if line.stream == "stdout")

    @property
    def output(self) -> str:
        """All of the log, and what went wrong where the log does not tell."""
        lines = [line.text for line in self.log]
        if self.problem and self.problem not in lines:
            lines.append(self.problem if self.outcome == "threw" else f"{self.outcome}: {self.problem}")
        if self.dropped_lines:
            lines.append(f"({self.dropped_lines} lines were dropped)")
        return "".join(f"{line}\n" for line in lines)


class Loader:
    """The loader of the function at `url`, opened by `token`.

    `timeout` is how long an answer is waited for, in seconds: longer than the function's own deadline.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 60.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"{url!r} is no URL of a function, such as http://runner.default.svc")
        self._url = f"{parts.scheme}://{parts.netloc}{PATH}"
        self._token = token
        self._timeout = timeout

    def run(
        self,
        main_module: str,
        modules: Mapping[str, str],
        *,
        env: Mapping[str, Any] | None = None,
        egress: Sequence[str] = (),
        limits: Limits | None = None,
        request: Mapping[str, Any] | None = None,
    ) -> Result:
        """Calls the default export's `fetch` of the main module among `modules`, once, in a sandbox of its own.

        `request` may have `method`, `url`, `headers` and `body`.
        """
        code = {
            "mainModule": main_module,
            "modules": dict(modules),
            "env": dict(env or {}),
            "egress": list(egress),
            "limits": (limits or Limits())._json(),
        }
        if request is not None:
            code["request"] = dict(request)
        return _result(self._post(json.dumps(code).encode()))

    def run_script(
        self,
        script: str,
        *,
        egress: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> Result:
        """Runs statements: what they write with `console.log` is the result's log, what they `return` is the response, in
        JSON."""
        # In one line, so that positions are those of the script.
        source = f"export async function main() {{ {script}\n}}\n"
        modules = {"main.js": _SCRIPT, "script.js": source}
        return self.run("main.js", modules, egress=egress, limits=limits)

    def _post(self, body: bytes) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                answer = response.read()
                is_ours = response.headers.get_content_type() == "application/json"
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace").strip()
            raise LoaderError(error.code, f"the loader answered {error.code}: {text}") from error
        except OSError as error:
            raise LoaderError(None, f"the loader at {self._url} cannot be reached: {error}") from error
        try:
            answer = json.loads(answer) if is_ours else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or "outcome" not in answer:
            problem = f"{self._url} is no loader; does the function's spec.loader.endpoint name a token?"
            raise LoaderError(200, problem)
        return answer


def _result(answer: Mapping[str, Any]) -> Result:
    response = answer["response"]
    if response is not None:
        body = response["body"]
        body = base64.b64decode(body) if response["isBase64"] else body.encode()
        headers = [(name, value) for name, value in response["headers"]]
        response = Response(response["status"], headers, body)
    return Result(
        outcome=answer["outcome"],
        start=answer["start"],
        problem=answer["problem"],
        milliseconds=answer["milliseconds"],
        cpu_milliseconds=answer["cpuMilliseconds"],
        memory_bytes=answer["memoryBytes"],
        log=[Line(line["stream"], line["text"]) for line in answer["log"]],
        dropped_lines=answer["droppedLines"],
        response=response,
    )
