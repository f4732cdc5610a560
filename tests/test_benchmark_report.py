"""The benchmark's figures and report, from made-up result lines."""

import base64
import hashlib
import html.parser
import importlib.util
import re
import struct

import numpy as np
import pytest
from result_lines import failed, line, study

from textrl_agents.benchmark.plan import PLAN, Pairing, Plan
from textrl_agents.benchmark.report import figures
from textrl_agents.benchmark.report.report import write_report
from textrl_agents.benchmark.report.summary import summarize
from textrl_env.errors import MissingExtra, TextRLError

pytest.importorskip("matplotlib")

EVIL = [
    "<script>alert('x')</script><img src=x onerror=alert(1)>",
    '"><a href="javascript:alert(1)">hi</a></div></table>',
    "```\n</pre># heading\n![x](https://evil.example/x.png) | **bold** https://evil.example",
    "{{ 7 * 7 }}{% raw %}\x1b[31mred\x00 \u202eright-to-left \ud800 end",
]


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: its tags, its text, its attributes. Fails where a tag is closed that is not
    open: then some text has broken out of its place.
    """

    VOID = ("meta", "img", "br")

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.text, self.attributes = [], [], "", []
        self.style = self.policy = self.script = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if ("http-equiv", "Content-Security-Policy") in attributes:
            self.policy = dict(attributes)["content"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["style"], ["script"]):
            setattr(self, self.open[-1], getattr(self, self.open[-1]) + data)
        else:
            self.text += data


def assert_inert(page):
    """Nothing that runs but the page's own script, nothing from outside."""
    assert page.tags.count("script") == ("script-src" in page.policy)
    assert ("script", "src") not in {(tag, name) for tag, name, _ in page.attributes}
    assert not {"iframe", "object", "embed", "link", "base", "form", "svg"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style"  # the policy forbids it
        assert name not in ("srcset", "action", "formaction", "background", "poster", "data")
        if name == "src":
            assert value.startswith("data:image/png;base64,")
        if name == "href":
            assert re.fullmatch(r"#s\d+|https://arxiv\.org/abs/[\d.]+", value)
    assert "url(" not in page.style
    assert "@import" not in page.style


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """(folder, page, Markdown) of a study of three seeds with hostile samples and a run that failed."""
    lines = study()
    ppo = next(entry for entry in lines if entry["algorithm"] == "ppo")
    ppo["samples"] = [{"prompt": text, "response": text, "score": 1.0, "gold_score": None, "kl": 4.0} for text in EVIL]
    other = next(entry for entry in lines if entry["algorithm"] == "dqn")
    other["samples"] = [{**sample, "response": ""} for sample in ppo["samples"]]
    lines.append(failed("a2c", "sentiment", error="RewardRaised: <b>| boom `x` at https://evil.example\nline two"))
    folder = tmp_path_factory.mktemp("study")
    markdown, page = write_report(folder, lines)
    return folder, Page(page), markdown.read_text(encoding="utf-8")


def test_page_is_inert_and_whole(reported):
    _, page, _ = reported
    assert_inert(page)
    assert "<script>alert('x')</script><img src=x onerror=alert(1)>" in page.text
    assert '"><a href="javascript:alert(1)">hi</a></div></table>' in page.text
    assert "{{ 7 * 7 }}{% raw %}" in page.text
    for text in EVIL[:3]:
        assert page.text.count(text) == 2  # as a prompt and as a response


def test_policy_allows_the_page_its_own_style_and_script_alone(reported):
    _, page, _ = reported
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert page.policy.startswith("default-src 'none'; img-src data:; ")
    assert f"style-src 'sha256-{digest}';" in page.policy
    script = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{script}';" in page.policy
    assert 'querySelectorAll("table.sortable")' in page.script
    assert "unsafe" not in page.policy


def test_control_characters_and_turned_directions_are_shown_as_escapes(reported):
    _, page, markdown = reported
    for text in (page.text, markdown):
        assert r"\x1b[31mred\x00 \u202eright-to-left \ud800 end" in text
        assert not set(text) & {"\x1b", "\x00", "\u202e"}


def test_markdown_is_inert(reported):
    markdown_it = pytest.importorskip("markdown_it")
    folder, _, markdown = reported
    tokens = markdown_it.MarkdownIt("commonmark").enable("table").parse(markdown)
    inline = [child for token in tokens for child in token.children or []]
    assert not [token for token in tokens if token.type == "html_block"]
    assert {token.content for token in inline if token.type == "html_inline"} <= {"<br>"}
    images = [token.attrs["src"] for token in inline if token.type == "image"]
    assert images
    for image in images:
        assert (folder / image).read_bytes().startswith(b"\x89PNG")
    links = [token.attrs["href"] for token in inline if token.type == "link_open"]
    assert all(link.startswith("https://arxiv.org/abs/") for link in links)
    blocks = [token.content for token in tokens if token.type == "fence"]
    for text in EVIL[:3]:
        assert blocks.count(f"{text}\n") == 2
    # GitHub makes links of bare addresses too; outside of code none stands.
    shown = "".join(token.content for token in tokens if token.type == "inline")
    assert not re.search(r"(?<!<)https?://", shown)
    assert "www.evil" not in shown


def test_tables_hold_means_and_intervals_in_the_order_of_the_objective(reported):
    _, page, markdown = reported
    # PPO: scores 0.9, 1.0 and 1.1, charged 0.05 * 4; 4.30265 * 0.1 / sqrt(3) = 0.248.
    assert "| ppo | 3 | 0.800 ± 0.248 | 1.000 ± 0.248 |" in markdown
    table = markdown[markdown.index("## Task: sentiment") :]
    assert table.index("| ppo |") < table.index("| dqn |") < table.index("| reference |")
    for text in ("0.800 ± 0.248", "RewardRaised: <b>| boom `x` at https://evil.example\nline two", "stock SB3 PPO"):
        assert text in page.text
    assert "Too few seeds" not in page.text
    command = "textrl bench run --algos reference,ppo,dqn,a2c --tasks sentiment,exact --seeds 3 --budget 1000"
    assert f"{command} --eval-episodes 64 --out FOLDER" in page.text


def test_a_report_replaces_the_one_before_and_leaves_nothing_behind(tmp_path):
    first = write_report(tmp_path, [line(seed=seed, score=1.0 + seed) for seed in range(3)])
    before = [path.read_text() for path in first]
    assert write_report(tmp_path, [line(seed=0, score=7.0)]) == first
    assert [path.read_text() for path in first] != before
    assert "2.000 ±" in before[0]
    assert "2.000 ±" not in first[0].read_text()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "report.html", "report.md", "frontier-1-sentiment.png", "curves-1-sentiment.png",
    }  # fmt: skip


