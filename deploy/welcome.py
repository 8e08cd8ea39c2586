"""What a person reads when the service is up: where it is, the key, and two ways to ask it something."""

from pathlib import Path

from deploy.record import MODEL, Keys
from deploy.state import Running

_QUESTION = "Can I send back a kettle?"


def welcome(running: Running, keys: Keys, state_dir: Path, seconds: float) -> str:
    """The text, with the administrator key if this start made it."""
    url = running.gateway_url
    key = keys.admin or f"$(cat {keys.operator_file})"
    if keys.admin:
        shown = f"{keys.admin}  (administrator; shown only now. `hone key create` makes more)"
    else:
        shown = "made earlier; `hone key create` makes more"
    body = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "{_QUESTION}"}}]}}'
    sdk_key = repr(keys.admin) if keys.admin else f"open({str(keys.operator_file)!r}).read().strip()"
    lines = [
        "",
        f"Hone is up after {seconds:.0f} s.",
        "",
        f"  API      {url}/v1    health: {url}/health    metrics: {url}/metrics",
        *([f"  Console  {running.console_url}    sign in with the key"] if running.console_url else []),
        f"  Chat     {url}/chat",
        f"  Model    {MODEL}, on {running.base_model}",
        f"  Key      {shown}",
        f"  State    {state_dir}  (logs in logs/; operator.key is for commands on this machine)",
        "",
        "Ask it something:",
        "",
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' \\",
        f'    -H "authorization: Bearer {key}" \\',
        f"    -d '{body}'",
        "",
        f'  OpenAI(base_url="{url}/v1", api_key={sdk_key}).chat.completions.create(',
        f'      model="{MODEL}", messages=[{{"role": "user", "content": "{_QUESTION}"}}])',
        "",
        "Watch it learn with `hone demo`. Stop with Ctrl-C.",
    ]
    return "\n".join(lines)
