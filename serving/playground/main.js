// The page as a whole: tabs, the key, and what this deployment offers.

import { ask, key } from "./api.js";
import { $, $$ } from "./dom.js";
import { faces } from "./faces.js";
import { images } from "./images.js";
import { people } from "./people.js";
import { limit } from "./photos.js";
import { videos } from "./videos.js";

const tabs = $$("[role=tab]");
const ready = { images: images(), videos: videos(), people: people() };

function open(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    $(`#${one.getAttribute("aria-controls")}`).hidden = !chosen;
  }
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  document.dispatchEvent(new CustomEvent("tab"));
}

function moved(event) {
  const at = tabs.indexOf(event.currentTarget);
  const steps = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const next = tabs.at(steps[event.key] % tabs.length);
  open(next);
  next.focus();
}

/** Ask what is offered, and say calmly what is not. */
async function load() {
  const served = $("#served");
  try {
    const offered = await ask("playground/offered.json");
    limit(offered.max_body_bytes, offered.max_photos);
    for (const name of ["images", "videos"]) offer(name, offered[name]);
    served.textContent = offered.images.offered ? `Serving ${offered.images.model}` : "Serving faces";
  } catch (error) {
    served.textContent = error.message;
    if (["missing_key", "wrong_key", "revoked_key", "unreachable"].includes(error.code)) return;
  }
  await ready.people();
}

function offer(name, what) {
  const panel = $(`#${name}`);
  $("[data-offered]", panel).hidden = !what.offered;
  const notice = $("[data-absent]", panel);
  notice.hidden = what.offered;
  notice.textContent = what.offered ? "" : what.why;
  if (what.offered) ready[name](what);
}

for (const tab of tabs) {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", moved);
}
open(tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0]);
faces();

const panel = $("#key");
$("#key-field").value = key.get();
$("#key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set($("#key-field").value.trim());
  panel.open = false;
  $("summary", panel).focus();
  load();
});
panel.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  panel.open = false;
  $("summary", panel).focus();
});
document.addEventListener("click", (event) => {
  if (!panel.contains(event.target)) panel.open = false;
});
document.addEventListener("key-wanted", () => {
  if (panel.open) return;
  panel.open = true;
  $("#key-field").focus();
});
// A file that misses its place must not take the page's.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());

await load();
