// Photographs, dropped or picked; and whom a picture is to show: photographs, or someone enrolled.

import { el } from "./dom.js";

const TYPES = ["image/jpeg", "image/png", "image/webp"];
const limits = { bytes: 20 * 2 ** 20, photos: 8 };

/** Set what the server takes. */
export function limit(bytes, photos) {
  Object.assign(limits, { bytes, photos });
}

/** A place for photographs. */
export class Photos {
  files = [];
  #urls = new Map();

  /** Build it within `holder`; `single` holds one at most, `changed` is called when they change. */
  constructor(holder, { id, label, hint = "", single = false, changed = () => {} }) {
    this.#single = single;
    this.#changed = changed;
    this.#input = el("input", {
      type: "file", id, accept: TYPES.join(","), multiple: !single, class: "visually-hidden",
      "aria-describedby": `${id}-problem`, "aria-label": label,
      on: { change: () => this.#add([...this.#input.files]) },
    });
    const words = single ? "Drop it here or " : "Drop photographs here or ";
    this.#drop = el("label", {
      for: id, class: "drop",
      on: {
        dragover: (e) => (e.preventDefault(), this.#drop.classList.add("over")),
        dragleave: () => this.#drop.classList.remove("over"),
        drop: (e) => this.#dropped(e),
      },
    }, el("span", {}, words, el("b", {}, "choose")), el("span", { class: "hint" }, "JPEG, PNG or WebP"));
    this.#thumbs = el("ul", { class: "thumbs", "aria-label": `${label}: chosen` });
    this.#problem = el("p", { class: "problem", role: "alert", id: `${id}-problem` });
    holder.classList.add("field");
    holder.classList.toggle("single", single);
    holder.append(
      el("span", { class: "label", "aria-hidden": "true" }, label),
      this.#input, this.#drop, this.#thumbs, this.#problem,
      ...(hint ? [el("p", { class: "hint" }, hint)] : []),
    );
    this.#holder = holder;
  }

  #single; #changed; #input; #drop; #thumbs; #problem; #holder;

  /** Let go of all. */
  clear() {
    this.files = [];
    this.#draw();
  }

  #dropped(event) {
    event.preventDefault();
    this.#drop.classList.remove("over");
    this.#add([...event.dataTransfer.files]);
  }

  #add(files) {
    this.#input.value = ""; // so that the same file can be picked again
    const wrong = files.find((file) => !TYPES.includes(file.type) || file.size > limits.bytes);
    const good = files.filter((file) => TYPES.includes(file.type) && file.size <= limits.bytes);
    const most = this.#single ? 1 : limits.photos;
    const all = this.#single ? good.slice(0, 1) : [...this.files, ...good];
    this.#problem.textContent = "";
    if (wrong) this.#problem.textContent = this.#why(wrong);
    else if (all.length > most) this.#problem.textContent = `${most} photographs at most; the first were kept.`;
    if (!good.length) return;
    this.files = all.slice(0, most);
    this.#draw();
  }

  #why(file) {
    if (!TYPES.includes(file.type)) return `${file.name} is no JPEG, PNG or WebP.`;
    return `${file.name} is larger than the ${Math.floor(limits.bytes / 2 ** 20)} MiB that the server takes.`;
  }

  #draw() {
    for (const [file, url] of this.#urls) {
      if (this.files.includes(file)) continue;
      URL.revokeObjectURL(url);
      this.#urls.delete(file);
    }
    this.#thumbs.replaceChildren(...this.files.map((file) => this.#thumb(file)));
    this.#holder.classList.toggle("full", this.files.length > 0);
    this.#changed();
  }

  #thumb(file) {
    if (!this.#urls.has(file)) this.#urls.set(file, URL.createObjectURL(file));
    const remove = () => {
      this.files = this.files.filter((other) => other !== file);
      this.#draw();
      this.#input.focus();
    };
    return el("li", {},
      el("img", { src: this.#urls.get(file), alt: file.name }),
      el("button", { type: "button", "aria-label": `Remove ${file.name}`, on: { click: remove } }, "×"),
    );
  }
}

/** Whose face is to be drawn. */
export class Whom {
  /** Build it within `holder`. */
  constructor(holder, name, changed) {
    this.#holder = el("div", {});
    this.photos = new Photos(this.#holder, { id: `${name}-photos`, label: "Whose face", changed });
    this.#select = el("select", { id: `${name}-person`, on: { change: () => this.#chosen(changed) } });
    this.#label = el("label", { for: `${name}-person` });
    this.#field = el("div", { class: "field", hidden: true }, this.#label, this.#select);
    holder.classList.add("field");
    holder.append(this.#holder, this.#field);
    document.addEventListener("people", ({ detail }) => this.#offer(detail));
  }

  #holder; #select; #label; #field;

  /** Add whom to a form that is sent; whether there is anybody. */
  addTo(body) {
    if (this.#select.value) body.append("identity", this.#select.value);
    else for (const file of this.photos.files) body.append("identity", file);
    return body.has("identity");
  }

  #offer(people) {
    const held = this.#select.value;
    const active = people.filter((person) => person.status === "active");
    this.#select.replaceChildren(
      el("option", { value: "" }, "Nobody of them"),
      ...active.map((p) => el("option", { value: p.id }, p.consent.subject_name || p.id)),
    );
    this.#select.value = active.some((person) => person.id === held) ? held : "";
    this.#field.hidden = !active.length;
    this.#show();
  }

  #chosen(changed) {
    this.#show();
    changed();
  }

  #show() {
    const someone = this.#select.value !== "";
    this.#holder.hidden = someone;
    this.#label.textContent = someone ? "Whose face" : "Or someone enrolled";
  }
}
