"""Clients that people already use work unmodified against a live Hone: a base URL and a key change, nothing else."""

import asyncio
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, NotFoundError, pydantic_function_tool
from pydantic import BaseModel

from tests.loop.service import Service

pytestmark = [pytest.mark.engine, pytest.mark.slow]

QUESTION = "How long may I return a lamp?"
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
TOKENS_MAX = 900
"""A grammar allows blanks between any two words, and a model of random weights writes many."""


class Parcel(BaseModel):
    """How to send a parcel."""

    carrier: Literal["post", "courier"]
    express: bool


TOOL: Any = pydantic_function_tool(Parcel, name="send_parcel")
CALL_IT: Any = {"type": "function", "function": {"name": "send_parcel"}}


def is_of_a_version(name: str | None) -> bool:
    return name is not None and name.startswith("support@")


async def test_openais_sdk_chats_and_streams_with_usage(tiny_service: Service) -> None:
    async with tiny_service.client() as client:
        whole = await client.chat.completions.create(model="support", messages=ASKED, max_tokens=8)
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="support",
                messages=ASKED,
                max_tokens=8,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
        names = [model.id async for model in client.models.list()]
    assert is_of_a_version(whole.model) and whole.usage is not None and whole.usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1 and all(is_of_a_version(chunk.model) for chunk in chunks)
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0
    assert "support" in names


async def test_openais_sdk_calls_a_tool_and_answers_it(tiny_service: Service) -> None:
    options: Any = {"model": "support", "tools": [TOOL], "max_tokens": TOKENS_MAX, "temperature": 0}
    async with tiny_service.client() as client:
        asked = await client.chat.completions.create(messages=ASKED, tool_choice=CALL_IT, **options)
        async with client.chat.completions.stream(messages=ASKED, tool_choice=CALL_IT, **options) as stream:
            streamed = await stream.get_final_completion()
        for answer in (asked, streamed):
            (call,) = answer.choices[0].message.tool_calls or []
            assert call.type == "function" and call.function.name == "send_parcel"
            Parcel.model_validate_json(call.function.arguments)
        said: Any = asked.choices[0].message.to_dict()
        called: Any = asked.choices[0].message.tool_calls
        result: Any = {"role": "tool", "tool_call_id": called[0].id, "content": "It is on its way."}
        last = await client.chat.completions.create(
            messages=[*ASKED, said, result], tool_choice="none", **options | {"max_tokens": 8}
        )
    assert last.choices[0].message.content


async def test_openais_sdk_gets_the_structure_that_it_asked_for(tiny_service: Service) -> None:
    async with tiny_service.client() as client:
        chat = await client.chat.completions.parse(
            model="support", messages=ASKED, response_format=Parcel, max_tokens=TOKENS_MAX, temperature=0
        )
        response = await client.responses.parse(
            model="support",
            input=QUESTION,
            text_format=Parcel,
            max_output_tokens=TOKENS_MAX,
            temperature=0,
            store=False,
        )
    assert isinstance(chat.choices[0].message.parsed, Parcel)
    assert isinstance(response.output_parsed, Parcel)


async def test_openais_sdk_finds_what_it_stored(tiny_service: Service) -> None:
    async with tiny_service.client() as client:
        answer = await client.chat.completions.create(
            model="support", messages=ASKED, max_tokens=4, store=True, metadata={"page": "clients"}
        )
        found = await wait_for_stored(client, answer.id)
        listed = [one.id async for one in client.chat.completions.list(metadata={"page": "clients"})]
        messages = [one.content async for one in client.chat.completions.messages.list(answer.id)]
        gone = await client.chat.completions.delete(answer.id)
    assert found.choices[0].message.content == answer.choices[0].message.content
    assert listed == [answer.id] and messages == [QUESTION]
    assert gone.deleted


async def wait_for_stored(client: AsyncOpenAI, completion_id: str) -> Any:
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.chat.completions.retrieve(completion_id)
            except NotFoundError:
                await asyncio.sleep(0.2)


def test_langchain_chats_streams_calls_tools_and_parses(tiny_service: Service) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model="support",
        base_url=f"{tiny_service.base_url}/v1",
        api_key=tiny_service.key,
        max_tokens=TOKENS_MAX,
        temperature=0,
    )
    said = model.invoke(QUESTION)
    streamed = list(model.stream(QUESTION))
    called = model.bind_tools([Parcel], tool_choice="Parcel", strict=True).invoke(QUESTION)
    parsed = model.with_structured_output(Parcel, method="json_schema").invoke(QUESTION)
    assert said.content and is_of_a_version(said.response_metadata["model_name"])
    assert len(streamed) > 1
    assert [call["name"] for call in called.tool_calls] == ["Parcel"]
    assert isinstance(parsed, Parcel)


def test_litellm_chats_streams_and_calls_tools(
    tiny_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without this it asks the internet for a list of prices when it is imported.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    options: dict[str, Any] = {
        "model": "openai/support",
        "api_base": f"{tiny_service.base_url}/v1",
        "api_key": tiny_service.key,
        "messages": ASKED,
        "temperature": 0,
    }
    whole = litellm.completion(**options, max_tokens=8)
    chunks = list(litellm.completion(**options, max_tokens=8, stream=True))
    called = litellm.completion(**options, max_tokens=TOKENS_MAX, tools=[TOOL], tool_choice=CALL_IT)
    assert whole.choices[0].message.content and len(chunks) > 1
    assert called.choices[0].message.tool_calls[0].function.name == "send_parcel"


def test_anthropics_sdk_asks_and_streams(tiny_service: Service) -> None:
    from anthropic import Anthropic

    with Anthropic(base_url=tiny_service.base_url, api_key=tiny_service.key) as client:
        whole = client.messages.create(model="support", max_tokens=8, messages=ASKED)
        with client.messages.stream(model="support", max_tokens=8, messages=ASKED) as stream:
            streamed = stream.get_final_message()
    for answer in (whole, streamed):
        assert is_of_a_version(answer.model) and answer.content[0].type == "text"
