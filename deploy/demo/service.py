"""The running service as its users see it: the OpenAI client for questions, HTTP for ratings and decisions.

Nothing here reads the database or imports the service: what the demonstration shows, anybody with a key can do.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from feedback.errors import HoneError

if TYPE_CHECKING:
    import httpx
    from openai import AsyncOpenAI

ANSWER_TOKENS_MAX = 64
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """One answer, with the version that gave it, such as `support@7`."""

    completion_id: str
    version: str
    text: str


class RunningService:
    """A client of one model on one service. Use as an asynchronous context."""

    def __init__(self, openai: "AsyncOpenAI", http: "httpx.AsyncClient", model: str) -> None:
        self._openai, self._http, self.model = openai, http, model

    @classmethod
    def connect(cls, url: str, key: str, model: str) -> Self:
        """A client of the service at `url`, such as http://127.0.0.1:8000."""
        import httpx
        from openai import AsyncOpenAI

        http = httpx.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=TIMEOUT_SECONDS
        )
        return cls(AsyncOpenAI(base_url=f"{url}/v1", api_key=key, timeout=TIMEOUT_SECONDS), http, model)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._openai.close()
        await self._http.aclose()

    async def ask(self, text: str, *, rater: str, consent: bool, temperature: float | None = None) -> Answer:
        """Ask as an application does. `consent`: whether the exchange may be trained on.

        Raises:
            HoneError: the service refused, or could not be reached.
        """
        from openai import OpenAIError, omit

        try:
            said = await self._openai.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": text}],
                max_completion_tokens=ANSWER_TOKENS_MAX,
                temperature=omit if temperature is None else temperature,
                safety_identifier=rater,
                store=consent,
            )
        except OpenAIError as error:
            raise HoneError(f"'{self.model}' did not answer: {error}. See `hone doctor`.") from error
        return Answer(said.id, said.model, said.choices[0].message.content or "")

    async def rate(
        self, answer: Answer, *, rater: str, rating: bool, demonstration: str | None = None
    ) -> None:
        """Click a thumb, and perhaps write the right answer."""
        body = {
            "completion_id": answer.completion_id,
            "kind": "rating",
            "value": rating,
            "rater_id": rater,
            "correction": demonstration,
        }
        await self._call("POST", "/v1/feedback", body)

    async def read(self, path: str, **query: str) -> dict[str, Any]:
        """GET below `/admin/v1`."""
        return await self._call("GET", f"/admin/v1{path}", query=query)

    async def listing(self, path: str, **query: str) -> list[dict[str, Any]]:
        """GET a list below `/admin/v1`."""
        data = (await self.read(path, **query))["data"]
        assert isinstance(data, list)
        return data

    async def decide(self, path: str, **body: Any) -> dict[str, Any]:
        """POST below `/admin/v1`: an operator's decision."""
        return await self._call("POST", f"/admin/v1{path}", body)

    async def model_view(self) -> dict[str, Any]:
        """The model with its champion, its canary and its policy."""
        return await self.read(f"/models/{self.model}")

    async def change_policy(self, policy: dict[str, Any]) -> None:
        """Change the parts of the model's policy that `policy` names."""
        await self._call("PATCH", f"/admin/v1/models/{self.model}/policy", policy)

    async def _call(
        self, method: str, path: str, body: Any = None, *, query: dict[str, str] | None = None
    ) -> dict[str, Any]:
        import httpx

        try:
            response = await self._http.request(method, path, json=body, params=query)
        except httpx.HTTPError as error:
            raise HoneError(
                f"The service at {self._http.base_url} cannot be reached: {str(error) or type(error).__name__}. "
                "Start it with `hone up`, or name another with --url."
            ) from error
        if response.is_error:
            raise HoneError(f"The service refused {method} {path}: {_why(response)}")
        found = response.json()
        assert isinstance(found, dict)
        return found


def _why(response: "httpx.Response") -> str:
    """The service's own sentence, in OpenAI's shape or as problem details."""
    try:
        found = response.json()
        return str(found.get("detail") or found["error"]["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"status {response.status_code}: {response.text[:300]}"
