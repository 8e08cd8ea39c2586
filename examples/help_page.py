"""A shop's help page with thumbs: this server asks with its key, the browser rates with the token of the answer.

Run with OPENAI_BASE_URL and OPENAI_API_KEY set: python examples/help_page.py 8080, then open http://127.0.0.1:8080.
The model's policy has to allow the page to send feedback, since it is not the gateway's:
hone model policy support --set 'feedback.allowed_origins=["http://127.0.0.1:8080"]'
"""

import os
import sys
from urllib.parse import urlsplit

import uvicorn
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

GATEWAY = "{0.scheme}://{0.netloc}".format(urlsplit(os.environ["OPENAI_BASE_URL"]))
PAGE = f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width">
  <title>Help</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/page.css">
  <script src="{GATEWAY}/hone.js" defer></script>
  <script src="/page.js" defer></script>
</head>
<body>
  <main>
    <h1>How can we help?</h1>
    <form><label>Your question <input name="question" required></label> <button>Ask</button></form>
    <section aria-live="polite" aria-label="Answers"></section>
    <p>What you ask and what you say of the answers helps us to answer better.</p>
  </main>
</body>
</html>"""
SCRIPT = """
document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = event.target.question.value;
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("/ask", { method: "POST", headers, body: JSON.stringify({ question }) });
  const answer = await response.json();
  const shown = document.createElement("article");
  for (const [name, text] of [["h2", question], ["p", answer.text], ["div", ""]])
    shown.append(Object.assign(document.createElement(name), { textContent: text }));
  hone.attach(shown.lastChild, { completionId: answer.id, token: answer.token });
  document.querySelector("section").prepend(shown);
  event.target.reset();
});
"""
STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
main { max-width: 40rem; margin: 2rem auto; padding: 0 1rem }
input { font: inherit; width: 60% } button { font: inherit }
article { border-top: 1px solid; margin-top: 1rem } h2 { font-size: 1rem }
"""
POLICY = f"default-src 'self'; script-src 'self' {GATEWAY}; connect-src 'self' {GATEWAY}; img-src data:"


async def ask(request: Request) -> Response:
    """Answer a question, and hand the page what it needs to rate the answer."""
    said = await request.app.state.client.chat.completions.with_raw_response.create(
        model="support",
        messages=[{"role": "user", "content": (await request.json())["question"]}],
        temperature=0,
        safety_identifier="customer-17",  # whoever is signed in
        store=True,  # the page says so
    )
    answer = said.parse()
    token = said.headers["x-hone-feedback-token"]
    return JSONResponse({"id": answer.id, "text": answer.choices[0].message.content, "token": token})


def show(text: str, media_type: str) -> Route:
    """A part of the page."""
    path = {"text/html": "/", "text/javascript": "/page.js", "text/css": "/page.css"}[media_type]
    headers = {"content-security-policy": POLICY}
    return Route(path, lambda request: Response(text, media_type=media_type, headers=headers))


def main() -> None:
    """Serve the page until Ctrl-C."""
    parts = [show(PAGE, "text/html"), show(SCRIPT, "text/javascript"), show(STYLE, "text/css")]
    app = Starlette(routes=[*parts, Route("/ask", ask, methods=["POST"])])
    app.state.client = AsyncOpenAI()
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
