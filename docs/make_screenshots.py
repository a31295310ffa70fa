# ruff: noqa: T201 (a script: printing is what it does)
"""Makes the pictures in docs/images/ from a running instance.

    make run                                      # in another shell; prints the demo password
    .venv/bin/python docs/make_screenshots.py --password PASSWORD

It logs in as the operator and needs Chromium (``CHROMIUM`` names another one than /usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

IMAGES = Path(__file__).resolve().parent / "images"
SHOTS = (
    # file, path ("swarm": the first running one), width, height, dark
    ("console.png", "/", 1280, 960, False),
    ("console-dark.png", "/", 1280, 960, True),
    ("console-phone.png", "/", 390, 844, False),
    ("swarm.png", "swarm", 1280, 960, False),
    ("swarm-dark.png", "swarm", 1280, 960, True),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where it runs (default: %(default)s)")
    parser.add_argument("--user", default="operator", help="who logs in (default: %(default)s)")
    parser.add_argument("--password", required=True)
    parser.add_argument("--output", type=Path, default=IMAGES, help="folder for the pictures (default: docs/images)")
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(chromium).exists():
        print(f"There is no Chromium at {chromium}: install it, or name one in CHROMIUM.", file=sys.stderr)
        return 2
    from playwright.sync_api import Error, sync_playwright

    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for file, path, width, height, dark in SHOTS:
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if dark else "light",
                    device_scale_factor=2 if width < 500 else 1,
                )
                page = context.new_page()
                page.goto(f"{options.url}/login/")
                page.fill("[name=username]", options.user)
                page.fill("[name=password]", options.password)
                page.click("button:has-text('Log in')")
                page.wait_for_url(f"{options.url}/")
                if path == "swarm":
                    page.click("#part-running a.sd-run-name")
                elif path != "/":
                    page.goto(options.url + path)
                page.wait_for_selector('#live[data-state="live"]', state="attached")
                page.wait_for_timeout(400)  # bars move into their places
                page.screenshot(path=options.output / file)
                print(options.output / file)
                context.close()
            browser.close()
    except Error as error:
        print(f"No pictures: {error.message.splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
