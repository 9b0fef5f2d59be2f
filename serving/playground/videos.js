// Video jobs: queued, watched while they are drawn, cancelled, played.

import { ask, send } from "./api.js";
import { $, day, el } from "./dom.js";
import { consentAnew, fieldsOf, fitTo, onSend, show, sizes, sliders, waits } from "./forms.js";
import { Whom } from "./photos.js";

const FIELDS = ["prompt", "negative_prompt", "identity_scale", "frames", "size", "seed"];
const STATES = {
  queued: "Waiting", in_progress: "Drawing", completed: "Done", failed: "Failed", cancelled: "Cancelled",
};
const ALIVE = ["queued", "in_progress"];
const LOOK_MS = 1000;
const LISTED = 50;

/** Make the tab work; returns what is to be called with what is offered. */
export function videos() {
  const form = $("#videos-form");
  const whom = new Whom($("[data-person=videos]"), "videos", () => consentAnew(form));
  const jobs = new Jobs();
  let fps = 8;
  const seconds = (frames) => `${(frames / fps).toFixed(1)} s`;
  sliders(form, { identity_scale: (value) => Number(value).toFixed(2), frames: seconds });
  onSend(form, async () => {
    const body = fieldsOf(form, FIELDS);
    whom.addTo(body);
    // Sent once, however often the connection breaks.
    const headers = { "idempotency-key": [...crypto.getRandomValues(new Uint32Array(4))].join("-") };
    await ask("v1/videos", { method: "POST", form: body, headers });
    await jobs.look();
  });
  return (offered) => {
    fps = offered.fps;
    fitTo(form, offered);
    sizes(form.elements.size, offered);
    form.elements.frames.max = offered.max_frames;
    form.elements.frames.value = offered.frames;
    form.elements.frames.dispatchEvent(new Event("input"));
    jobs.look();
  };
}

/** The list, looked at again as long as something in it goes on and somebody sees it. */
class Jobs {
  #views = new Map();
  #timer = 0;

