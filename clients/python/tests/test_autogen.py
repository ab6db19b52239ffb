import asyncio

import pytest
from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock, CodeExecutor

from hearth_loader import Limits
from hearth_loader.autogen import HearthCodeExecutor


def execute(executor, *blocks):
    async def run():
        async with executor:
            return await executor.execute_code_blocks(list(blocks), CancellationToken())

    return asyncio.run(run())


def test_blocks_run_in_order_and_their_output_comes_back(url, token):
    executor = HearthCodeExecutor(url, token)
    assert isinstance(executor, CodeExecutor)
    result = execute(
        executor,
        CodeBlock(code="const n = 1; console.log('one', n);", language="javascript"),
        CodeBlock(code="const n = 2; console.log('two', n);", language="js"),
    )
    assert (result.exit_code, result.output) == (0, "one 1\ntwo 2\n")


def test_a_block_that_fails_ends_them(url, token):
    result = execute(
        HearthCodeExecutor(url, token),
        CodeBlock(code="console.log('before'); null.x;", language="javascript"),
        CodeBlock(code="console.log('after');", language="javascript"),
    )
    assert result.exit_code == 1
    assert "before" in result.output and "TypeError" in result.output and "after" not in result.output


def test_other_languages_are_refused_by_name(url, token):
    result = execute(HearthCodeExecutor(url, token), CodeBlock(code="print(1)", language="python"))
    assert (result.exit_code, "python" in result.output) == (1, True)


def test_it_is_a_component_that_is_described_and_made_again(url, token):
    limits = Limits(cpu_milliseconds=1000, outbound_calls=0)
    executor = HearthCodeExecutor(url, token, egress=["http://a.example"], limits=limits)
    described = executor.dump_component().model_dump()
    assert token not in str(described)
    # Who makes it again brings the token.
    described["config"]["token"] = token
    again = HearthCodeExecutor.load_component(described)
    assert again._to_config() == executor._to_config()
    result = execute(again, CodeBlock(code="console.log(1)", language="js"))
    assert result.output == "1\n"


def test_a_cancelled_call_ends(url, token):
    async def run():
        cancellation = CancellationToken()
        block = CodeBlock(code="await new Promise((resolve) => setTimeout(resolve, 3000));", language="js")
        task = asyncio.ensure_future(HearthCodeExecutor(url, token).execute_code_blocks([block], cancellation))
        await asyncio.sleep(0)
        cancellation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
