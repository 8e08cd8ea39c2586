"""Connections to an engine go back into the pool fit for the next request, however the last one ended."""

import asyncio

from serving.engines import READ_AHEAD_BYTES, Connection, Engine, Timeouts
from tests.fakes import Asked, fake_engine, send_json

PATH = b"/v1/embeddings"


async def test_an_answer_that_nobody_read_to_its_end_does_not_silence_the_next_one() -> None:
    """A client that reads slowly leaves when the engine has already said everything: the pool keeps the connection."""
    just_too_long = "x" * (READ_AHEAD_BYTES + 1 - len('""'))

    async def behave(asked: Asked) -> None:
        send_json(asked, 200, just_too_long if len(fake.asked) == 1 else "short")

    async with fake_engine(behave) as fake:
        engine = Engine(fake.url, Timeouts(first_byte=5.0))
        try:
            unread = await engine.ask(PATH, [], b"{}", adapter="a")
            await _arrived(unread)
            unread.release()
            second = await engine.ask(PATH, [], b"{}", adapter="a")
            assert second is unread, "the connection was whole and is used again"
            assert await second.read_whole() == b'"short"'
            second.release()
        finally:
            engine.close()


async def _arrived(connection: Connection) -> None:
    while not connection._complete:
        await asyncio.sleep(0.01)
