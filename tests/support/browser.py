"""A real browser, Debian's Chromium without a window, and what it makes of a page."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Loads a page in frames of several widths, as wide as a phone and as a desk, and looks at it from outside.
_PROBE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0"><pre id="result">waiting</pre>
<script>
const found = [], widths = WIDTHS, frames = [];
function inside(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const report = {width: view.innerWidth, content: root.scrollWidth, errors: frame.errors, outside: [], overlaps: []};
  report.requests = view.performance.getEntriesByType("resource").map(entry => entry.name)
    .filter(name => !name.startsWith("data:"));
  report.background = view.getComputedStyle(page.body).backgroundColor;
  report.ink = view.getComputedStyle([...page.querySelectorAll("svg text")].pop()).fill;
  report.broken = [...page.querySelectorAll("a[href^='#']")].map(a => a.getAttribute("href"))
    .filter(href => !page.querySelector(href));
  report.links = page.querySelectorAll("nav a").length;
  report.texts = [];
  for (const svg of page.querySelectorAll("svg")) {
    const frame_box = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim()).map(text => {
      report.texts.push(parseFloat(view.getComputedStyle(text).fontSize) * frame_box.width / svg.viewBox.baseVal.width);
      return [text.textContent.trim(), text.getBoundingClientRect()];
    });
    boxes.forEach(([name, box], i) => {
      if (box.left < frame_box.left - 1 || box.right > frame_box.right + 1 || box.top < frame_box.top - 1 ||
          box.bottom > frame_box.bottom + 1) report.outside.push(name);
      for (const [other, place] of boxes.slice(i + 1)) {
        const wide = Math.min(box.right, place.right) - Math.max(box.left, place.left);
        const high = Math.min(box.bottom, place.bottom) - Math.max(box.top, place.top);
        if (wide > 1 && high > 0.35 * Math.min(box.height, place.height)) report.overlaps.push(name + " / " + other);
      }
    });
  }
  view.getSelection().selectAllChildren(page.body);
  report.selected = view.getSelection().toString();
  const link = page.querySelectorAll("nav a")[2];
  link.click();
  report.followed = view.location.hash;
  return report;
}
let left = widths.length;
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.errors = [];
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    found.push(inside(frame));
    if (--left === 0) document.getElementById("result").textContent = JSON.stringify(found);
  };
  frame.src = "PAGE";
  document.body.append(frame);
  frame.contentWindow.addEventListener("error", event => frame.errors.push(String(event.message)));
}
</script>"""


def browser():
    """The browser's program; skips where there is none."""
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    pytest.skip(f"there is no browser ({', '.join(NAMES)}): apt-get install chromium")


def _run(folder, *options):
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
        "--timeout=60000",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def look_at(page, folder, widths=(390, 1200), dark=False):
    """Open a page in frames of these widths: sizes, errors, requests, overlapping texts, what can be selected."""
    probe = folder / "probe.html"
    probe.write_text(_PROBE.replace("WIDTHS", json.dumps(widths)).replace("PAGE", page.resolve().as_uri()))
    options = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = _run(folder, *options, "--dump-dom", "--virtual-time-budget=20000", probe.as_uri())
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result is not None, done.stdout[-2000:] + done.stderr[-2000:]
    assert result[1] != "waiting", done.stderr[-3000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return sorted(json.loads(unescape(result[1])), key=lambda view: view["width"]), console


def picture_of(page, folder, width, height, dark=False):
    """Take a picture of a page."""
    target = folder / f"{page.stem}-{width}{'-dark' if dark else ''}.png"
    options = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _run(folder, *options, f"--window-size={width},{height}", f"--screenshot={target}", page.resolve().as_uri())
    return target
