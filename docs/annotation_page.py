"""Makes annotation_page.png: the page with two responses of the embedded model, as an annotator sees it.

python docs/annotation_page.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).with_suffix(".png")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ANSWERED = 26  # questions before the one that is shown
QUESTIONS = ["--policy", "embedded", "--task", "sentiment", "--n", "100", "--threads", "1"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "votes.sqlite"
        command = [sys.executable, "-m", "textrl_agents", "feedback", "serve", str(store), "--port", "0", *QUESTIONS]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
            assert server.stdout is not None
            link = next(filter(None, (re.search(r"http://\S+token=\S+", line) for line in server.stdout)))[0]
            browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 960, "height": 620})
            page.goto(link)
            for _ in range(ANSWERED):
                page.wait_for_timeout(500)  # a key that comes sooner counts as a double click
                with page.expect_navigation():
                    page.keyboard.press("t")
            page.screenshot(path=PICTURE)
            browser.close()
            server.terminate()
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
