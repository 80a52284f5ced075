/** Many pictures and one sentence: a search in miniature. */

import { announce, byId, count, create, debounce, duration, setText, toast } from "./dom.js";
import { shapeGallery } from "./examples.js";
import { Picture, Text, fitting, showFault } from "./items.js";
import { cosine } from "./math.js";

const MOST = 200;
const TYPING_MS = 250;
const MOVE_MS = 350;
const DRAWN_QUERY = "a pink cross";

export class Gallery {
  #server;
  #pictures = [];
  #tiles = new Map();
  /** What the pictures are ordered by: a Text, or one of the pictures; null is the order in which they came. */
  #query = null;
  #started = 0;
  /** What the line about the order was last written for. */
  #told = "";
  #draw = debounce(() => this.#refresh(), 15);

  constructor(server) {
    this.#server = server;
    for (const id of ["gallery-choose", "gallery-empty"]) {
      byId(id).addEventListener("click", () => byId("gallery-files").click());
    }
    byId("gallery-files").addEventListener("change", (event) => {
      this.add([...event.target.files]);
      event.target.value = "";
    });
    byId("gallery-clear").addEventListener("click", () => this.#clear());
    byId("gallery-examples").addEventListener("click", async () => {
      this.add(await shapeGallery());
      if (!byId("gallery-query").value) this.#search((byId("gallery-query").value = DRAWN_QUERY));
    });
    const typed = debounce((value) => this.#search(value), TYPING_MS);
    byId("gallery-query").addEventListener("input", (event) => typed(event.target.value));
    byId("gallery-form").addEventListener("submit", (event) => {
      event.preventDefault();
      typed(byId("gallery-query").value);
    });
    this.#refresh();
  }

  /** How many more there is room for. */
  get room() {
    return MOST - this.#pictures.length;
  }

  /** Adds pictures and has them embedded, one a request. */
  add(files) {
    const { taken, note } = fitting(files, this.room, MOST);
    if (note) toast(note);
    if (!this.#pictures.some((picture) => picture.state === "working")) this.#started = performance.now();
    const pictures = taken.map((file) => new Picture(file));
    this.#pictures.push(...pictures);
    for (const picture of pictures) {
      picture.show(this.#draw);
      this.#embed(picture);
    }
    this.#refresh();
  }

  #embed(picture) {
    picture.embed(this.#server, this.#draw);
  }

  #search(value) {
    const text = value.trim();
    if (this.#query?.kind === "text") {
      if (this.#query.text === text && this.#query.state !== "failed") return;
      this.#query.stop();
    }
    if (!text) {
      this.#query = null;
      this.#refresh();
      return;
    }
    this.#query = new Text(text);
    this.#query.embed(this.#server, this.#draw);
  }

  #likeThis(picture) {
    if (!picture.vector) return;
    if (this.#query?.kind === "text") this.#query.stop();
    this.#query = this.#query === picture ? null : picture;
    byId("gallery-query").value = "";
    this.#refresh();
    byId("gallery").scrollIntoView({ block: "nearest" });
  }

  #remove(picture) {
    const order = [...byId("gallery").children];
    const index = order.indexOf(this.#tiles.get(picture)?.element);
    this.#pictures.splice(this.#pictures.indexOf(picture), 1);
    this.#tiles.get(picture)?.element.remove();
    this.#tiles.delete(picture);
    picture.release();
    if (this.#query === picture) this.#query = null;
    this.#refresh();
    const neighbour = byId("gallery").children[Math.min(index, this.#pictures.length - 1)];
    (neighbour?.querySelector(".remove") ?? byId("gallery-choose")).focus();
  }

  #clear() {
    for (const picture of this.#pictures) picture.release();
    this.#pictures = [];
    this.#tiles.clear();
    if (this.#query?.kind === "picture") this.#query = null;
    this.#refresh();
    byId("gallery-choose").focus();
  }

  #tile(picture) {
    if (!this.#tiles.has(picture)) {
      const look = create("button", { className: "look", type: "button" });
      look.addEventListener("click", () => this.#likeThis(picture));
      const name = create("span", { title: picture.title }, picture.title);
      const score = create("span", { className: "score" });
      const rank = create("span", { className: "rank", "aria-hidden": "true" });
      const fault = create("div", { className: "fault", hidden: true });
      const remove = create("button", { className: "remove", type: "button", "aria-label": `Remove ${picture.title}` }, "×");
      remove.addEventListener("click", () => this.#remove(picture));
      look.append(picture.frame(), create("span", { className: "caption" }, name, score));
      const element = create("li", { className: "tile" }, look, rank, fault, remove);
      this.#tiles.set(picture, { element, look, score, rank, fault, shown: false });
    }
    return this.#tiles.get(picture);
  }

  #refresh() {
    const started = performance.now();
    const vector = this.#query?.vector ?? null;
    const scores = new Map(
      this.#pictures.map((picture) => [picture, vector && picture.vector ? cosine(vector, picture.vector) : NaN]),
    );
    const value = (picture) => (Number.isFinite(scores.get(picture)) ? scores.get(picture) : -2);
    const order = vector ? this.#pictures.toSorted((a, b) => value(b) - value(a)) : this.#pictures;
    const ordering = performance.now() - started;
    const top = order.find((picture) => picture !== this.#query);
    order.forEach((picture, i) => this.#fill(picture, scores.get(picture), i, picture === top && vector !== null));
    this.#move(order.map((picture) => this.#tile(picture).element));
    this.#tell();
    this.#tellOrder(order, vector, ordering);
  }

  #fill(picture, score, index, isTop) {
    const tile = this.#tile(picture);
    const known = Number.isFinite(score);
    tile.element.classList.toggle("working", picture.state === "working");
    tile.element.classList.toggle("failed", picture.state === "failed");
    tile.element.classList.toggle("top", known && isTop);
    tile.element.classList.toggle("query", picture === this.#query);
    if (picture.thumbnail !== "" && !tile.shown) {
      tile.shown = true;
      tile.look.firstChild.replaceWith(picture.frame());
    }
    setText(tile.score, known ? score.toFixed(3) : "");
    setText(tile.rank, known ? String(index + 1) : "");
    tile.look.setAttribute("aria-label", `${picture.title}${known ? `, similarity ${score.toFixed(3)}` : ""}: find pictures like this`);
    tile.look.setAttribute("aria-pressed", picture === this.#query);
    showFault(tile.fault, picture, () => this.#embed(picture));
  }

  /** Puts the tiles in this order; those that change places are seen to go there. */
  #move(elements) {
    const list = byId("gallery");
    if (elements.length === list.children.length && elements.every((element, i) => list.children[i] === element)) return;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches || list.offsetParent === null;
    const before = new Map(still ? [] : [...list.children].map((element) => [element, element.getBoundingClientRect()]));
    const focused = document.activeElement;
    list.replaceChildren(...elements);
    if (list.contains(focused)) focused.focus({ preventScroll: true });
    for (const [element, from] of before) {
      if (!element.isConnected) continue;
      const to = element.getBoundingClientRect();
      if (from.left === to.left && from.top === to.top) continue;
      const shift = `translate(${from.left - to.left}px, ${from.top - to.top}px)`;
      element.animate([{ transform: shift }, { transform: "none" }], { duration: MOVE_MS, easing: "cubic-bezier(.2,.8,.2,1)" });
    }
  }

  #tell() {
    const total = this.#pictures.length;
    const done = this.#pictures.filter(({ state }) => state === "ready" || state === "failed").length;
    const ready = this.#pictures.filter(({ state }) => state === "ready").length;
    const progress = byId("gallery-progress");
    progress.hidden = done === total;
    progress.max = total || 1;
    progress.value = done;
    byId("gallery-empty").hidden = total > 0;
    byId("gallery-clear").disabled = total === 0;
    if (done < total) {
      setText(byId("gallery-time"), `${done} of ${total} embedded`);
    } else if (this.#started) {
      const ms = performance.now() - this.#started;
      this.#started = 0;
      const rate = ready / (ms / 1000);
      setText(byId("gallery-time"), `${count(ready, "picture")} embedded in ${duration(ms)}, ${rate.toFixed(rate < 10 ? 1 : 0)} a second`);
    }
    if (total === 0) setText(byId("gallery-time"), "");
  }

  /** Says what the pictures are ordered by and what that took: the vector of the sentence, and the ordering. */
  #tellOrder(order, vector, ordering) {
    const ready = this.#pictures.filter(({ state }) => state === "ready").length;
    const query = this.#query;
    const about = `${query?.id} ${query?.state} ${ready}`;
    if (about === this.#told) return;
    this.#told = about;
    let line = "";
    if (query?.state === "failed") line = `The sentence failed: ${query.error}`;
    else if (vector && ready) {
      const took = duration(ordering + (query.kind === "text" ? query.ms : 0));
      const by = query.kind === "text" ? `as a search for “${query.text}” finds them` : `by likeness to ${query.title}`;
      line = `${count(ready, "picture")}, ${by}: ${took}`;
      if (ready === this.#pictures.length) announce(`${line}. First: ${order[0].title}.`);
    }
    setText(byId("gallery-order"), line);
  }
}
