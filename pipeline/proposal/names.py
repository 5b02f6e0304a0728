"""What a column is, by its name."""

from __future__ import annotations

import re

_NUMBER = r"(_?(id|ids|no|nr|num|number|nummer|code|key|hash|uuid|guid))?"
_THING = (
    r"(item|product|prod|produkt|producto|produit|article|artikel|articulo|movie|film|book|track|song|video|news|recipe"
    r"|business|listing|game|app|course|hotel|poi)"
)
_TEXT = r"(_(name|text|title|en))?"

#: What a column may be, with forms of its name in the order of preference; the whole of the name must be of the form.
ROLES: dict[str, tuple[str, ...]] = {
    "user": (
        r"(user|customer|client|buyer|shopper|reviewer|member|consumer|kunde|kunden|nutzer|cliente|utilisateur)"
        + _NUMBER,
        r"(user|customer|client|buyer|kunden)_?(name|e?mail|e_mail|phone)|e?mail|e_mail|username|login",
        r"uid|(visitor|account|person|profile|reader|player|listener|viewer|session|visit)" + _NUMBER,
    ),
    "item": (_THING + _NUMBER, r"sku|asin|parent_asin|iid|pid|ean|gtin|isbn|upc|mid"),
    "timestamp": (
        r"timestamp|ts|unix_time|time_stamp|datetime|date_time|event_time",
        r"(ordered|order|bought|purchased|purchase|clicked|viewed|rated|created|watched|event|transaction|sold|bestell|kauf)"
        r"_?(at|on|time|date|day|datum|zeit)",
        r"time|date|day|when|created|purchased|bought|ordered|datum|zeit|zeitpunkt|fecha|t_dat",
        r"(unix_)?(review|rating|invoice|visit|session)_?(time|date|timestamp)",
    ),
    "rating": (r"(\w+_)?(rating|ratings|stars|score|overall|vote|bewertung|note)",),
    "position": (r"position|step|seq|seq_no|sequence",),
    "title": (r"(\w+_)?(title|titel|titre|titulo)", _THING + r"_?name", r"name|headline|bezeichnung|nombre|nom"),
    "brand": (r"(\w+_)?(brand|manufacturer|maker|vendor|designer|publisher|marke|marque|store|artist|author)" + _TEXT,),
    "category": (
        r"((main|sub|product|item)_?)?(category|categories|subcategory|kategorie|categoria|genre|genres|department|warengruppe|rubrik)"
        + _TEXT,
        r"(" + _THING + r"_?)?(type|group|gruppe|section|collection|class|tags)" + _TEXT,
    ),
    "description": (
        r"(\w+_)?(description|desc|beschreibung|descripcion|details|detail_desc|abstract|summary|plot|body|features)"
        + _TEXT,
    ),
    "image_urls": (
        r"(\w+_)?(image|images|img|photo|photos|picture|pictures|pic|thumbnail|cover|poster|bild|foto)(_\w+)?",
    ),
}
TEXT_ROLES = ("title", "brand", "category", "description", "image_urls")
#: In a catalogue these are the item's as well.
PLAIN_ID = re.compile(r"id|uid|code|key|handle|nr|number|ref")


def plain(name: str) -> str:
    """A name in lower case with underscores between its words.

    >>> plain("reviewerID"), plain("Customer ID"), plain("unixReviewTime")
    ('reviewer_id', 'customer_id', 'unix_review_time')
    """
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"\W+", "_", words).strip("_").lower()


def rank(name: str, role: str) -> int | None:
    """How good a name is for a role, 0 the best; None when it is none for it.

    >>> rank("customer_id", "user"), rank("session", "user"), rank("price", "user")
    (0, 2, None)
    """
    return next((place for place, form in enumerate(ROLES[role]) if re.fullmatch(form, plain(name))), None)


def role_of(name: str) -> str | None:
    """The first role that a name is good for.

    >>> role_of("SKU"), role_of("prod_name"), role_of("price")
    ('item', 'title', None)
    """
    return next((role for role in ROLES if rank(name, role) is not None), None)
