"""The server: the tools in the Model Context Protocol, over standard input and output, by the official SDK.

Everything that imports the SDK, an extra (``kubeweir[mcp]``), is here.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any, Final

import anyio
import mcp_types as types
import orjson
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from enrich.runtime.version import version_text
from streams.cli.mcp.arguments import ArgumentError
from streams.cli.mcp.calling import CallError, Calls, Limits
from streams.cli.mcp.stdin import Messages
from streams.cli.mcp.tools import TOOLS, UNTRUSTED, Tool

INSTRUCTIONS: Final = (
    "kubeweir enforces Kubernetes network policies and logs each verdict. These tools only read: they answer from that "
    f"log, its history, and the cluster. {UNTRUSTED} Each answer is an object: answer, notes (what to know about it), "
    "truncated (what is missing; empty if it is whole) and command (the same question for a person at a terminal). "
    "Times are UTC."
)
_OUTPUT: Final = {
    "type": "object",
    "properties": {
        "answer": {"type": ["object", "array"], "description": "Data from the cluster and its log: untrusted."},
        "notes": {"type": "array", "items": {"type": "string"}, "description": "What to know about the answer."},
        "truncated": {"type": "array", "items": {"type": "string"}, "description": "What is missing; empty: nothing."},
        "command": {"type": "string", "description": "The same question for a person at a terminal."},
    },
    "required": ["answer", "notes", "truncated", "command"],
}


def serve(limits: Limits) -> None:
    """Serve until standard input ends, or SIGTERM or SIGINT arrives."""
    anyio.run(_serve, limits)


async def _serve(limits: Limits) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_on_signals, tasks.cancel_scope)
        calls = Calls(limits)

        async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
            return types.ListToolsResult(tools=[_described(tool) for tool in TOOLS])

        async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
            return await _called(calls, params)

        server = Server(
            "kubeweir", version=version_text(), title="kubeweir", instructions=INSTRUCTIONS,
            on_list_tools=list_tools, on_call_tool=call_tool,
        )  # fmt: skip
        async with stdio_server(Messages(0)) as (read, write):
            await server.run(read, write, server.create_initialization_options())
        tasks.cancel_scope.cancel()


async def _cancel_on_signals(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name, title=tool.title, description=tool.description, input_schema=tool.schema, output_schema=_OUTPUT,
        annotations=types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True
        ),
    )  # fmt: skip


async def _called(calls: Calls, params: types.CallToolRequestParams) -> types.CallToolResult:
    tool = next((one for one in TOOLS if one.name == params.name), None)
    if tool is None:
        return _failed(f"there is no tool {params.name[:64]!r}; there are {', '.join(one.name for one in TOOLS)}")
    try:
        answer = await calls.answer(tool, params.arguments or {})
    except (ArgumentError, CallError) as error:
        return _failed(str(error))
    # The text is for clients that do not read structured content.
    text = orjson.dumps(answer).decode()
    return types.CallToolResult(content=_texts([text]), structured_content=answer)


def _failed(why: str) -> types.CallToolResult:
    return types.CallToolResult(content=_texts([why]), is_error=True)


def _texts(texts: Sequence[str]) -> list[Any]:
    return [types.TextContent(type="text", text=text) for text in texts]
