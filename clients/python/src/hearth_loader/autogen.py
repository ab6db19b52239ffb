"""AutoGen's `CodeExecutor`: an agent's blocks of JavaScript, each batch in a sandbox of its own."""

from __future__ import annotations

import asyncio

from autogen_core import CancellationToken, Component
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult
from pydantic import BaseModel, SecretStr
from typing_extensions import Self

from .client import Limits, Loader

LANGUAGES = ("javascript", "js")


class HearthCodeExecutorConfig(BaseModel):
    """What an executor is made of."""

    url: str
    token: SecretStr
    egress: list[str] = []
    timeout: float = 60.0
    limits: Limits = Limits()


class HearthCodeExecutor(CodeExecutor, Component[HearthCodeExecutorConfig]):
    """Executes blocks of JavaScript with the loader of the function at `url`.

    The blocks of one call run one after the other in one sandbox; the first that fails ends it. Nothing is left for the next
    call. What they write with `console.log` is their output.
    """

    component_config_schema = HearthCodeExecutorConfig
    component_provider_override = "hearth_loader.autogen.HearthCodeExecutor"

    def __init__(
        self,
        url: str,
        token: str,
        *,
        egress: list[str] | None = None,
        timeout: float = 60.0,
        limits: Limits | None = None,
    ) -> None:
        self._config = HearthCodeExecutorConfig(
            url=url,
            token=SecretStr(token),
            egress=list(egress or ()),
            timeout=timeout,
            limits=limits or Limits(),
        )
        self._loader = Loader(url, token, timeout=timeout)

    async def execute_code_blocks(
        self, code_blocks: list[CodeBlock], cancellation_token: CancellationToken
    ) -> CodeResult:
        for block in code_blocks:
            if block.language.lower() not in LANGUAGES:
                output = f"no {block.language or 'code without a language'} is executed, only javascript"
                return CodeResult(exit_code=1, output=output)
        # Each has its own names.
        script = " ".join(f"{{ {block.code}\n}}" for block in code_blocks)
        run = asyncio.to_thread(
            self._loader.run_script, script, egress=self._config.egress, limits=self._config.limits
        )
        task = asyncio.ensure_future(run)
        cancellation_token.link_future(task)
        result = await task
        if result.outcome == "deadline_exceeded":
            raise asyncio.TimeoutError(result.problem)
        return CodeResult(exit_code=0 if result.ok else 1, output=result.output)

    async def start(self) -> None:
        """There is nothing to start: a sandbox is made for each call."""

    async def stop(self) -> None:
        """There is nothing to stop."""

    async def restart(self) -> None:
        """There is nothing that is left of a call."""

    def _to_config(self) -> HearthCodeExecutorConfig:
        return self._config

    @classmethod
    def _from_config(cls, config: HearthCodeExecutorConfig) -> Self:
        return cls(
            config.url,
            config.token.get_secret_value(),
            egress=config.egress,
            timeout=config.timeout,
            limits=config.limits,
        )
