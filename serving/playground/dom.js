// Small things that every part of the page needs; text is always set as text, never as markup.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Make an element; `on` holds listeners, `data` its dataset, everything else is an attribute. */
export function el(tag, { on = {}, data = {}, ...attributes } = {}, ...children) {
  return filled(document.createElement(tag), on, data, attributes, children);
}

/** Make an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return filled(made, {}, {}, attributes, children);
}

function filled(made, on, data, attributes, children) {
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Turn base64 into a file of the browser's. */
export function blobOf(base64, type) {
  return new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type });
}

/** Say a moment as people here write it. */
export function day(moment) {
  return new Date(moment).toLocaleDateString(undefined, { dateStyle: "medium" });
}

/** The RFC 3339 end of a day, as a date field gives it. */
export function endOf(value) {
  return new Date(`${value}T23:59:59`).toISOString();
}

/** A date field's value, some days from now. */
export function inDays(days) {
  const then = new Date(Date.now() + days * 86400e3);
  const two = (number) => String(number).padStart(2, "0");
  return `${then.getFullYear()}-${two(then.getMonth() + 1)}-${two(then.getDate())}`;
}
