// Faces: found in a photograph, and compared between two.

import { ask } from "./api.js";
import { $, el, svg } from "./dom.js";
import { consentAnew, onSend } from "./forms.js";
import { Photos } from "./photos.js";

/** Make the tab work. */
export function faces() {
  detecting($("#detect-form"), $("#detected"));
  verifying($("#verify-form"), $("#verified"));
}

function detecting(form, place) {
  const changed = () => (place.replaceChildren(), consentAnew(form));
  const photo = photoIn(form, "detect-photo", changed);
  let url = "";
  onSend(form, async () => {
    place.replaceChildren();
    const body = new FormData();
    body.append("image", one(photo, "a photograph"));
    const found = await ask("v1/faces/detect", { method: "POST", form: body });
    URL.revokeObjectURL(url);
    url = URL.createObjectURL(photo.files[0]);
    place.replaceChildren(...seen(found, url));
  });
}

function seen(found, url) {
  const many = found.faces.length;
  const words = many === 0 ? "No face was found" : many === 1 ? "One face" : `${many} faces`;
  const { width_px: width, height_px: height } = found;
  const view = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const unit = Math.max(width, height) / 100;
  found.faces.forEach((face, index) => view.append(...outline(face, index, unit)));
  const image = el("img", { src: url, alt: `The photograph, with ${words.toLowerCase()} marked` });
  return [
    el("h3", {}, words),
    el("figure", { class: "seen" }, image, view),
    el("ol", {}, ...found.faces.map((face) => el("li", {}, told(face)))),
    el("p", { class: "hint" }, `Looked for by ${found.detector}, in ${width} × ${height} pixels.`),
  ];
}

function outline(face, index, unit) {
  const [left, top, right, bottom] = face.box_px;
  const size = 3.4 * unit;
  const label = svg("text", {
    x: left, y: Math.max(top - unit, size), "font-size": size, "stroke-width": size / 6,
  }, index + 1);
  // Lines without length: their round ends are dots of one size, however large the photograph.
  const d = face.landmarks_px.map(([x, y]) => `M${x} ${y}h0`).join("");
  const dots = [svg("path", { class: "rim", d }), svg("path", { d })];
  const box = svg("rect", { x: left, y: top, width: right - left, height: bottom - top, rx: unit });
  return [box, ...dots, label];
}

function told(face) {
  const [left, top, right, bottom] = face.box_px.map(Math.round);
  const share = (100 * face.area_share).toFixed(1);
  return `${right - left} × ${bottom - top} pixels, ${share} % of the photograph, score ${face.score.toFixed(2)}`;
}

function verifying(form, place) {
  const changed = () => (place.replaceChildren(), consentAnew(form));
  const first = photoIn(form, "verify-a", changed);
  const second = photoIn(form, "verify-b", changed);
  onSend(form, async () => {
    place.replaceChildren();
    const body = new FormData();
    body.append("image_a", one(first, "the first photograph"));
    body.append("image_b", one(second, "the second photograph"));
    const found = await ask("v1/faces/verify", { method: "POST", form: body });
    place.replaceChildren(...verdict(found));
  });
}

function verdict({ distance, threshold, same_person: same, embedder, metric }) {
  const near = `Their distance is ${distance.toFixed(3)}; below ${threshold.toFixed(3)} two photographs show one person.`;
  return [
    el("h3", {}, same ? "The same person" : "Two different people"),
    el("div", { "aria-hidden": "true" },
      scale(distance, threshold, same),
      el("div", { class: "ends" }, ...["same", threshold.toFixed(2), "different"].map((word) => el("span", {}, word)))),
    el("p", {}, near),
    el("p", { class: "hint" }, `Measured by ${embedder}, as ${metric === "l2" ? "Euclidean" : "cosine"} distance. It can err: decide nothing of weight by it alone.`),
  ];
}

function scale(distance, threshold, same) {
  const [width, y, most] = [400, 22, 2 * threshold];
  const at = (value) => 6 + (width - 12) * Math.min(value / most, 1);
  return svg("svg", { viewBox: `0 0 ${width} ${2 * y}`, class: "scale" },
    svg("line", { class: "line", x1: 6, x2: width - 6, y1: y, y2: y }),
    svg("line", { class: "near", x1: 6, x2: at(threshold), y1: y, y2: y }),
    svg("line", { class: "tick", x1: at(threshold), x2: at(threshold), y1: y - 10, y2: y + 10 }),
    svg("circle", { class: same ? "at" : "at far", cx: at(distance), cy: y, r: 9 }),
  );
}

function photoIn(form, id, changed) {
  const holder = $(`[data-photo=${id}]`, form);
  return new Photos(holder, { id, label: holder.dataset.label, single: true, changed });
}

function one(photo, words) {
  if (!photo.files.length) throw new Error(`Choose ${words} first.`);
  return photo.files[0];
}