def test_a_file_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    _, page = write_report(tmp_path, [line()])
    before = page.read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("textrl_agents.reports.report_files.os.replace", full)
    with pytest.raises(TextRLError, match=r"cannot be written: .*No space left on device.*unchanged"):
        write_report(tmp_path, [line(score=9.0)])
    assert page.read_bytes() == before
    assert not list(tmp_path.rglob("*.writing"))


def test_one_seed_and_one_algorithm_have_no_interval(tmp_path):
    markdown, page = write_report(tmp_path, [line()])
    text = markdown.read_text()
    assert "| ppo | 1 | 0.800 | 1.000 |" in text
    assert "Too few seeds" in text
    assert "all results" in text
    assert "the zero point is missing" in text  # without the reference there is no scale
    assert_inert(Page(page))
    assert "Every seed gave the very same result" not in text


def test_an_interval_without_width_is_explained(tmp_path):
    markdown, _ = write_report(tmp_path, [line("reference", seed=seed, score=0.5, kl=0.0) for seed in range(3)])
    assert "| reference | 3 | 0.500 ± 0.000 |" in markdown.read_text()
    assert "Every seed gave the very same result for reference on sentiment." in markdown.read_text()


def test_names_that_this_process_does_not_know(tmp_path):
    names = ["_$x^{$", "<i>mine</i>", "a|b`c", "ein-sehr-langer-name-" * 4, "\ud800"]
    lines = [line(name, "their <task>/../$_", seed, score=float(place)) for place, name in enumerate(names)
             for seed in range(3)]  # fmt: skip
    lines += [line("reference", "their <task>/../$_", seed, score=-1.0, kl=0.0) for seed in range(3)]
    markdown, page = write_report(tmp_path, lines)
    shown = Page(page)
    assert_inert(shown)
    assert "<i>mine</i>" in shown.text
    assert "their <task>/../$_" in shown.text
    assert r"| a\|b\`c |" in markdown.read_text()
    assert {path.parent.name for path in tmp_path.rglob("*.png")} == {"figures"}


def in_short(markdown):
    return markdown.read_text().split("## In short")[1].split("## Which should I use")[0]


def test_one_seed_names_no_winner(tmp_path):
    lines = [entry for entry in study() if entry["seed"] == 0]
    said = in_short(write_report(tmp_path, lines)[0])
    assert "- sentiment: mean objective 0.200 to 0.700 (the untouched model: 0.000); 1 seed cannot tell which" in said
    assert "- exact: share of the optimum 0.450 to 0.900 (the untouched model: 0.000); 1 seed cannot tell which" in said
    assert "highest" not in said
    assert "together" not in said


def test_the_exact_value_names_the_winner(tmp_path):
    lines = [line("dqn", "exact", seed, objective=0.9, normalized=0.5) for seed in range(3)]
    lines += [line("ppo", "exact", seed, objective=0.8, normalized=0.9) for seed in range(3)]
    markdown, _ = write_report(tmp_path, lines)
    assert "- exact: ppo has the highest share of the optimum, 0.900 ± 0.000." in in_short(markdown)
    assert "the highest mean normalized first" in markdown.read_text()
    table = markdown.read_text().split("## Task: exact")[1]
    assert table.index("| ppo |") < table.index("| dqn |")


