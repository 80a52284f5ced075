/** Puts the page together: state of the server, tabs, token, and pictures from wherever they come. */

import { Compare } from "./compare.js";
import { byId, setText, toast } from "./dom.js";
import { Gallery } from "./gallery.js";
import { describe } from "./model.js";
import { addressOf, fileIn, filesOf } from "./pictures.js";
import { Server } from "./server.js";
import { askToken } from "./token.js";

const TABS = ["compare", "gallery"];
const MOST_OF_A_DROP = 1000;

const server = new Server(async (refused) => {
  byId("token-button").hidden = false;
  return askToken(refused);
});
const views = { compare: new Compare(server), gallery: new Gallery(server) };
let meta = null;
let beginning = null;

server.addEventListener("state", ({ detail: { state, message } }) => {
  const pill = byId("state");
  pill.dataset.state = state;
  setText(pill.firstElementChild, message);
  // The model's name was refused for want of a token, which there is now.
  if (state === "ready" && !meta) begin();
});

server.addEventListener("vector", ({ detail }) => setText(byId("width"), `${detail} numbers`));

/** Starts once, however often it is asked to meanwhile. */
function begin() {
  beginning ??= start().finally(() => (beginning = null));
  return beginning;
}

async function start() {
  byId("token-button").hidden = !server.hasToken;
  await server.ready();
  let about;
  try {
    [meta, about] = await Promise.all([server.meta(), server.about()]);
  } catch (error) {
    setText(byId("state").firstElementChild, error.message);
    byId("state").dataset.state = "failed";
    return;
  }
  const { name, pixels } = describe(meta);
  const engine = `${about.engine}, ${about.precision}`;
  for (const [id, value] of Object.entries({ model: name, family: about.family, engine, pixels })) {
    setText(byId(id), value);
    byId(id).parentElement.hidden = !value;
  }
  if (views.compare.isEmpty) await views.compare.addExamples(meta);
}

byId("compare-examples").addEventListener("click", () => meta && views.compare.addExamples(meta));

byId("token-button").addEventListener("click", async () => {
  const token = await askToken(false);
  if (token === null) return;
  server.setToken(token);
  toast(token ? "Token set" : "Token removed");
  if (!meta) await begin();
});

const current = () => TABS.find((name) => !byId(`panel-${name}`).hidden);

function show(name) {
  for (const other of TABS) {
    byId(`panel-${other}`).hidden = other !== name;
    byId(`tab-${other}`).setAttribute("aria-selected", other === name);
    byId(`tab-${other}`).tabIndex = other === name ? 0 : -1;
  }
}

for (const name of TABS) {
  const tab = byId(`tab-${name}`);
  tab.addEventListener("click", () => {
    history.replaceState(null, "", `#${name}`);
    show(name);
  });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = step ? TABS[(TABS.indexOf(name) + step + TABS.length) % TABS.length] : null;
    const edge = { Home: TABS[0], End: TABS.at(-1) }[event.key];
    if (!next && !edge) return;
    event.preventDefault();
    byId(`tab-${edge ?? next}`).click();
    byId(`tab-${edge ?? next}`).focus();
  });
}
addEventListener("hashchange", () => TABS.includes(location.hash.slice(1)) && show(location.hash.slice(1)));
if (TABS.includes(location.hash.slice(1))) show(location.hash.slice(1));

// A picture of another page comes as a file, or as its address alone: that depends on the browser.
let ofThisPage = false;
addEventListener("dragstart", () => (ofThisPage = true));
addEventListener("dragend", () => (ofThisPage = false));
const concerns = ({ dataTransfer, target }) =>
  dataTransfer?.types.includes("Files") ||
  (dataTransfer?.types.includes("text/uri-list") && !ofThisPage && !target.closest?.("input"));

async function take(transfer) {
  const address = addressOf(transfer); // asked for now: after the first pause the browser has forgotten it
  try {
    const files = await filesOf(transfer, MOST_OF_A_DROP);
    if (!files.length && fileIn(address)) files.push(fileIn(address));
    if (files.length) views[current()].add(files);
    else if (address) toast("Only an address came, and this page opens none: save the picture, then drop the file");
    else toast("No pictures there");
  } catch {
    toast("The browser could not read what was dropped");
  }
}

let inside = 0;
addEventListener("dragenter", (event) => {
  if (!concerns(event)) return;
  event.preventDefault();
  inside += 1;
  byId("drop").hidden = false;
});
addEventListener("dragover", (event) => concerns(event) && event.preventDefault());
addEventListener("dragleave", (event) => {
  if (!concerns(event)) return;
  inside = Math.max(0, inside - 1);
  if (!inside) byId("drop").hidden = true;
});
addEventListener("drop", (event) => {
  inside = 0;
  byId("drop").hidden = true;
  if (!concerns(event)) return;
  event.preventDefault();
  take(event.dataTransfer);
});
addEventListener("paste", (event) => {
  if (!event.clipboardData?.files.length) return;
  event.preventDefault();
  take(event.clipboardData);
});

begin();
