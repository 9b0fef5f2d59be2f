// What a picture's content credential and mark prove, as the server itself reads them.

import { ask } from "./api.js";
import { el, svg } from "./dom.js";

const WORDS = {
  made_here: "Credential holds",
  mark_only: "Mark, no credential",
  altered: "Altered since",
  watermark_scrubbed: "Mark is missing",
  credential_forged: "Forged credential",
  other_signer: "Unknown signer",
  nothing_found: "No credential",
};
const SHIELD = "M12 3l7 3v5c0 5-3 8-7 10-4-2-7-5-7-10V6z";

/** Ask where a picture is from, and return the badge that will tell. */
export function badge(picture) {
  const icon = svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: SHIELD }));
  const words = el("span", {}, "Reading its credential…");
  const held = el("div", {});
  const made = el("details", { class: "badge", data: { verdict: "asked" } },
    el("summary", {}, icon, words), held);
  read(picture).then(
    (found) => {
      made.dataset.verdict = found.verdict;
      words.textContent = WORDS[found.verdict] ?? found.verdict;
      if (found.verdict === "made_here") icon.append(svg("path", { d: "M9 12l2 2 4-4" }));
      held.replaceChildren(el("p", {}, found.sentence), facts(found));
    },
    (error) => {
      made.dataset.verdict = "unread";
      words.textContent = "Credential not read";
      held.replaceChildren(el("p", {}, error.message));
    },
  );
  return made;
}

async function read(picture) {
  const form = new FormData();
  form.append("image", picture, "picture");
  return ask("v1/provenance", { method: "POST", form });
}

function facts({ credential, watermark }) {
  const told = [
    ["Signed by", credential.signed_by],
    ["Model", credential.made?.model],
    ["Adapter", credential.made?.adapter],
    ["Request", credential.made?.request_id],
    ["Mark", watermark.found ? watermark.id : watermark.large_enough ? "none found" : "picture too small for one"],
  ].filter(([, value]) => value);
  return el("dl", {}, ...told.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