def test_a_partial_report_says_so_on_top_and_compares_nothing_over_tasks(tmp_path):
    names, tasks = ("reference", "ppo", "dqn"), ("exact", "story")
    plan = Plan(tuple(Pairing(name, task, 1_000) for name in names for task in tasks), seeds=3)
    (tmp_path / PLAN).write_text(plan.to_yaml())
    levels = {"reference": 0.0, "ppo": 1.0, "dqn": 0.5}
    lines = [
        line(cell.algorithm, cell.task, cell.seed, key=cell.key, objective=levels[cell.algorithm])
        for cell in plan.cells
    ]
    shown = write_report(tmp_path, lines[:11])[0]
    assert in_short(shown).strip().startswith("- 11 of 18 runs: what follows is of these alone")
    assert "together:" not in in_short(shown)
    assert "Only 11 of 18 runs have a result." in shown.read_text()
    assert "interquartile" not in shown.read_text()
    shown = write_report(tmp_path, lines)[0]
    assert "runs:" not in in_short(shown)
    assert "All 2 tasks together: ppo has the highest interquartile mean of the normalised scores, 1.000" in in_short(
        shown
    )
    assert "which is the best of the same runs and no goal from outside" in shown.read_text()


def test_the_report_says_which_prompts_were_answered(tmp_path):
    lines = [line(seed=seed, split="heldout") for seed in range(3)]
    lines += [line(task="exact", seed=seed, split="train") for seed in range(3)]
    text = write_report(tmp_path, lines)[0].read_text()
    assert "Results on held-out prompts, the highest mean objective first." in text
    assert "Results on training prompts, the highest mean objective first." in text
    assert (
        "| exact | six tokens and five steps: the optimum is known by enumeration | training prompts | 0.05 |" in text
    )


def test_only_failures(tmp_path):
    markdown, page = write_report(tmp_path, [failed(seed=seed, error=f"ConfigError: no. {seed}") for seed in range(2)])
    text = markdown.read_text()
    assert "0 finished, 2 failed, of 2" in text
    assert "No run finished." in text
    assert "ConfigError: no. 1" in text
    assert_inert(Page(page))


def test_no_two_algorithms_look_the_same_and_each_keeps_its_look():
    names = ["reference", *(f"algorithm {number}" for number in range(21))]
    looks = figures.styles(names)
    assert len({(look.color, str(look.line)) for look in looks.values()}) == 22
    assert len({(look.color, look.marker) for look in looks.values()}) == 22
    assert figures.styles(names[1:])["algorithm 3"] == looks["algorithm 3"]
    for color in {look.color for look in looks.values()}:
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
                  for value in (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))]  # fmt: skip
        # Contrast with white, WCAG 2.1; graphics need 3.
        assert 1.05 / (np.dot(linear, (0.2126, 0.7152, 0.0722)) + 0.05) >= 3


def test_without_matplotlib_the_error_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'textrl-env\[plots\]'"):
        write_report(tmp_path, [line()])


def test_figures_are_pngs_and_leave_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    summary = summarize(study())
    looks = figures.styles(summary.labels)
    table = summary.tasks[0]
    of_task = [draw(table, looks) for draw in (figures.frontier, figures.learning_curves)]
    of_all = [draw(summary.comparison, looks) for draw in (figures.iqm_intervals, figures.performance_profiles)]
    for png in of_task + of_all:
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG")
        assert width > 600
        assert height > 150
    assert dict(matplotlib.rcParams) == before
    assert figures.learning_curves(summarize([line(curve=[])]).tasks[0], looks) is None


def test_a_curve_is_drawn_whether_or_not_the_kl_of_its_points_is_known(tmp_path):
    """An algorithm that learns values has no policy whose KL it could tell while it trains."""
    known = [line("ppo", seed=seed) for seed in range(2)]
    curve = [{**point, "kl": None} for point in known[0]["curve"]]
    unknown = [known[0], {**known[1], "curve": curve}]
    drawn = [figures.learning_curves(summarize(lines).tasks[0], figures.styles(["ppo"])) for lines in (known, unknown)]
    assert drawn[0] == drawn[1]
    other = figures.learning_curves(summarize([line(score=7.0)]).tasks[0], figures.styles(["ppo"]))
    assert other != drawn[0]  # what is compared is not the same for every curve
    markdown, _ = write_report(tmp_path, [line(curve=curve)])
    assert "curves-1-sentiment.png" in markdown.read_text()
    assert "| ppo | 1 | 0.800 | 1.000 | 0.500 | 4.00 |" in markdown.read_text()  # the held-out KL
