"""Languages and the codes that models call them by: ISO 639-1, ISO 639-3 and FLORES-200.

The catalog speaks ISO 639-1; for the few languages that have no such code (Hawaiian, Cantonese) it speaks Whisper's,
which is ISO 639-3. The table has every language of Whisper, and others that translation models know. Nothing here
loads a model or reads a file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Code, ISO 639-3, FLORES-200 ("-": that set lacks it), name in English.
_TABLE = """
af afr afr_Latn Afrikaans
am amh amh_Ethi Amharic
ar ara arb_Arab Arabic
as asm asm_Beng Assamese
az aze azj_Latn Azerbaijani
ba bak bak_Cyrl Bashkir
be bel bel_Cyrl Belarusian
bg bul bul_Cyrl Bulgarian
bn ben ben_Beng Bengali
bo bod bod_Tibt Tibetan
br bre - Breton
bs bos bos_Latn Bosnian
ca cat cat_Latn Catalan
ceb ceb ceb_Latn Cebuano
cs ces ces_Latn Czech
cy cym cym_Latn Welsh
da dan dan_Latn Danish
de deu deu_Latn German
el ell ell_Grek Greek
en eng eng_Latn English
eo epo epo_Latn Esperanto
es spa spa_Latn Spanish
et est est_Latn Estonian
eu eus eus_Latn Basque
fa fas pes_Arab Persian
fi fin fin_Latn Finnish
fo fao fao_Latn Faroese
fr fra fra_Latn French
ga gle gle_Latn Irish
gd gla gla_Latn Scottish Gaelic
gl glg glg_Latn Galician
gu guj guj_Gujr Gujarati
ha hau hau_Latn Hausa
haw haw - Hawaiian
he heb heb_Hebr Hebrew
hi hin hin_Deva Hindi
hr hrv hrv_Latn Croatian
ht hat hat_Latn Haitian Creole
hu hun hun_Latn Hungarian
hy hye hye_Armn Armenian
id ind ind_Latn Indonesian
ig ibo ibo_Latn Igbo
is isl isl_Latn Icelandic
it ita ita_Latn Italian
ja jpn jpn_Jpan Japanese
jv jav jav_Latn Javanese
ka kat kat_Geor Georgian
kk kaz kaz_Cyrl Kazakh
km khm khm_Khmr Khmer
kn kan kan_Knda Kannada
ko kor kor_Hang Korean
ku kur kmr_Latn Kurdish
ky kir kir_Cyrl Kyrgyz
la lat - Latin
lb ltz ltz_Latn Luxembourgish
ln lin lin_Latn Lingala
lo lao lao_Laoo Lao
lt lit lit_Latn Lithuanian
lv lav lvs_Latn Latvian
mg mlg plt_Latn Malagasy
mi mri mri_Latn Maori
mk mkd mkd_Cyrl Macedonian
ml mal mal_Mlym Malayalam
mn mon khk_Cyrl Mongolian
mr mar mar_Deva Marathi
ms msa zsm_Latn Malay
mt mlt mlt_Latn Maltese
my mya mya_Mymr Burmese
ne nep npi_Deva Nepali
nl nld nld_Latn Dutch
nn nno nno_Latn Nynorsk
no nor nob_Latn Norwegian
oc oci oci_Latn Occitan
or ori ory_Orya Odia
pa pan pan_Guru Punjabi
pl pol pol_Latn Polish
ps pus pbt_Arab Pashto
pt por por_Latn Portuguese
ro ron ron_Latn Romanian
ru rus rus_Cyrl Russian
rw kin kin_Latn Kinyarwanda
sa san san_Deva Sanskrit
sd snd snd_Arab Sindhi
si sin sin_Sinh Sinhala
sk slk slk_Latn Slovak
sl slv slv_Latn Slovenian
sn sna sna_Latn Shona
so som som_Latn Somali
sq sqi als_Latn Albanian
sr srp srp_Cyrl Serbian
su sun sun_Latn Sundanese
sv swe swe_Latn Swedish
sw swa swh_Latn Swahili
ta tam tam_Taml Tamil
te tel tel_Telu Telugu
tg tgk tgk_Cyrl Tajik
th tha tha_Thai Thai
tk tuk tuk_Latn Turkmen
tl tgl tgl_Latn Tagalog
tr tur tur_Latn Turkish
tt tat tat_Cyrl Tatar
ug uig uig_Arab Uyghur
uk ukr ukr_Cyrl Ukrainian
ur urd urd_Arab Urdu
uz uzb uzn_Latn Uzbek
vi vie vie_Latn Vietnamese
xh xho xho_Latn Xhosa
yi yid ydd_Hebr Yiddish
yo yor yor_Latn Yoruba
yue yue yue_Hant Cantonese
zh zho zho_Hans Chinese
zu zul zul_Latn Zulu
"""

#: Other codes in use: Whisper's Javanese, MADLAD's Hebrew, withdrawn ones, written forms, and OPUS' Mandarin.
_ALIASES = {
    "cmn": "zh",
    "fil": "tl",
    "in": "id",
    "iw": "he",
    "ji": "yi",
    "jw": "jv",
    "mo": "ro",
    "nb": "no",
}

#: Written without spaces between words: sentences are joined without one, too.
UNSPACED = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})


@dataclass(frozen=True, slots=True)
class Language:
    """One language and its codes."""

    #: ISO 639-1, or Whisper's code where there is none.
    code: str
    #: ISO 639-3; the macrolanguage where there is one ("ara").
    iso3: str
    #: FLORES-200, as NLLB has it: the language that is written by default ("arb_Arab"). Empty where that set lacks it.
    flores: str
    #: In English.
    name: str


def _rows() -> Iterator[Language]:
    for row in _TABLE.strip().splitlines():
        code, iso3, flores, name = row.split(maxsplit=3)
        yield Language(code, iso3, flores.removeprefix("-"), name)


#: Code → language.
LANGUAGES: dict[str, Language] = {language.code: language for language in _rows()}

#: Every code in use, in lower case and without a script → code.
_CODES = (
    {language.iso3: language.code for language in LANGUAGES.values()}
    | {language.flores.partition("_")[0]: language.code for language in LANGUAGES.values() if language.flores}
    | _ALIASES
    | {code: code for code in LANGUAGES}
)


def separator(language: str) -> str:
    """What stands between two words of a language."""
    return "" if language in UNSPACED else " "


def known(code: str) -> str:
    """The catalog's code of a language: "EN", "en-US", "eng" and "eng_Latn" are "en".

    Raises:
        ValueError: the table has no such language; the message names near ones.
    """
    first = re.split(r"[-_]", code.strip().lower(), maxsplit=1)[0]
    found = _CODES.get(first)
    if found is None:
        raise ValueError(f"there is no language {code[:40]!r} in the table; near it are {', '.join(_near(first))}")
    return found


def find(code: str) -> Language:
    """The language of any of its codes. Raises ValueError as `known` does."""
    return LANGUAGES[known(code)]


def _near(code: str) -> list[str]:
    """What may have been meant: by code, or by the English name."""
    names = {language.name.lower(): language.code for language in LANGUAGES.values()}
    close = difflib.get_close_matches(code, [*_CODES, *names], n=3, cutoff=0.5)
    meant = [_CODES.get(match) or names[match] for match in close] or ["en", "de", "fr"]
    return [f"{each} ({LANGUAGES[each].name})" for each in dict.fromkeys(meant)]
