// Runs beside the sound: gives it as 16-bit samples, a tenth of a second at a time.
const SIZE = Math.round(sampleRate / 10);

class Recorder extends AudioWorkletProcessor {
  #block = new Int16Array(SIZE);
  #filled = 0;

  process([[channel]]) {
    for (const value of channel ?? []) {
      this.#block[this.#filled++] = Math.max(-1, Math.min(1, value)) * 32767;
      if (this.#filled === SIZE) {
        // The block is given away: it must not be written to any more.
        this.port.postMessage(this.#block.buffer, [this.#block.buffer]);
        this.#block = new Int16Array(SIZE);
        this.#filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
