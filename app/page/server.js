/** The server that this page came from. Every address is relative, for it may stand below a path of a proxy. */

import { Turns } from "./turns.js";

const AT_ONCE = 4;
const PATIENCE_MS = 120_000;
const POLL_MS = 1000;
const SILENT = "The server does not answer";
const TOKEN_KEY = "multi2vec-clip token";

/** What a request came to, in words that can stand at an item. */
export class RequestError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }

  /** Whether the same request may well succeed later: it was not itself at fault. */
  get mayRecover() {
    return this.status === 0 || this.status === 401 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/**
 * Sends items, a few requests at a time, each with one item: an error then concerns that item alone.
 * Dispatches "state" with {state: "ready" | "waiting" | "failed", message}, and "vector" with a vector's width.
 */
export class Server extends EventTarget {
  #turns = new Turns(AT_ONCE);
  #asking = null;
  #askToken;
  #token = sessionStorage.getItem(TOKEN_KEY) ?? "";

  /** @param {(refused: boolean) => Promise<string | null>} askToken asks the person; null is a no. */
  constructor(askToken) {
    super();
    this.#askToken = askToken;
  }

  get hasToken() {
    return this.#token !== "";
  }

  setToken(token) {
    this.#token = token;
    if (token) sessionStorage.setItem(TOKEN_KEY, token);
    else sessionStorage.removeItem(TOKEN_KEY);
  }

  /** Full address of a route, for a command to copy. */
  address(route) {
    return new URL(route, document.baseURI).href;
  }

  /** Returns once the server is ready, however long that takes; says meanwhile what it waits for. */
  async ready() {
    for (;;) {
      try {
        const response = await fetch(".well-known/ready", { cache: "no-store" });
        // Any other answer comes from something before the server, which has to say that of the requests themselves.
        if (response.status < 500) return;
        const message = await reason(response);
        this.#say("waiting", message[0].toUpperCase() + message.slice(1));
      } catch {
        this.#say("failed", SILENT);
      }
      await pause(POLL_MS);
    }
  }

  /** The models' configuration. */
  async meta() {
    return (await this.#fetch("meta", {})).json();
  }

  /** {model, family, engine, precision, version} in words. */
  async about() {
    return (await this.#fetch("about", {})).json();
  }

  /** The vector of a text, and the milliseconds that it took. */
  text(text, signal) {
    // Before pictures that wait: somebody types and looks.
    return this.#turns.first(signal, () => this.#vectorize({ texts: [text] }, "textVectors", signal));
  }

  /**
   * The vector of a picture, and the milliseconds that it took.
   * @param {() => Promise<string>} read gives its base64 when its turn comes, so that few are in memory
   */
  picture(read, signal) {
    return this.#turns.last(signal, async () =>
      this.#vectorize({ images: [await read()] }, "imageVectors", signal),
    );
  }

  async #vectorize(body, key, signal) {
    const content = JSON.stringify(body);
    let started = 0;
    const response = await this.#fetch("vectorize", { method: "POST", body: content, signal }, () => {
      started = performance.now();
    });
    const vector = (await response.json())[key][0];
    const ms = performance.now() - started;
    this.dispatchEvent(new CustomEvent("vector", { detail: vector.length }));
    return { vector, ms };
  }

  async #fetch(route, options, onSend = () => {}) {
    const until = performance.now() + PATIENCE_MS;
    for (;;) {
      const token = this.#token;
      const headers = new Headers();
      if (token) headers.set("Authorization", `Bearer ${token}`);
      if (options.body) headers.set("Content-Type", "application/json");
      onSend();
      let response;
      try {
        response = await fetch(route, { ...options, headers, cache: "no-store" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        this.#say("failed", SILENT);
        throw new RequestError("the server does not answer");
      }
      if (response.ok) {
        this.#say("ready", "Ready");
        return response;
      }
      const message = await reason(response);
      if (response.status === 401 && (await this.#newToken(token))) continue;
      if (response.status === 503 && performance.now() < until) {
        this.#say("waiting", message);
        await pause(Math.min(Number(response.headers.get("Retry-After")) || 1, 5) * 1000, options.signal);
        continue;
      }
      if (response.status === 503) this.#say("failed", message);
      throw new RequestError(message, response.status);
    }
  }

  /** Asks once for all requests that were refused with `tried`; whether there is another one to try. */
  async #newToken(tried) {
    if (this.#token !== tried) return true;
    this.#asking ??= this.#askToken(tried !== "").finally(() => (this.#asking = null));
    const token = await this.#asking;
    if (token === null) return false;
    this.setToken(token);
    return true;
  }

  #say(state, message) {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, message } }));
  }
}

/** Why a request was refused; a proxy's own pages are no JSON. */
async function reason(response) {
  try {
    const { error } = await response.json();
    // A request holds one item: its index says nothing here.
    if (typeof error === "string") return error.replace(/^(images|texts)\[0\]: /, "");
  } catch {
    // Not the server's own answer.
  }
  if (response.status === 413) return "larger than a proxy before the server takes (413)";
  return `refused with ${response.status} ${response.statusText}`.trim();
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
