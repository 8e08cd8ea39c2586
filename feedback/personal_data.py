"""Find personal data that has a form: addresses, numbers and keys, by pattern, and by checksum where there is one.

Each finder yields (start, end) in a text. What can be checked is checked: Luhn for cards, ISO 7064 (mod 97) and the
country's length for IBANs, ranges for IP addresses, entropy for keys without a known prefix. Every repetition is
bounded: no text takes more than linear time.

It finds no names, postal addresses, dates of birth, or anything else that only meaning gives away, and nothing that is
spelled out, split over lines, or inside an image.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

TELLING = re.compile(r"[0-9@]|[A-Za-z_-]{20}")
KEY_NAMES = ("pass", "pwd", "secret", "token", "key")

EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w@])")

IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
IBAN_LENGTH = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip

CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,22}(?!\w)")
CARD_START = re.compile(r"4|5[1-5]|2[2-7]|3[0-9]|6")

IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
IPV6 = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![\w:])"
)
VERSION_BEFORE = re.compile(r"(?i)(?:\bv|version|release|build)\W{0,2}$")

# Groups are apart by something: with nothing between them, a run of digits could be divided in exponentially many ways.
PHONE = re.compile(r"(?<![\w.,:#@-])\(?\+?\(?\d{1,15}(?:[ \u00a0.()/-]{1,3}\d{1,12}){0,8}\)?(?!\w)")
PHONE_NAMED = re.compile(
    r"(?i)(?:tel|phone|call|mobile|fax|whatsapp|handy|telefon|rufnummer|cell|number is)\W{0,12}$"
)
NORTH_AMERICAN = re.compile(r"(?:1[ .-]?)?\(?[2-9]\d{2}\)?[ .-]{1,2}[2-9]\d{2}[ .-]\d{4}")
DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{4}[./-]\d{1,2}[./-]\d{1,2}")

KEY_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[\w-]{16,200}|[spr]k_(?:live|test)_\w{10,200}|gh[pousr]_\w{30,255}|github_pat_\w{22,255}"
    r"|glpat-[\w-]{20,64}|xox[abeprs]-[\w-]{10,255}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}|ya29\.[\w-]{20,255}"
    r"|h[fk]_[\w-]{20,128}|npm_\w{36}|pypi-[\w-]{50,255}|SG\.[\w-]{16,64}\.[\w-]{16,64}"
    r"|eyJ[\w-]{8,2048}\.eyJ[\w-]{8,4096}\.[\w-]{0,1024})"
    r"|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[^-]{1,8000}-----END [A-Z ]{0,20}PRIVATE KEY-----"
    r"|(?<=://)[^\s/:@]{1,64}:[^\s/:@]{1,128}(?=@)"
)
KEY_NAMED = re.compile(
    r"(?i)(?:password|passwd|pwd|passphrase|secret|token|api[ _-]?key|access[ _-]?key)['\"]?\s{0,3}(?:[:=]|\bis\b)"
    r"\s{0,3}['\"]?([^\s'\",;<>]{6,200})"
)
KEY_BARE = re.compile(r"(?<![\w/+-])[A-Za-z0-9+/_-]{24,200}={0,2}(?![\w/+=-])")
WORD = re.compile(r"[a-z]{7}")
ENTROPY_BITS_MIN = 3.7
"""Bits per character of a key without a name or known prefix. English has more, but not without a word in it."""


def may_hold_any(text: str) -> bool:
    """False for a text in which no finder finds anything, which most are, and found out cheaply."""
    return TELLING.search(text) is not None or _names_a_key(text)


def _names_a_key(text: str) -> bool:
    lower = text.lower()
    return any(name in lower for name in KEY_NAMES)


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses."""
    if "@" in text:
        for found in EMAIL.finditer(text):
            yield found.span()


def ibans(text: str) -> Iterator[Span]:
    """Bank accounts with the length of their country and a right checksum."""
    for found in IBAN.finditer(text):
        length = IBAN_LENGTH.get(found[0][:2].upper())
        end = _after(text, found.start(), length) if length else None
        if end and not text[end : end + 1].isalnum() and _mod_97(text[found.start() : end]) == 1:
            yield found.start(), end


def _after(text: str, start: int, count: int) -> int | None:
    """Where `count` letters and digits from `start` end; blanks and hyphens between them do not count."""
    for at in range(start, min(len(text), start + 2 * count)):
        count -= _counts(text[at])
        if not count:
            return at + 1
    return None


