// People: enrolled with their consent, listed, renewed, forgotten.

import { ask, send } from "./api.js";
import { $, $$, day, el, endOf, inDays } from "./dom.js";
import { consentAnew, onSend, show, tell } from "./forms.js";
import { Photos } from "./photos.js";

const PAGE = 50;
const held = { people: [], after: "" };

/** Make the tab work; returns what is to be called when people can be asked for. */
export function people() {
  enrolling($("#enrol-form"));
  for (const dialog of [$("#renew"), $("#forget")]) {
    $("[data-close]", dialog).addEventListener("click", () => dialog.close());
  }
  onSend($("#renew-form"), renew);
  onSend($("#forget-form"), forget);
  $("#people-more").addEventListener("click", () => load(held.after));
  return () => load("");
}

function enrolling(form) {
  const holder = $("[data-photos=enrol-photos]", form);
  const { label, hint } = holder.dataset;
  const changed = () => consentAnew(form);
  const photos = new Photos(holder, { id: "enrol-photos", label, hint, changed });
  const until = form.elements.until;
  [until.min, until.value] = [inDays(0), inDays(365)];
  onSend(form, async () => {
    if (!photos.files.length) throw new Error("Choose at least one photograph first.");
    const body = new FormData();
    for (const file of photos.files) body.append("photos", file);
    body.append("consent", JSON.stringify(consentIn(form)));
    const person = await ask("v1/people", { method: "POST", form: body });
    form.reset();
    photos.clear();
    until.value = inDays(365);
    say(`${nameOf(person)} is enrolled.`);
    await load("");
  });
}

function consentIn(form) {
  const { purpose, evidence, until, subject_name: name } = form.elements;
  const consent = { purpose: purpose.value.trim(), evidence: evidence.value.trim(), until: endOf(until.value) };
  return name?.value.trim() ? { ...consent, subject_name: name.value.trim() } : consent;
}

async function load(after) {
  try {
    const page = await ask(`v1/people?limit=${PAGE}${after ? `&after=${after}` : ""}`);
    held.people = after ? [...held.people, ...page.data] : page.data;
    held.after = page.has_more ? page.last_id : "";
    show($("#people-problem"), null);
    offer("");
  } catch (error) {
    [held.people, held.after] = [[], ""];
    // A key that may not is no fault.
    offer(error.code === "out_of_scope" ? error.message : "");
    show($("#people-problem"), error);
  }
  $("#people-list").replaceChildren(...held.people.map(card));
  $("#people-more").hidden = !held.after;
  $("#people-empty").hidden = held.people.length > 0 || $("#people-problem").textContent !== "";
  document.dispatchEvent(new CustomEvent("people", { detail: held.people }));
}

function offer(why) {
  const panel = $("#people");
  $("[data-offered]", panel).hidden = Boolean(why);
  $("[data-absent]", panel).hidden = !why;
  $("[data-absent]", panel).textContent = why;
}

function card(person) {
  const { consent } = person;
  const active = person.status === "active";
  const facts = {
    "What for": consent.purpose,
    Proof: consent.evidence,
    Consent: `${day(consent.granted_at)} to ${day(consent.until)}`,
    Photographs: `${person.photos} measured, ${person.crops ? "their aligned faces kept" : "none kept"}`,
    Liveness: person.liveness === "passed" ? "checked" : "not checked here",
    Id: person.id,
  };
  const button = (words, work) => el("button", {
    type: "button", class: "quiet small", "aria-label": `${words} ${nameOf(person)}`,
    on: { click: () => work(person) },
  }, words);
  return el("li", { data: { person: person.id } },
    el("div", { class: "row" }, el("h3", {}, nameOf(person)),
      el("span", { class: "pill", data: { state: person.status } }, active ? "Active" : "Consent ended")),
    el("dl", {}, ...Object.entries(facts).flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)])),
    el("div", { class: "actions" }, button("Renew", askRenew), button("Forget", askForget)),
  );
}

function askRenew(person) {
  const form = $("#renew-form");
  tell(form, null);
  form.dataset.person = person.id;
  $("#renew-title").textContent = `Renew the consent of ${nameOf(person)}`;
  form.elements.purpose.value = person.consent.purpose;
  form.elements.evidence.value = "";
  [form.elements.until.min, form.elements.until.value] = [inDays(0), inDays(365)];
  $$("[aria-invalid]", form).forEach((field) => field.removeAttribute("aria-invalid"));
  $("#renew").showModal();
}

async function renew() {
  const form = $("#renew-form");
  const before = held.people.find((person) => person.id === form.dataset.person);
  // The record is a whole one: a name that is not sent again would be lost.
  const name = before?.consent.subject_name;
  const consent = { ...consentIn(form), ...(name ? { subject_name: name } : {}) };
  const person = await ask(`v1/people/${form.dataset.person}`, { method: "PATCH", json: { consent } });
  $("#renew").close();
  say(`The consent of ${nameOf(person)} is renewed.`);
  await load("");
  $(`[data-person=${person.id}] button`)?.focus();
}

function askForget(person) {
  const form = $("#forget-form");
  tell(form, null);
  form.dataset.person = person.id;
  $("#forget-whom").textContent = `Everything of ${nameOf(person)} is removed: vectors, jobs and results. Only an entry that it was done remains. This cannot be undone.`;
  $("#forget").showModal();
}

async function forget() {
  await send(`v1/people/${$("#forget-form").dataset.person}`, { method: "DELETE" });
  $("#forget").close();
  say("The person is forgotten.");
  await load("");
  $("#people").focus();
}

function nameOf(person) {
  return person.consent.subject_name || `Person ${person.id.slice(-6)}`;
}

function say(words) {
  $("#people-status").textContent = words;
}
