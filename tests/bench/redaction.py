"""How much the redaction finds, and what it takes for personal data that is none, on made-up texts.

    python -m tests.bench.redaction [--rows 2000] [--seed 7]

Values are generated with valid checksums, in the ways people write them; as many sentences hold numbers and words that
only look alike. Recall: the share of planted values of which nothing is left. Precision: the share of placeholders that
stand for a planted value of that type.
"""

import argparse
import base64
import ipaddress
import random
import re
import string
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from feedback.personal_data import IBAN_LENGTH
from feedback.privacy_policy import PrivacyPolicy
from feedback.redact import PLACEHOLDER, Conversation, redact_row

FIRST = ("anna", "björn", "chen", "dilara", "eve.marie", "j_smith", "o'neil", "kofi+shop", "l.garcia", "x9")
DOMAINS = (
    "example.org",
    "mail.example.co.uk",
    "firma-müller.de",
    "corp.internal.example.com",
    "uni.example.museum",
)
AROUND = (
    "Please use {} from now on.", "it's {}, thanks!", "({})", "My details: {}; can you check?", "Ist {} richtig?",
    "{}", "I wrote {} twice already...", "Sent from {}\nRegards", '"{}"', "the customer gave {}.", "old={} new=none",
)  # fmt: skip
NAMED = ("my number is {}", "Call me: {}", "Tel. {}", "phone {}", "mobile: {} please")


@dataclass(frozen=True)
class Planted:
    """One sentence; `kind` is None where there is nothing to find."""

    text: str
    kind: str | None
    value: str


def email(r: random.Random) -> str:
    name = r.choice(FIRST).replace("'", "") + r.choice(("", str(r.randrange(1990, 2010)), ".work"))
    return f"{name}@{r.choice(DOMAINS)}"


def luhn(r: random.Random, start: str, length: int) -> str:
    digits = start + "".join(r.choices(string.digits, k=length - len(start) - 1))
    total = sum(sum(divmod(2 * int(d), 10)) if i % 2 == 0 else int(d) for i, d in enumerate(reversed(digits)))
    return digits + str(-total % 10)


