"""A LangChain tool that runs JavaScript."""

from __future__ import annotations

from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, Field

from .client import Limits, Loader

DESCRIPTION = (
    "Runs JavaScript in a sandbox of its own and returns what it writes with console.log and what it returns. "
    "It is ECMAScript 2025 with await and fetch, without files and without Node's modules. "
    "Nothing is kept from one run to the next."
)


class JavaScript(BaseModel):
    """The tool's input."""

    code: str = Field(description="Statements in JavaScript. Write results with console.log, or return a value.")


def javascript_tool(
    url: str,
    token: str,
    *,
    name: str = "run_javascript",
    description: str = DESCRIPTION,
    egress: list[str] | None = None,
    limits: Limits | None = None,
    timeout: float = 60.0,
) -> StructuredTool:
    """A tool that runs code with the loader of the function at `url`. Code that fails is an answer for the model to read."""
    loader = Loader(url, token, timeout=timeout)

    def run(code: str) -> str:
        result = loader.run_script(code, egress=egress or (), limits=limits)
        if not result.ok:
            raise ToolException(result.output.strip())
        output = result.output
        if result.response is not None and result.response.text != "null":
            output += result.response.text
        return output.strip() or "(no output)"

    return StructuredTool.from_function(
        run,
        name=name,
        description=description,
        args_schema=JavaScript,
        handle_tool_error=True,
    )
