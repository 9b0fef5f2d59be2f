// What all forms share: consent before anything is sent, one sending at a time, clear problems.

import { $, $$, el } from "./dom.js";

/** Carry out `work` when a form is sent and its consent is given; `work` returns when all is done. */
export function onSend(form, work) {
  const consent = $(".consent input", form);
  consent?.addEventListener("change", () => asked(form, false));
  $$("[required]", form).forEach((field) =>
    field.addEventListener("input", () => field.removeAttribute("aria-invalid")),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (waits($("[data-submit]", form))) return;
    tell(form, null);
    const missing = $$("[required]", form).find((field) => !field.value.trim());
    if (missing) return demand(form, missing);
    if (consent && !consent.checked) {
      asked(form, true);
      consent.focus();
      return;
    }
    await busily(form, work);
  });
}

/** Take a consent back: it was given for other photographs. */
export function consentAnew(form) {
  const consent = $(".consent input", form);
  if (consent) consent.checked = false;
}

/** Show what went wrong in a form, or null that nothing did. */
export function tell(form, error) {
  show($("[data-problem]", form), error);
}

/** Show what went wrong at a place of its own. */
export function show(place, error) {
  place.replaceChildren(...(error ? [error.message] : []));
  if (error?.number) place.append(el("small", {}, `Request ${error.number}`));
}

/** Whether what a button does is being done. */
export function waits(button) {
  return button.getAttribute("aria-disabled") === "true";
}

async function busily(form, work) {
  const button = $("[data-submit]", form);
  button.setAttribute("aria-disabled", "true"); // `disabled` would take the focus away
  form.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError") tell(form, error);
  } finally {
    button.removeAttribute("aria-disabled");
    form.removeAttribute("aria-busy");
  }
}

function demand(form, field) {
  field.setAttribute("aria-invalid", "true");
  const name = $(`label[for="${field.id}"]`, form).firstChild.textContent.trim();
  tell(form, new Error(`“${name}” is empty: a record of consent needs it.`));
  field.focus();
}

function asked(form, missing) {
  const place = $("[data-consent-error]", form);
  $(".consent input", form).setAttribute("aria-invalid", String(missing));
  place.hidden = !missing;
  place.textContent = missing ? "Nothing was sent: please confirm this first." : "";
}

/** Keep the number beside each slider of a form. */
export function sliders(form, words = {}) {
  for (const slider of $$("input[type=range]", form)) {
    const told = $(`output[for="${slider.id}"]`, form);
    const say = () => (told.value = (words[slider.name] ?? String)(slider.value));
    slider.addEventListener("input", say);
    say();
  }
}

/** Offer the sizes that a model draws. */
export function sizes(select, offered) {
  const [width, height] = offered.sides_px;
  const most = offered.max_side_px;
  const shapes = [[1, 1], [3, 4], [4, 3]];
  const multiple = offered.multiple_px;
  const fits = (side) => side % multiple === 0 && side <= most;
  const all = [64, 128, 256, 512, 768, 1024].flatMap((side) =>
    shapes.map(([w, h]) => [(side * w) / Math.max(w, h), (side * h) / Math.max(w, h)]),
  );
  const others = all.filter(([w, h]) => fits(w) && fits(h) && (w !== width || h !== height));
  select.replaceChildren(el("option", { value: "auto" }, `${width} × ${height}`));
  if (offered.fixed_size) return;
  select.append(...others.map(([w, h]) => el("option", { value: `${w}x${h}` }, `${w} × ${h}`)));
}

/** Hide what a model cannot be asked for. */
export function fitTo(form, offered) {
  $$("[data-text]", form).forEach((field) => (field.hidden = !offered.takes_text));
  $$("[data-no-text]", form).forEach((hint) => (hint.hidden = offered.takes_text));
  $$("[data-identity], [data-person]", form).forEach((f) => (f.hidden = !offered.takes_identity));
}

/** Collect the fields that a form shows and that are not empty. */
export function fieldsOf(form, names) {
  const body = new FormData();
  for (const name of names) {
    const field = form.elements[name];
    if (field.value.trim() && !field.closest("[hidden]")) body.append(name, field.value.trim());
  }
  return body;
}
