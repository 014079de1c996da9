/** Repeats a call until it is reset, after delays that depend on the number of calls so far. */
export class Timer {
  #callback;
  #delay;
  #id;
  #tries = 0;

  /** delay(tries) returns milliseconds. The first delay has tries 1. */
  constructor(callback, delay) {
    this.#callback = callback;
    this.#delay = delay;
  }

  /** Ends the wait, and starts over with the first delay. */
  reset() {
    clearTimeout(this.#id);
    this.#tries = 0;
  }

  /** Makes the next call after its delay, which starts now. */
  scheduleTimeout() {
    clearTimeout(this.#id);
    this.#id = setTimeout(() => {
      this.#tries++;
      this.#callback();
    }, this.#delay(this.#tries + 1));
  }
}
