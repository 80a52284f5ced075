/** A text or a picture, and what the server said about it. */

import { count, create } from "./dom.js";
import { length } from "./math.js";
import { base64, isAside, kindOf, thumbnail } from "./pictures.js";
import { RequestError } from "./server.js";
import { Turns } from "./turns.js";

const drawing = new Turns(2);
let made = 0;

class Item {
  id = `item-${(made += 1)}`;
  /** "new", "working", "ready" or "failed" */
  state = "new";
  vector = null;
  ms = 0;
  error = "";
  /** Whether the same request may well succeed later. */
  mayRecover = false;
  #abort = null;

  /** Euclidean length of its vector. */
  get length() {
    return length(this.vector);
  }

  /** Has it embedded and calls `changed` at every change of state; a call that is under way is given up. */
  async embed(server, changed) {
    this.stop();
    const abort = (this.#abort = new AbortController());
    this.state = "working";
    this.error = "";
    changed(this);
    try {
      const { vector, ms } = await this.send(server, abort.signal);
      if (abort.signal.aborted) return;
      Object.assign(this, { state: "ready", vector, ms });
    } catch (error) {
      if (abort.signal.aborted) return;
      const known = error instanceof RequestError;
      this.error = known ? error.message : `this went wrong: ${error.message}`;
      this.mayRecover = !known || error.mayRecover;
      Object.assign(this, { state: "failed", vector: null });
    }
    changed(this);
  }

  stop() {
    this.#abort?.abort();
    this.#abort = null;
  }
}

export class Text extends Item {
  kind = "text";

  constructor(text) {
    super();
    this.text = text;
  }

  get title() {
    return this.text;
  }

  send(server, signal) {
    return server.text(this.text, signal);
  }

  async body() {
    return JSON.stringify({ texts: [this.text] });
  }
}

export class Picture extends Item {
  kind = "picture";
  /** Address of a thumbnail; "" until there is one, null where the browser cannot show the file. */
  thumbnail = "";
  #shown = new AbortController();

  constructor(file) {
    super();
    this.file = file;
    this.kindOfFile = kindOf(file.name);
  }

  get title() {
    return this.file.name || "pasted picture";
  }

  /** Makes its thumbnail and calls `changed`; a few at a time, for a photo takes much memory meanwhile. */
  async show(changed) {
    try {
      this.thumbnail = await drawing.last(this.#shown.signal, () => thumbnail(this.file));
      changed(this);
    } catch (error) {
      if (!this.#shown.signal.aborted) throw error;
    }
  }

  send(server, signal) {
    return server.picture(() => base64(this.file), signal);
  }

  async body() {
    return JSON.stringify({ images: [await base64(this.file)] });
  }

  /** Its thumbnail in a frame. */
  frame(className = "frame") {
    const seen = this.thumbnail ? create("img", { src: this.thumbnail, alt: "" }) : null;
    return create("div", { className }, this.thumbnail === null ? this.kindOfFile : seen);
  }

  release() {
    this.stop();
    this.#shown.abort();
    if (this.thumbnail) URL.revokeObjectURL(this.thumbnail);
  }
}

/**
 * The command that gives this item's vector. A picture goes through standard input: as an argument it would be too
 * long for a shell. The token is not written down; the command takes it from $TOKEN.
 */
export async function curl(item, server) {
  const body = await item.body();
  const token = server.hasToken ? ` -H "Authorization: Bearer $TOKEN"` : "";
  const start = `curl '${server.address("vectorize")}'${token} -H 'Content-Type: application/json'`;
  if (item.kind === "text") return `${start} -d '${body.replaceAll("'", String.raw`'\''`)}'`;
  return `${start} -d @- <<'END'\n${body}\nEND\n`;
}

/** Shows what is wrong with an item in `element`, or hides that. */
export function showFault(element, item, again) {
  element.hidden = item.state !== "failed";
  if (element.hidden || element.dataset.message === item.error) return;
  element.dataset.message = item.error;
  element.replaceChildren(item.error);
  if (!item.mayRecover) return;
  const button = create("button", { type: "button" }, "Try again");
  button.addEventListener("click", again);
  element.append(button);
}

/** Takes as many as there is room for; says what was left out. */
export function fitting(files, room, limit) {
  const pictures = files.filter((file) => !isAside(file));
  const taken = pictures.slice(0, Math.max(room, 0));
  const left = pictures.length - taken.length;
  const aside = files.length - pictures.length;
  const notes = [
    left ? `${count(left, "picture")} left out: ${limit} at most` : "",
    aside ? `${count(aside, "file")} left out: a name that begins with “._” is of no picture` : "",
  ];
  return { taken, note: notes.filter(Boolean).join("; ") };
}
