"""What a notebook shows of a result and of a target: whole HTML, nothing from elsewhere, words of strangers as text."""

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from PIL import Image


class Tags(HTMLParser):
    """Attributes by tag, and all text."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def test_a_result_shows_verdict_warnings_and_slices_before_and_after(plain):
    shown = Tags(plain._repr_html_())
    assert plain.verdict.headline in shown.text
    assert len(shown.of("li")) == len(plain.warnings)
    uris = [image["src"] for image in shown.of("img")]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
    before, after = (np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))) for uri in uris)
    assert before.shape == after.shape
    assert np.abs(before.astype(float) - after).max() > 3, "two pictures, not one twice"
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.8


def test_a_target_shows_its_card_as_text(tiny_target):
    info = tiny_target.info.model_copy(update={"data": "<script>x</script>"})
    shown = Tags(replace(tiny_target, info=info)._repr_html_())
    assert not shown.of("script")
    assert "<script>x</script>" in shown.text
    assert "training scans" in shown.text
