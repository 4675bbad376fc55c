"""The built site opens without a network: pages load nothing from elsewhere, and local files they name are there.

python docs/check_site.py build/site
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Loads(HTMLParser):
    """Addresses that a browser fetches by itself, and those that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded, self.linked = [], []

    def handle_starttag(self, tag, attrs):
        words = {k: v or "" for k, v in attrs}
        if tag == "a" or (tag == "link" and words.get("rel") in ("canonical", "prev", "next")):
            self.linked.append(words.get("href", ""))
        else:
            self.loaded += [words[k] for k in ("src", "href", "srcset", "data", "poster") if words.get(k)]


def main() -> int:
    site = Path(sys.argv[1])
    problems, pages = [], sorted(site.rglob("*.html"))
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        outside = [a for a in loads.loaded if a.startswith("//") or urlsplit(a).scheme in ("http", "https")]
        problems += [f"{page}: loads {a}" for a in outside]
        for address in {*loads.loaded, *loads.linked} - set(outside):
            parts = urlsplit(address)
            # The page for missing pages names files from the root of a server.
            if parts.scheme or parts.netloc or not parts.path or page.name == "404.html":
                continue
            if not (page.parent / unquote(parts.path)).exists():
                problems.append(f"{page}: {address} is not there")
    for style in site.rglob("*.css"):
        text = style.read_text()
        problems += [f"{style}: loads from elsewhere" for word in ("url(http", "url(//", "@import") if word in text]
    print(*problems, f"{len(pages)} pages, {len(problems)} problems", sep="\n")
    return 1 if problems or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
