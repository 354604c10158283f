"""The documentation site: it builds, reads without a network, and its reference is complete."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import pnp
import pnp.band
from pnp.runs.launch import conf_dir

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PICTURES = sorted((DOCS / "pictures").glob("*.svg"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built once; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """Addresses that a page loads by itself, and those that it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "img":
            self.pictures.append(given)
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif tag != "link" or given.get("rel") != "canonical":
            found = [given.get(key) for key in ("src", "srcset", "data", "href", "poster")]
            self.loads += [address for address in found if address]


def pages(site: Path) -> dict[str, Loads]:
    files = site.rglob("*.html")
    return {f.relative_to(site).as_posix(): Loads(f.read_text("utf-8")) for f in files}


def test_no_page_loads_anything_from_elsewhere(site):
    found = pages(site)
    assert len(found) > len(list(DOCS.glob("*.md")))
    for name, seen in found.items():
        assert seen.loads, name
        outside = [a for a in seen.loads if re.match(r"(https?:)?//", a)]
        assert not outside, f"{name} loads {outside}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text("utf-8"))


def test_every_page_is_in_the_navigation_of_the_first(site):
    links = {link.partition("#")[0] for link in pages(site)["index.html"].links} | {"index.html"}
    assert {f"{file.stem}.html" for file in DOCS.glob("*.md")} <= links
    measured = [*ROOT.glob("experiments/*/README.md"), ROOT / "benchmarks" / "RESULTS.md"]
    for file in measured:
        page = file.relative_to(ROOT).with_suffix(".html").as_posix().replace("README", "index")
        assert page in links


def test_pages_opened_from_disk_can_be_searched(site):
    index = (site / "search" / "search_index.js").read_text("utf-8")
    assert "var __index" in index
    assert "repulsion" in index
    assert "pictures/iframe-worker.js" in pages(site)["index.html"].loads


def test_numbers_come_from_the_measured_files_themselves(site):
    text = (site / "results.html").read_text("utf-8")
    table = (ROOT / "README.md").read_text("utf-8").partition("## Results so far")[2]
    numbers = re.findall(r"\.\d{3} ± \.\d{3}", table)
    assert numbers
    assert all(number in text for number in numbers)
    assert not re.search(r"\.\d{3}\b", (DOCS / "results.md").read_text("utf-8"))


def test_every_public_name_and_every_object_of_a_configuration_is_explained(site):
    text = (site / "api.html").read_text("utf-8")
    public = {f"{home.__name__}.{name}" for home in (pnp, pnp.band) for name in home.__all__}
    configs = "".join(file.read_text("utf-8") for file in conf_dir().rglob("*.yaml"))
    built = set(re.findall(r"^ *_target_: (pnp[.\w]+)$", configs, re.MULTILINE))
    assert {"pnp.train", "pnp.band.plan"} <= public
    assert {"pnp.objectives.PNP", "pnp.views.Views"} <= built
    for name in public | built:
        assert f'id="{name}"' in text, name


# ---- the reference of conf/ ----------------------------------------------------------------------

CONFIGS = sorted(conf_dir().rglob("*.yaml"))


def keys(node: object, prefix: str):
    """Every key of a config that holds a value, as it is written on the command line."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            if key not in ("defaults", "_target_"):
                yield from keys(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix


@pytest.fixture(scope="module")
def reference(site):
    html = (site / "configuration.html").read_text("utf-8")
    return html, unescape(re.sub(r"<[^>]+>", "", html))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.relative_to(conf_dir()).as_posix())
def test_every_key_and_comment_of_a_config_is_in_the_reference(reference, file):
    html, plain = reference
    text = file.read_text(encoding="utf-8")
    top = file.parent == conf_dir()
    name = f"pnp-{file.stem.replace('_', ' ')}" if top else f"{file.parent.name}={file.stem}"
    part = re.split(rf'<h[23] id="[^"]*">{name}<', html)[1]
    part = part.partition("<h2" if top else "<h3")[0]
    content = yaml.safe_load(text)
    package = "" if "@package _global_" in text or top else file.parent.name
    for key in keys(content, "tune" if file.stem == "tune" else package):
        if not (top and key.startswith("hydra")):
            assert f"<code>{key}</code>" in part, key
    for comment in re.findall(r"^[^#\n]*\S[^#\n]*\s#\s(.+)$", text.partition("\nhydra:")[0], re.M):
        if "defaults" not in content or comment not in text.partition("seed:")[0]:
            assert comment in plain, comment


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", PICTURES, ids=lambda f: f.stem)
def test_a_picture_is_sound_titled_shown_and_what_its_script_draws(file):
    text = file.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert (root.findtext("{http://www.w3.org/2000/svg}title") or "").strip()
    assert "prefers-color-scheme:dark" in text
    assert text == runpy.run_path(str(DOCS / "pictures" / "draw.py"))["PICTURES"][file.stem]()
    shown = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert f"](pictures/{file.name})" in shown


def test_every_picture_of_the_site_has_words_for_those_who_cannot_see_it(site):
    shown = [p for page in pages(site).values() for p in page.pictures]
    assert len(shown) >= len(PICTURES)
    assert all((picture.get("alt") or "").strip() for picture in shown)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["decider", "open_run"])
def test_a_browser_searches_the_site_from_disk_without_a_complaint(site, tmp_path, word):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no browser")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    options += ("--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}")
    page = f"{(site / 'index.html').as_uri()}?q={word}"
    command = [browser, *options, "--virtual-time-budget=9000", "--dump-dom", page]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "md-search-result__item" in done.stdout
    assert "CONSOLE" not in done.stderr