  constructor() {
    document.addEventListener("visibilitychange", () => this.#again());
    document.addEventListener("tab", () => this.#again());
  }

  async look() {
    clearTimeout(this.#timer);
    try {
      const { data } = await ask(`v1/videos?limit=${LISTED}`);
      this.#draw(data);
      show($("#videos-problem"), null);
    } catch (error) {
      show($("#videos-problem"), error);
    }
    this.#again();
  }

  #again() {
    clearTimeout(this.#timer);
    const alive = [...this.#views.values()].some((view) => ALIVE.includes(view.state));
    const seen = !document.hidden && !$("#videos").hidden;
    if (alive && seen) this.#timer = setTimeout(() => this.look(), LOOK_MS);
  }

  #draw(found) {
    const ids = new Set(found.map((job) => job.id));
    for (const [id, view] of this.#views) {
      if (ids.has(id)) continue;
      view.away();
      this.#views.delete(id);
    }
    for (const job of [...found].reverse()) {
      if (!this.#views.has(job.id)) {
        const view = new View(() => this.look());
        this.#views.set(job.id, view);
        $("#jobs").prepend(view.item);
      }
      this.#views.get(job.id).show(job);
    }
    $("#jobs-empty").hidden = found.length > 0;
  }
}

/** One job. */
class View {
  state = "";
  #url = "";
  #look;

  constructor(look) {
    this.#look = look;
    this.title = el("h3", {});
    this.pill = el("span", { class: "pill" });
    this.bar = el("progress", { max: 100, "aria-label": "Drawn" });
    this.facts = el("p", { class: "facts" });
    this.screen = el("div", { hidden: true });
    this.problem = el("p", { class: "problem", role: "alert" });
    this.actions = el("div", { class: "actions" });
    this.item = el("li", { tabindex: "-1" }, el("div", { class: "row" }, this.title, this.pill), this.bar,
      this.screen, this.facts, this.problem, this.actions);
  }

  show(job) {
    if (job.status === "in_progress") this.#glimpse(job);
    const alive = ALIVE.includes(job.status);
    this.title.textContent = job.prompt || "A video without words";
    this.pill.textContent = job.status === "in_progress" ? `Drawing, ${job.progress} %` : STATES[job.status];
    this.pill.dataset.state = job.status;
    this.bar.hidden = !alive;
    this.bar.value = job.progress;
    const ends = job.expires_at && job.status === "completed" ? `kept until ${day(job.expires_at * 1000)}` : "";
    const facts = [job.size?.replace("x", " × "), job.seconds && `${job.seconds} s`, `seed ${job.seed}`, ends];
    this.facts.textContent = facts.filter(Boolean).join(" · ");
    if (job.status === this.state) return;
    if (!alive) this.#glimpsed("");
    if (this.state) $("#videos-status").textContent = `${this.title.textContent}: ${STATES[job.status]}.`;
    this.state = job.status;
    show(this.problem, job.error ? new Error(job.error.message) : null);
    this.actions.replaceChildren(...this.#buttons(job));
    this.actions.hidden = !this.actions.childElementCount;
  }

  away() {
    URL.revokeObjectURL(this.#url);
    this.#glimpsed("");
    this.item.remove();
  }

  /** How it looks by now, where the server shows it. */
  async #glimpse(job) {
    try {
      const answer = await send(`v1/videos/${job.id}/preview`);
      const url = URL.createObjectURL(await answer.blob());
      if (this.state === "in_progress") this.#glimpsed(url);
      else URL.revokeObjectURL(url);
    } catch {
      // There is none yet, or there are none here: the bar says enough.
    }
  }

  #glimpsed(url) {
    const old = $("img", this.screen);
    if (old) {
      URL.revokeObjectURL(old.src);
      old.remove();
    }
    if (url) this.screen.append(el("img", { src: url, alt: "How it looks by now" }));
    this.screen.hidden = !url;
  }

  #buttons(job) {
    const button = (words, work) => el("button", {
      type: "button", class: "quiet small", "aria-label": `${words}: ${this.title.textContent}`,
      on: { click: (event) => this.#carefully(event.currentTarget, work) },
    }, words);
    const remove = () => send(`v1/videos/${job.id}`, { method: "DELETE" });
    if (ALIVE.includes(job.status)) return [button("Cancel", remove)];
    if (job.status === "cancelled") return [];
    const play = button("Play", () => this.#play(job));
    return job.status === "completed" ? [play, button("Remove", remove)] : [button("Remove", remove)];
  }

  async #carefully(button, work) {
    if (waits(button)) return;
    button.setAttribute("aria-disabled", "true");
    try {
      show(this.problem, null);
      await work();
      await this.#look();
    } catch (error) {
      show(this.problem, error);
    } finally {
      button.removeAttribute("aria-disabled");
      if (document.activeElement === document.body) this.#refocus();
    }
  }

  /** Where the button that had the focus is gone, stay near. */
  #refocus() {
    const near = this.item.isConnected ? $("button, a", this.item) ?? this.item : $("#videos");
    near.focus();
  }

  /** Fetch it whole: a video element cannot send a key. */
  async #play(job) {
    if (!this.#url) {
      const answer = await send(`v1/videos/${job.id}/content`);
      this.#url = URL.createObjectURL(await answer.blob());
      const label = `Video: ${this.title.textContent}`;
      this.screen.append(el("video", { src: this.#url, controls: true, loop: true, playsinline: true, "aria-label": label }));
      const name = `${job.id}.mp4`;
      this.actions.append(el("a", { class: "quiet small", href: this.#url, download: name }, "Save"));
    }
    this.screen.hidden = false;
    const video = $("video", this.screen);
    video.currentTime = 0;
    // Where the browser forbids to begin by itself, its own button does.
    await video.play().catch(() => {});
  }
}
