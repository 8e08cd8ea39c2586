"""Which language a text is written in: by script, then by frequent short words. Offline, microseconds, a guess.

It is for balance reports: a share of a dataset, not a fact about one text. Texts without enough evidence are `unknown`;
languages of the Latin script that are not listed are too.
"""

import re
import unicodedata
from functools import lru_cache

UNKNOWN = "unknown"

_WORD = re.compile(r"[^\W\d_]+")
_READ_CHARACTERS = 400

_SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CJK": "zh",
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "HEBREW": "he",
    "GREEK": "el",
    "DEVANAGARI": "hi",
    "THAI": "th",
}

_WORDS = {
    "en": "the and is are was you your for not with this that have what how when where why can do does my it i we to "
    "of in on from please would could will did has be at if or an there which me am about over some any than then",
    "de": "der die das und ist nicht ein eine einen ich du sie wir wie was wann wo warum kann mit für von zu auf dem "
    "den es bitte mein meine habe haben wird werden auch noch aber bei im am um nach oder wenn mir",
    "fr": "le la les et est pas un une des je tu vous nous que qui quoi comment quand où pourquoi avec pour dans sur "
    "mon ma mes votre vos ce cette au aux du il elle ne se suis ai avez sont plus puis",
    "es": "el los las y es no una unos yo usted que qué cómo cuándo dónde por con para en mi su del al lo se me ha "
    "está son más puedo tengo pero como muy cuál hay sin",
    "it": "il gli e è non un uno di che chi come quando dove perché con per in mio mia del della al sono ho ha "
    "più posso questo questa anche ma si ci vi mi cosa quanto grazie nel",
    "pt": "o os as e é não um uma você que como quando onde por com para em meu minha do da no na ao são mais "
    "posso tenho mas muito seu sua isso está foi obrigado",
    "nl": "de het een en is niet ik jij u wij hoe wat wanneer waar waarom kan met voor van op aan mijn uw zijn "
    "heb heeft wordt ook maar bij naar dat die dit er te om nog",
    "sv": "och är inte en ett jag du vi hur vad när var varför kan med för av på till min mitt som det den att har "
    "om men från eller också vill skulle",
    "pl": "i jest nie to ja ty my jak co kiedy gdzie dlaczego czy z do na w za od mój moja się że są mam może ale "
    "dla po przez już tak proszę",
    "tr": "ve bir bu ne zaman nerede neden için ile de da mi benim var yok çok ama olarak daha gibi kadar "
    "değil mu mü ben siz lütfen",
}
_LANGUAGES_OF: dict[str, tuple[str, ...]] = {
    word: tuple(language for language, words in _WORDS.items() if word in words.split())
    for words in _WORDS.values()
    for word in words.split()
}


def language_of(text: str) -> str:
    """The ISO 639-1 code of the likeliest language, or `unknown`."""
    text = unicodedata.normalize("NFKC", text[:_READ_CHARACTERS]).casefold()
    if not text.isascii() and (script := _script(text)) is not None:
        return script
    points: dict[str, float] = {}
    for word in _WORD.findall(text):
        languages = _LANGUAGES_OF.get(word, ())
        for language in languages:
            points[language] = points.get(language, 0.0) + 1 / len(languages)
    if not points:
        return UNKNOWN
    ranked = sorted(points.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        return UNKNOWN
    return ranked[0][0]


def _script(text: str) -> str | None:
    """The language of a script other than Latin in which a third of the letters are written."""
    found: dict[str, int] = {}
    letters = [character for character in text if character.isalpha()]
    for character in letters:
        language = _language_of_letter(character)
        if language is not None:
            found[language] = found.get(language, 0) + 1
    if not found or sum(found.values()) * 3 < len(letters):
        return None
    # Japanese is written with Chinese characters among its own.
    if "ja" in found:
        return "ja"
    return max(sorted(found), key=lambda language: found[language])


@lru_cache(maxsize=4096)
def _language_of_letter(character: str) -> str | None:
    return _SCRIPTS.get(unicodedata.name(character, "").split(" ")[0].split("-")[0])
