// Pictures: asked for, watched while they are drawn, kept in this tab.

import { follow } from "./api.js";
import { badge } from "./badge.js";
import { $, blobOf, el } from "./dom.js";
import { consentAnew, fieldsOf, fitTo, onSend, sizes, sliders } from "./forms.js";
import { Whom } from "./photos.js";

const PREVIEWS = 3;
const FIELDS = ["prompt", "negative_prompt", "identity_scale", "start_step", "size", "n", "seed"];

/** Make the tab work; returns what is to be called with what is offered. */
export function images() {
  const form = $("#images-form");
  const whom = new Whom($("[data-person=images]"), "images", () => consentAnew(form));
  const stage = new Stage();
  sliders(form, { identity_scale: (value) => Number(value).toFixed(2) });
  onSend(form, () => draw(form, whom, stage));
  return (offered) => {
    fitTo(form, offered);
    sizes(form.elements.size, offered);
    form.elements.start_step.max = offered.steps;
    const many = Array.from({ length: offered.max_pictures }, (_, i) => el("option", {}, i + 1));
    form.elements.n.replaceChildren(...many);
  };
}

async function draw(form, whom, stage) {
  const body = fieldsOf(form, FIELDS);
  whom.addTo(body);
  body.append("stream", "true");
  body.append("partial_images", PREVIEWS);
  const prompt = body.get("prompt") ?? "";
  const signal = stage.begin();
  let drawn = 0;
  try {
    for await (const { type, data } of follow("v1/images/generations", { method: "POST", form: body, signal })) {
      const picture = blobOf(data.b64_json, `image/${data.output_format}`);
      if (type.endsWith(".partial_image")) stage.preview(picture, data.partial_image_index);
      else keep(picture, prompt, data, data.visage.seeds[drawn++], form);
    }
    stage.say(drawn === 1 ? "The picture is drawn." : `${drawn} pictures are drawn.`);
  } finally {
    if (signal.aborted) stage.say("The drawing was stopped.");
    stage.end();
  }
}

/** Where an unfinished picture is seen. */
class Stage {
  #place = $("#images-stage");
  #image = $("img", this.#place);
  #bar = $("progress", this.#place);
  #url = "";
  #abort = null;

  constructor() {
    $("[data-stop]", this.#place).addEventListener("click", () => this.#abort?.abort());
  }

  begin() {
    this.#abort = new AbortController();
    this.#bar.removeAttribute("value");
    this.#image.hidden = true;
    this.#place.hidden = false;
    $("#gallery-empty").hidden = true;
    this.say("Drawing.");
    this.#place.scrollIntoView({ block: "nearest" });
    return this.#abort.signal;
  }

  preview(picture, index) {
    URL.revokeObjectURL(this.#url);
    this.#image.src = this.#url = URL.createObjectURL(picture);
    this.#image.hidden = false;
    this.#bar.value = (100 * (index + 1)) / (PREVIEWS + 1);
    this.say(`Preview ${index + 1} of ${PREVIEWS}.`);
  }

  end() {
    URL.revokeObjectURL(this.#url);
    this.#place.hidden = true;
    $("#gallery-empty").hidden = $("#gallery").childElementCount > 0;
  }

  say(words) {
    $("#images-status").textContent = words;
  }
}

function keep(picture, prompt, data, seed, form) {
  const url = URL.createObjectURL(picture);
  const figure = el("figure", {});
  const again = () => {
    form.elements.seed.value = seed;
    form.elements.seed.focus();
  };
  const away = () => {
    URL.revokeObjectURL(url);
    figure.remove();
    $("#gallery-empty").hidden = $("#gallery").childElementCount > 0;
    $("#images").focus();
  };
  const { model, signed_by, drawing_s } = data.visage;
  const facts = [data.size.replace("x", " × "), `seed ${seed}`, `${drawing_s.toFixed(1)} s`, model];
  const test = "Signed by this server’s own test root, which nobody else believes.";
  const caption = el("figcaption", {},
    badge(picture),
    el("p", { class: "facts" }, facts.join(" · ")),
    signed_by === "test" ? el("p", { class: "hint" }, test) : null,
    el("div", { class: "actions" },
      el("a", { class: "quiet small", href: url, download: `visage-${seed}.${data.output_format}` }, "Save"),
      el("button", { type: "button", class: "quiet small", on: { click: again } }, "Use seed"),
      el("button", { type: "button", class: "quiet small", "aria-label": `Discard the picture of seed ${seed}`, on: { click: away } }, "Discard"),
    ),
  );
  const alt = prompt ? `Drawn from “${prompt}”, seed ${seed}` : `Drawn from a face, seed ${seed}`;
  figure.append(el("img", { src: url, alt }), caption);
  $("#gallery").prepend(figure);
}
