from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool

from hearth_loader.langchain import javascript_tool


def test_it_is_a_tool_that_a_model_calls(url, token):
    tool = javascript_tool(url, token)
    assert isinstance(tool, BaseTool)
    assert tool.name == "run_javascript" and "code" in tool.args
    call = {"name": tool.name, "args": {"code": "console.log([1, 2].map((n) => n * 2)); return 'done';"}, "id": "1", "type": "tool_call"}
    message = tool.invoke(call)
    assert isinstance(message, ToolMessage)
    assert message.content == '[ 2, 4 ]\n"done"'


def test_code_that_fails_is_an_answer_to_read(url, token):
    call = {"name": "run_javascript", "args": {"code": "console.log('x'); missing();"}, "id": "2", "type": "tool_call"}
    message = javascript_tool(url, token).invoke(call)
    assert message.status == "error"
    assert "ReferenceError" in message.content and "script.js:1" in message.content, message.content