def _counts(letter: str) -> bool:
    # Elsewhere there are letters and digits, such as a raised 1, that stand for no number.
    return letter.isascii() and letter.isalnum()


def _mod_97(iban: str) -> int:
    compact = "".join(filter(_counts, iban)).upper()
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97


def cards(text: str) -> Iterator[Span]:
    """Payment cards: 13 to 19 digits that begin as a card's do and pass Luhn's check."""
    for found in CARD.finditer(text):
        if not CARD_START.match(found[0]):
            continue
        # A security code or date may follow in the same breath.
        ends = [
            at for at in range(len(found[0]), 12, -1) if at == len(found[0]) or not found[0][at].isdigit()
        ]
        for end in ends:
            digits = [int(letter) for letter in found[0][:end] if letter.isdigit()]
            if 13 <= len(digits) <= 19 and _luhn(digits):
                yield found.start(), found.start() + end
                break


def _luhn(digits: list[int]) -> bool:
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(doubled) + sum(digits[::-2])) % 10 == 0


def ip_addresses(text: str) -> Iterator[Span]:
    """IPv4 and IPv6 addresses; four numbers that a text calls a version are none."""
    for found in IPV4.finditer(text):
        if _is_ip(found[0]) and not VERSION_BEFORE.search(text, max(0, found.start() - 12), found.start()):
            yield found.span()
    if text.count(":") > 1:
        for found in IPV6.finditer(text):
            if any(letter.isdigit() for letter in found[0]) and _is_ip(found[0]):
                yield found.span()


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def phones(text: str) -> Iterator[Span]:
    """Telephone numbers: international, North American, with a leading 0, or called one by the words before."""
    for found in PHONE.finditer(text):
        start, number = _without_brackets(found)
        digits = "".join(filter(str.isdigit, number))
        if not 7 <= len(digits) <= 15 or DATE.search(number):
            continue
        grouped = len(digits) < len(number.strip())
        named = PHONE_NAMED.search(text, max(0, start - 24), start)
        if (
            (number[0] == "+" and digits[0] != "0" and len(digits) >= 8)
            or (number.startswith("(+") and len(digits) >= 8)
            or (digits.startswith("00") and len(digits) >= 11)
            or (digits[0] == "0" and 9 <= len(digits) <= 12 and (grouped or len(digits) >= 10))
            or NORTH_AMERICAN.fullmatch(number)
            or named
        ):
            yield start, start + len(number)


def _without_brackets(found: re.Match[str]) -> tuple[int, str]:
    """Without brackets that the sentence put around the number."""
    start, number = found.start(), found[0]
    if number.count("(") > number.count(")") or (number[0] == "(" and number[-1] == ")"):
        start, number = start + number.index("(") + 1, number[number.index("(") + 1 :]
    return start, number[:-1] if number.count(")") > number.count("(") else number


def keys(text: str) -> Iterator[Span]:
    """Passwords, API keys and tokens: by known beginnings, by what they are called, and by how random they look."""
    for found in KEY_PREFIXED.finditer(text):
        yield found.span()
    for found in KEY_NAMED.finditer(text) if _names_a_key(text) else ():
        value = found[1].rstrip(".!?)")
        some = any(map(str.isdigit, value)) and not value.isdigit()
        if (len(value) >= 6 and some) or _mixes(value):
            yield found.start(1), found.start(1) + len(value)
    for found in KEY_BARE.finditer(text):
        if _looks_random(found[0]):
            yield found.span()


def _mixes(value: str) -> bool:
    return any(map(str.islower, value)) and any(map(str.isupper, value)) and not value.isalnum()


def _looks_random(value: str) -> bool:
    kinds = (any(map(str.islower, value)), any(map(str.isupper, value)), sum(map(str.isdigit, value)) > 1)
    if not all(kinds) or WORD.search(value):
        return False
    shares = [count / len(value) for count in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares) >= ENTROPY_BITS_MIN


FINDERS: dict[str, Finder] = {
    "KEY": keys,
    "EMAIL": emails,
    "IBAN": ibans,
    "CARD": cards,
    "IP": ip_addresses,
    "PHONE": phones,
}
"""In this order: what an earlier one took, a later one does not see."""
