/** The table of texts and pictures, and what follows from it. */

import { announce, byId, copy, count, create, debounce, duration, setText, toast } from "./dom.js";
import { examples } from "./examples.js";
import { Picture, Text, curl, fitting, showFault } from "./items.js";
import { SOFTMAX_SCALE, best, cosine, softmax } from "./math.js";
import { stripes } from "./stripes.js";

const MOST = 24;
const TYPING_MS = 250;
const BARS = 4;
const SMALLEST_SHARE = 0.001;
// Where white on the scale's colour is read more easily than black, in light and in dark.
const HOT = { light: 0.805, dark: 0.63 };
// A smaller range than this is no difference that should be told by colour.
const NARROWEST = 0.02;

const HELP = {
  cosine: "Cosine of the angle between the two vectors.",
  texts: "Softmax of 100 × similarity over the texts: each picture’s column adds up to 100 %.",
  pictures: "Softmax of 100 × similarity over the pictures: each text’s row adds up to 100 %.",
};
const percent = (share) => `${(100 * share).toFixed(share >= 0.9995 || share < 0.0005 ? 0 : 1)} %`;

export class Compare {
  #server;
  #pictures = [];
  #texts = [];
  /** What is on the page for an item: {element, …} by item. */
  #columns = new Map();
  #rows = new Map();
  #vectorRows = new Map();
  #scale = "cosine";
  #started = 0;
  #draw = debounce(() => this.#refresh(), 15);
  #dark = matchMedia("(prefers-color-scheme: dark)");

