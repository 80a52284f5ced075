/** Lets a few pieces of work run at a time; the others wait in line. */
export class Turns {
  #free;
  #line = [];

  constructor(atOnce) {
    this.#free = atOnce;
  }

  /** Runs `work` when its turn comes, ahead of what waits; throws if `signal` was aborted meanwhile. */
  first(signal, work) {
    return this.#run(signal, work, (waiter) => this.#line.unshift(waiter));
  }

  /** Runs `work` after all that waits. */
  last(signal, work) {
    return this.#run(signal, work, (waiter) => this.#line.push(waiter));
  }

  async #run(signal, work, wait) {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise(wait);
    try {
      signal.throwIfAborted();
      return await work();
    } finally {
      const next = this.#line.shift();
      if (next) next();
      else this.#free += 1;
    }
  }
}