def card(r: random.Random) -> str:
    start, length = r.choice(
        (("4", 16), ("4", 13), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3566", 16))
    )
    number = luhn(r, start, length)
    if length != 16:
        return number if length == 13 else r.choice((number, f"{number[:4]} {number[4:10]} {number[10:]}"))
    return r.choice(("", " ", "-")).join(number[at : at + 4] for at in range(0, 16, 4))


def iban(r: random.Random) -> str:
    country = r.choice(sorted(IBAN_LENGTH))
    body = "".join(
        r.choices(
            string.digits + ("ABCXYZ" if country in ("GB", "NL", "FR") else ""), k=IBAN_LENGTH[country] - 4
        )
    )
    check = 98 - int("".join(str(int(c, 36)) for c in body + country + "00")) % 97
    whole = f"{country}{check:02d}{body}"
    if r.random() < 0.5:
        whole = " ".join(whole[at : at + 4] for at in range(0, len(whole), 4))
    return whole.lower() if r.random() < 0.1 else whole


def address(r: random.Random) -> str:
    if r.random() < 0.6:
        return str(ipaddress.IPv4Address(r.randrange(1 << 24, 0xDFFFFFFF)))
    six = ipaddress.IPv6Address(
        r.getrandbits(128) if r.random() < 0.5 else (0x20010DB8 << 96) + r.randrange(1, 1 << 20)
    )
    return r.choice((str(six), six.exploded, str(six).upper()))


def key(r: random.Random) -> str:
    def letters(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
        return "".join(r.choices(alphabet, k=count))

    kinds: tuple[Callable[[], str], ...] = (
        lambda: "sk-" + letters(48), lambda: "sk-ant-api03-" + letters(80), lambda: "ghp_" + letters(36),
        lambda: "AKIA" + letters(16, string.ascii_uppercase + string.digits), lambda: "xoxb-" + letters(24),
        lambda: "AIza" + letters(35), lambda: "glpat-" + letters(20), lambda: "hf_" + letters(34),
        lambda: "eyJ" + letters(20) + ".eyJ" + letters(60) + "." + letters(43), lambda: letters(40),
        lambda: base64.b64encode(r.randbytes(32)).decode(), lambda: "sk_live_" + letters(24),
    )  # fmt: skip
    return r.choice(kinds)()


def password(r: random.Random) -> str:
    return "".join(r.choices(string.ascii_letters + string.digits + "!#$%&*", k=r.randrange(8, 16))) + str(
        r.randrange(9)
    )


def phone(r: random.Random) -> str:
    def group(*lengths: int) -> list[str]:
        return ["".join(r.choices("23456789", k=length)) for length in lengths]

    separator = r.choice((" ", "-", "", " "))
    return r.choice(
        (
            "+49" + separator + separator.join(["1" + group(2)[0], *group(3, 4)]),
            "+1 (" + group(3)[0] + ") " + "-".join(group(3, 4)),
            "(" + group(3)[0] + ") " + "-".join(group(3, 4)),
            "-".join(group(3, 3, 4)),
            ".".join(group(3, 3, 4)),
            "0" + group(3)[0] + r.choice((" ", "/", "-")) + group(7)[0],
            "+44 20 " + " ".join(group(4, 4)),
            "0033 " + " ".join(["1", *group(2, 2, 2, 2)]),
            "+" + "".join(["86138", *group(4, 4)]),
            "01 " + " ".join(group(2, 2, 2, 2)),
        )
    )


def lookalike(r: random.Random) -> str:
    number = r.randrange
    return r.choice(
        (
            f"order {number(10**9, 10**10)}", f"#{number(10**5, 10**7)}", f"invoice 2026-{number(10**5)}",
            f"on {number(1, 28):02d}.{number(1, 12):02d}.{number(1980, 2030)} at {number(24)}:{number(60):02d}:00",
            f"2026-{number(1, 12):02d}-{number(1, 28):02d}T{number(24):02d}:00:00Z", f"{number(1000, 99999)}.99 EUR",
            f"version {number(20)}.{number(20)}.{number(20)}.{number(20)}", f"v{number(9)}.{number(20)}.{number(9)}",
            f"{r.getrandbits(128):032x}", f"{r.getrandbits(160):040x}", f"chatcmpl-{r.getrandbits(128):032x}",
            f"{number(90)}.{number(10**6)}, {number(180)}.{number(10**6)}", "@mention someone",
            "std::vector<int>::iterator",
            f"tracking {number(10**15, 10**16)}", f"{number(1000)} x {number(1000)} = {number(10**5)}",
            "a token bucket",
            "the secret is patience", "a_very_long_function_name_in_python", "src/components/Button/ButtonGroup.tsx",
            f"{number(1900, 2030)}-{number(1900, 2030)}", 
            f"ISBN 978-{number(10)}-{number(100, 999)}-{number(10**4, 10**5)}-{number(10)}",
            f"{number(10)} {number(100)} {number(1000)}", f"{number(1, 9)},{number(100, 999)},{number(100, 999)} users",
            f"00{number(10**6)}", f"page {number(100)}/{number(100, 200)}", "password: required", "DE is my country",
        )
    )  # fmt: skip


KINDS: dict[str, Callable[[random.Random], str]] = {
    "EMAIL": email, "PHONE": phone, "CARD": card, "IBAN": iban, "IP": address, "KEY": key,
}  # fmt: skip


def hard(r: random.Random) -> dict[str, str]:
    """One value of each form that people also write, and that the patterns were not made for."""
    digits = "".join(r.choices(string.digits, k=16))
    local, address = f"{r.randrange(200, 999)}-{digits[:4]}", email(r)
    words = ("correct", "horse", "battery", "staple", "lamp", "kettle", "orange", "window")
    return {
        "e-mail, spelled out": address.replace("@", " at ").replace(".", " dot "),
        "e-mail with blanks": address.replace("@", " @ "),
        "local phone number, not called one": local,
        "phone number in words": " ".join(r.choices(("one", "two", "three", "four", "five", "six"), k=9)),
        "card number with dots": ".".join(luhn(r, "4", 16)[at : at + 4] for at in range(0, 16, 4)),
        "card number with a wrong digit": digits,
        "passphrase of words": "password: " + " ".join(r.sample(words, 4)),
        "US social security number": f"{digits[:3]}-{digits[3:5]}-{digits[5:9]}",
        "date of birth": f"born {r.randrange(1, 28):02d}.{r.randrange(1, 12):02d}.{r.randrange(1940, 2010)}",
        "name": r.choice(("Anna Schmidt", "Kofi Mensah", "Li Wei", "Maria Garcia")),
        "postal address": f"{r.randrange(1, 200)} Elm Street, Springfield {digits[:5]}",
    }


def found_of_hard(count: int, seed: int) -> dict[str, float]:
    """The share of each form of which nothing is left."""
    r = random.Random(seed)
    gone: Counter[str] = Counter()
    for _ in range(count):
        for form, value in hard(r).items():
            gone[form] += is_gone(value, Conversation().text(f"My details: {value}, thanks."))
    return {form: gone[form] / count for form in hard(r)}


def sentences(count: int, seed: int) -> list[Planted]:
    """`count` sentences of each type, a quarter as many passwords, and as many without anything to find."""
    r = random.Random(seed)
    rows = []
    for kind, make in KINDS.items():
        for _ in range(count):
            value = make(r)
            around = r.choice(NAMED) if kind == "PHONE" and r.random() < 0.3 else r.choice(AROUND)
            rows.append(Planted(around.format(value), kind, value))
    for _ in range(count // 4):
        value = password(r)
        called = r.choice(("password: {}", "Passwort / password is {}", "api_key={}", 'token: "{}"'))
        rows.append(Planted(called.format(value), "KEY", value))
    for _ in range(count * len(KINDS)):
        rows.append(Planted(r.choice(AROUND).format(lookalike(r)), None, ""))
    return rows


@dataclass
class Score:
    """Counts of one type."""

    planted: int = 0
    gone: int = 0
    placeholders: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        return self.gone / max(1, self.planted)

    @property
    def precision(self) -> float:
        return self.right / max(1, self.placeholders)


def measure(rows: list[Planted]) -> dict[str, Score]:
    """What became of the planted values, by type."""
    scores = {kind: Score() for kind in KINDS}
    for row in rows:
        left = Conversation().text(row.text)
        for kind, _ in PLACEHOLDER.findall(left):
            scores[kind].placeholders += 1
            scores[kind].right += kind == row.kind
        if row.kind is not None:
            scores[row.kind].planted += 1
            scores[row.kind].gone += is_gone(row.value, left)
    return scores


def is_gone(value: str, left: str) -> bool:
    """Whether no piece of four letters or digits of the value is left."""
    rest = PLACEHOLDER.sub(" ", left)
    compact = re.sub(r"[^\w]", "", value)
    plain = re.sub(r"[^\w]", "", rest)
    return not any(compact[at : at + 4] in plain for at in range(max(1, len(compact) - 3)))


def microseconds(chars: int, seed: int, policy: PrivacyPolicy) -> float:
    """Cost of redacting one row of about `chars` characters, a third of its sentences with something to find."""
    r = random.Random(seed)
    picked: list[str] = []
    pool = sentences(50, seed)
    while sum(map(len, picked)) < chars:
        picked += ("Nothing to see here, only words about lamps and returns.", r.choice(pool).text)
    text = " ".join(picked)
    row = orjson.dumps(
        {
            "completion_id": "x",
            "request": {"messages": [{"role": "user", "content": text}]},
            "output_text": text,
        }
    )
    began = time.process_time()
    for _ in range(20):
        redact_row(row, policy)
    return (time.process_time() - began) / 20 * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Recall, precision and cost of the redaction.")
    parser.add_argument("--rows", type=int, default=2000, help="sentences of each type")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rows = sentences(options.rows, options.seed)
    print(f"{'type':8} {'planted':>8} {'recall':>8} {'precision':>10}")
    for kind, score in measure(rows).items():
        print(f"{kind:8} {score.planted:8} {score.recall:8.3f} {score.precision:10.3f}")
    print("forms that it was not made for:")
    for form, share in found_of_hard(max(1, options.rows // 10), options.seed).items():
        print(f"  {form:36} {share:.3f}")
    policy = PrivacyPolicy(redaction="everything")
    for chars in (500, 4000, 32000):
        cost = microseconds(chars, options.seed, policy)
        print(f"a completion of 2 x {chars} characters: {cost:.0f} us of CPU time")
    misses = Counter(
        row.kind for row in rows if row.kind and not is_gone(row.value, Conversation().text(row.text))
    )
    print(f"missed: {dict(misses)}")


if __name__ == "__main__":
    main()
