/** Small helpers around the document. Text only ever enters it as text, never as markup. */

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. `properties` are set on it; keys that start with "aria-" or "data-", and "role", as attributes.
 * @param {string} tag
 * @param {Record<string, unknown>} properties
 * @param {...(Node | string | null)} children
 */
export function create(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$)/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Sets text only where it differs, so that screen readers do not read it again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Has a screen reader say this. */
export function announce(text) {
  byId("announcer").textContent = text;
}

let hiding = 0;

/** Shows a short message at the foot of the page for a moment. */
export function toast(text) {
  const element = byId("toast");
  element.textContent = text;
  element.classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => element.classList.remove("shown"), 2600);
}

/** Copies to the clipboard, also where the page came over plain HTTP and browsers hide their clipboard API. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
    return;
  } catch {
    // Not allowed here, or no such API: the old way is left.
  }
  const field = create("textarea", { value: text, className: "hidden", readOnly: true });
  const before = document.activeElement;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus();
  toast(done ? `${what} copied` : "This browser does not let the page copy");
}

/** Calls `run` once, when `wait` milliseconds have passed since the last call. */
export function debounce(run, wait) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(run, wait, ...values);
  };
}

/** Milliseconds or seconds, as a person says it. */
export function duration(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

/** "1 picture", "2 pictures". */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
