// What the page tells the driver. Of several reports under way at once nobody knows which arrives first: there is one
// at a time, and what happens meanwhile goes with the next.

class Reporter {
  #document = crypto.getRandomValues(new Uint32Array(2)).join("-");
  #waiting = [];
  #isBusy = false;
  #send;

  constructor(send) {
    this.#send = send;
  }

  tell(kind, facts = {}) {
    this.#waiting.push({ kind, ...facts });
    void this.#work();
  }

  // Resolves when the driver has all that was told so far.
  async settled() {
    while (this.#isBusy) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  async #work() {
    if (this.#isBusy) return;
    this.#isBusy = true;
    // Blocks of several participants come one after the other in one turn of the event loop: one report for all.
    await null;
    try {
      while (this.#waiting.length) {
        await this.#send({ document: this.#document, reports: this.#waiting.splice(0) });
      }
    } catch {
      // The driver has gone; so will the page.
    } finally {
      this.#isBusy = false;
    }
  }
}

function base64(samples) {
  return btoa(String.fromCharCode(...new Uint8Array(samples.buffer)));
}