  constructor(server) {
    this.#server = server;
    byId("compare-choose").addEventListener("click", () => byId("compare-files").click());
    byId("compare-files").addEventListener("change", (event) => {
      this.add([...event.target.files]);
      event.target.value = "";
    });
    byId("compare-clear").addEventListener("click", () => this.#clear());
    byId("compare-scale").addEventListener("change", (event) => {
      this.#scale = event.target.value;
      this.#refresh();
    });
    byId("add-text").addEventListener("submit", (event) => {
      event.preventDefault();
      const field = byId("new-text");
      if (field.value.trim()) this.addText(field.value.trim());
      field.value = "";
      field.focus();
    });
    this.#dark.addEventListener("change", () => {
      this.#vectorRows.clear();
      this.#refresh();
    });
    this.#lay();
  }

  get isEmpty() {
    return !this.#pictures.length && !this.#texts.length;
  }

  /** Adds pictures and has them embedded. */
  add(files) {
    const { taken, note } = fitting(files, MOST - this.#pictures.length, MOST);
    if (note) toast(note);
    const pictures = taken.map((file) => new Picture(file));
    this.#pictures.push(...pictures);
    this.#lay();
    for (const picture of pictures) {
      picture.show(this.#draw);
      this.#embed(picture);
    }
  }

  /** Adds a text and has it embedded. */
  addText(value) {
    if (this.#texts.length >= MOST) {
      toast(`${MOST} texts at most`);
      return;
    }
    const text = new Text(value);
    this.#texts.push(text);
    this.#lay();
    this.#embed(text);
  }

  /** Adds a few pictures and texts that fit the model. */
  async addExamples(meta) {
    const { files, texts } = await examples(meta);
    this.add(files);
    texts.forEach((text) => this.addText(text));
  }

  #embed(item) {
    if (!this.#busy) this.#started = performance.now();
    item.embed(this.#server, () => {
      if (!this.#busy) this.#settled();
      this.#draw();
    });
  }

  get #items() {
    return [...this.#pictures, ...this.#texts];
  }

  get #busy() {
    return this.#items.some((item) => item.state === "working");
  }

  #settled() {
    const ready = this.#items.filter((item) => item.state === "ready").length;
    const failed = this.#items.filter((item) => item.state === "failed").length;
    const took = duration(performance.now() - this.#started);
    setText(byId("compare-time"), ready ? `${count(ready, "vector")}, the last after ${took}` : "");
    if (ready || failed) announce(`${count(ready, "vector")}${failed ? `, ${failed} failed` : ""}.`);
  }

  #remove(item) {
    const list = item.kind === "text" ? this.#texts : this.#pictures;
    const index = list.indexOf(item);
    list.splice(index, 1);
    if (item.kind === "text") item.stop();
    else item.release();
    for (const map of [this.#columns, this.#rows, this.#vectorRows]) map.delete(item);
    this.#lay();
    const neighbour = list[Math.min(index, list.length - 1)];
    const place = (item.kind === "text" ? this.#rows : this.#columns).get(neighbour);
    (place?.remove ?? byId("compare-choose")).focus();
  }

  #clear() {
    for (const picture of this.#pictures) picture.release();
    for (const text of this.#texts) text.stop();
    this.#pictures = [];
    this.#texts = [];
    for (const map of [this.#columns, this.#rows, this.#vectorRows]) map.clear();
    setText(byId("compare-time"), "");
    this.#lay();
    byId("compare-choose").focus();
  }

  /** Puts rows and columns in their places; those that stay keep their elements, and with them the focus. */
  #lay() {
    const head = create(
      "div",
      { className: "row", role: "row" },
      create("div", { className: "corner", role: "columnheader" }, "Texts"),
      ...this.#pictures.map((picture) => this.#column(picture).element),
      create("div", { role: "cell" }, this.#addButton()),
    );
    const rows = this.#texts.map((text) => {
      const row = this.#row(text);
      for (const picture of this.#pictures) {
        if (!row.cells.has(picture)) row.cells.set(picture, create("div", { className: "cell", role: "cell" }));
      }
      for (const [picture, cell] of row.cells) {
        if (this.#pictures.includes(picture)) continue;
        cell.remove();
        row.cells.delete(picture);
      }
      row.element.append(...this.#pictures.map((picture) => row.cells.get(picture)));
      return row.element;
    });
    const matrix = byId("matrix");
    matrix.classList.toggle("bare", !this.#pictures.length);
    const stay = new Set(rows);
    for (const element of [...matrix.children]) if (!stay.has(element)) element.remove();
    matrix.prepend(head);
    rows.forEach((row) => row.parentNode === matrix || matrix.append(row));
    this.#refresh();
  }

  #addButton() {
    const button = create("button", { className: "add", type: "button", "aria-label": "Add pictures" });
    const words = this.#pictures.length ? "Picture" : "Drop, paste or choose pictures";
    button.append(create("b", { "aria-hidden": "true" }, "+"), words);
    button.addEventListener("click", () => byId("compare-files").click());
    return button;
  }

  #column(picture) {
    if (!this.#columns.has(picture)) {
      const frame = picture.frame();
      const fault = create("div", { className: "fault", hidden: true });
      const remove = this.#removeButton(picture);
      const name = create("p", { className: "name", title: picture.title }, picture.title);
      const element = create("div", { className: "picture", role: "columnheader" }, frame, name, fault, remove);
      this.#columns.set(picture, { element, frame, fault, remove, shown: null });
    }
    return this.#columns.get(picture);
  }

  #row(text) {
    if (!this.#rows.has(text)) {
      const field = create("textarea", { value: text.text, rows: 1, maxLength: 2000, spellcheck: false });
      const embed = debounce(() => this.#embed(text), TYPING_MS);
      field.addEventListener("input", () => {
        text.stop();
        text.text = field.value.trim();
        Object.assign(text, { state: text.text ? "working" : "new", vector: null, error: "" });
        if (text.text) embed();
        this.#draw();
      });
      field.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.isComposing) return;
        event.preventDefault();
        const next = this.#texts[this.#texts.indexOf(text) + 1];
        (next ? this.#rows.get(next).field : byId("new-text")).focus();
      });
      const fault = create("div", { className: "fault", hidden: true });
      const remove = this.#removeButton(text);
      const body = create("div", { className: "text-body" }, field, fault);
      const header = create("div", { className: "text", role: "rowheader" }, body, remove);
      const element = create("div", { className: "row", role: "row" }, header);
      this.#rows.set(text, { element, header, field, fault, remove, cells: new Map() });
    }
    return this.#rows.get(text);
  }

  #removeButton(item) {
    const button = create("button", { className: "remove", type: "button" }, "×");
    button.addEventListener("click", () => this.#remove(item));
    return button;
  }

  /** Brings what is shown in line with the items. */
  #refresh() {
    for (const [picture, column] of this.#columns) {
      column.element.classList.toggle("working", picture.state === "working");
      column.element.classList.toggle("failed", picture.state === "failed");
      column.remove.setAttribute("aria-label", `Remove ${picture.title}`);
      if (picture.thumbnail !== "" && !column.shown) {
        column.shown = picture.frame();
        column.frame.replaceWith(column.shown);
      }
      showFault(column.fault, picture, () => this.#embed(picture));
    }
    for (const [index, text] of this.#texts.entries()) {
      const row = this.#rows.get(text);
      row.header.classList.toggle("failed", text.state === "failed");
      row.field.setAttribute("aria-label", `Text ${index + 1}`);
      row.remove.setAttribute("aria-label", `Remove text ${index + 1}`);
      showFault(row.fault, text, () => this.#embed(text));
    }
    const widths = this.#pictures.map((picture) =>
      picture.state === "failed" ? "calc(var(--column) + 6rem)" : "var(--column)",
    );
    byId("matrix").style.setProperty("--columns", widths.join(" "));
    const cosines = this.#texts.map((text) =>
      this.#pictures.map((picture) => (text.vector && picture.vector ? cosine(text.vector, picture.vector) : NaN)),
    );
    const shares = { texts: overColumns(cosines), pictures: cosines.map(shareOut) };
    this.#fill(cosines, shares);
    this.#showBest(cosines, shares);
    this.#showVectors();
    byId("compare-clear").disabled = this.isEmpty;
  }

  #fill(cosines, shares) {
    const numbers = this.#scale === "cosine" ? cosines : shares[this.#scale];
    const known = numbers.flat().filter(Number.isFinite);
    const low = this.#scale === "cosine" && known.length ? Math.min(...known) : 0;
    const high = this.#scale === "cosine" && known.length ? Math.max(...known) : 1;
    const span = Math.max(high - low, this.#scale === "cosine" ? NARROWEST : 1);
    const bestText = this.#pictures.map((_, p) => best(cosines.map((row) => row[p])));
    const hot = this.#dark.matches ? HOT.dark : HOT.light;
    this.#texts.forEach((text, t) => {
      const bestPicture = best(cosines[t]);
      this.#pictures.forEach((picture, p) => {
        const cell = this.#rows.get(text).cells.get(picture);
        const number = numbers[t][p];
        const blank = !Number.isFinite(number);
        const heat = blank ? 0 : (number - low) / span;
        cell.classList.toggle("blank", blank);
        cell.classList.toggle("hot", heat > hot);
        cell.style.setProperty("--heat", heat.toFixed(4));
        const waiting = text.state === "working" || picture.state === "working";
        const shown = this.#scale === "cosine" ? number.toFixed(3) : percent(number);
        const parts = [blank ? (waiting ? "…" : "–") : shown];
        if (!blank && bestText[p] === t && this.#texts.length > 1) {
          parts.push(...mark("▲", "best-text", ", best text of this picture"));
        }
        if (!blank && bestPicture === p && this.#pictures.length > 1) {
          parts.push(...mark("◀", "best-picture", ", best picture of this text"));
        }
        cell.replaceChildren(...parts);
      });
    });
    const asShown = (number) => (this.#scale === "cosine" ? number.toFixed(3) : percent(number));
    setText(byId("ramp-low"), asShown(low));
    setText(byId("ramp-high"), asShown(low + span));
    setText(byId("scale-help"), HELP[this.#scale]);
  }

  #showBest(cosines, shares) {
    const pictures = this.#pictures.flatMap((picture, p) => {
      const winner = best(cosines.map((row) => row[p]));
      if (winner < 0) return [];
      const rows = this.#texts.map((text, t) => ({ share: shares.texts[t][p], label: [text.title] }));
      return [result(picture.frame(), this.#texts[winner].title, cosines[winner][p], rows)];
    });
    const texts = this.#texts.flatMap((text, t) => {
      const winner = best(cosines[t]);
      if (winner < 0) return [];
      const rows = this.#pictures.map((picture, p) => ({
        share: shares.pictures[t][p],
        label: [picture.frame("frame small"), picture.title],
      }));
      return [result(this.#pictures[winner].frame(), text.title, cosines[t][winner], rows)];
    });
    byId("by-picture-list").replaceChildren(...pictures);
    byId("by-text-list").replaceChildren(...texts);
    byId("best").hidden = !pictures.length;
  }

  #showVectors() {
    const ready = this.#items.filter((item) => item.vector);
    const elements = ready.map((item) => {
      const shown = this.#vectorRows.get(item);
      if (shown?.vector === item.vector && shown.thumbnail === item.thumbnail) return shown.element;
      const element = this.#vectorRow(item);
      this.#vectorRows.set(item, { element, vector: item.vector, thumbnail: item.thumbnail });
      return element;
    });
    const list = byId("vector-list");
    if (elements.length !== list.children.length || elements.some((element, i) => list.children[i] !== element)) {
      list.replaceChildren(...elements);
    }
    byId("vectors").hidden = !ready.length;
  }

  #vectorRow(item) {
    const json = create("button", { type: "button", "aria-label": `Copy the vector of ${item.title} as JSON` }, "JSON");
    json.addEventListener("click", () => copy(JSON.stringify(item.vector), "Vector"));
    const command = create("button", { type: "button", "aria-label": `Copy the curl command for ${item.title}` }, "curl");
    command.addEventListener("click", async () => copy(await curl(item, this.#server), "Command"));
    return create(
      "li",
      { className: "vector" },
      item.kind === "text" ? create("div", { className: "frame", "aria-hidden": "true" }, "T") : item.frame(),
      create("span", { className: "title", title: item.title }, item.title),
      stripes(item.vector),
      create("span", { className: "number length" }, create("small", {}, "length "), item.length.toFixed(3)),
      create("span", { className: "number took" }, duration(item.ms)),
      create("span", { className: "copies" }, json, command),
    );
  }
}

function mark(sign, className, words) {
  return [
    create("span", { className: `mark ${className}`, "aria-hidden": "true" }, sign),
    create("span", { className: "hidden" }, words),
  ];
}

/** Softmax of a row of cosines; what is not known stays so. */
function shareOut(cosines) {
  const known = cosines.filter(Number.isFinite);
  const shares = known.length ? softmax(known.map((number) => SOFTMAX_SCALE * number)) : [];
  return cosines.map((number) => (Number.isFinite(number) ? shares.shift() : NaN));
}

function overColumns(cosines) {
  const columns = (cosines[0] ?? []).map((_, p) => shareOut(cosines.map((row) => row[p])));
  return cosines.map((row, t) => row.map((_, p) => columns[p][t]));
}

/** A picture, what won, and bars of the softmax for it and for the others that have a share worth showing. */
function result(frame, winner, similarity, rows) {
  const known = rows.filter(({ share }) => Number.isFinite(share)).sort((a, b) => b.share - a.share);
  const [first, ...others] = known;
  const shown = others.slice(0, BARS - 1).filter(({ share }) => share >= SMALLEST_SHARE);
  const bars = shown.map(({ share, label }) => create("li", { className: "bar-row" }, create("span", {}, ...label), bar(share)));
  const small = others.length > shown.length ? `, each other below ${percent(shown.at(-1)?.share ?? SMALLEST_SHARE)}` : "";
  return create(
    "li",
    { className: "result" },
    frame,
    create(
      "div",
      { className: "result-body" },
      create("strong", {}, winner),
      create("div", { className: "bar-row first" }, create("span", {}, `similarity ${similarity.toFixed(3)}${shown.length ? "" : small}`), bar(first.share)),
      shown.length ? create("ul", { className: "bars" }, ...bars) : null,
    ),
  );
}

function bar(share) {
  const fill = create("i");
  fill.style.setProperty("--share", share.toFixed(4));
  return create("span", { className: "amount" }, create("span", { className: "track", "aria-hidden": "true" }, fill), percent(share));
}
