"""Ask, show the answer, take a thumb from the keyboard: the smallest application that teaches its model.

Run with OPENAI_BASE_URL and OPENAI_API_KEY set: python examples/rate_answers.py support
"""

import sys

from openai import OpenAI


def main() -> None:
    """Talk until the input ends."""
    model = sys.argv[1] if len(sys.argv) > 1 else "support"
    client = OpenAI()
    for question in iter(lambda: input("you: "), ""):
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            safety_identifier="keyboard",
            store=True,
            stream=True,
        )
        completion_id = ""
        for chunk in stream:
            completion_id = chunk.id
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        thumb = input("\ngood? [y/n, the right answer, or nothing] ").strip()
        if not thumb:
            continue
        yes, no = thumb.lower() in ("y", "yes"), thumb.lower() in ("n", "no")
        said = {"value": yes} if yes or no else {"value": False, "correction": thumb}
        body = {"completion_id": completion_id, "rater_id": "keyboard", **said}
        client.post("/feedback", body=body, cast_to=object)


if __name__ == "__main__":
    main()
