// The tap: runs on the audio thread and cuts what one participant says into blocks. Nothing that the page does on its
// own thread, however long it takes, loses or delays a sample here.
//
// All taps of a document cut at the same frames of their common clock, so that their blocks come together. A block says
// when its last sample was rendered: by the machine's clock, because this thread has no other.

// A fifth of a second, and a whole number of render quanta of 128 frames.
const BLOCK = 3200;

class Tap extends AudioWorkletProcessor {
  #samples = new Int16Array(BLOCK);
  #length = 0;
  #isSilent = true;
  #isEnded = false;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      this.#give(currentFrame);
      this.#isEnded = data === "end";
      if (data === "flush") this.port.postMessage("flushed");
    };
  }

  process([input]) {
    const quantum = input[0];
    const length = quantum?.length ?? 128;
    for (let place = 0; place < length; place++) {
      const sample = quantum ? Math.max(-1, Math.min(1, quantum[place])) : 0;
      this.#samples[this.#length++] = Math.round(sample * 32767);
    }
    // Nobody is connected to a tap whose participant is muted: what it hears then is silence, which goes on, too.
    this.#isSilent &&= !quantum || quantum.every((sample) => sample === 0);
    const end = currentFrame + length;
    if (end % BLOCK === 0 || this.#length + length > BLOCK) this.#give(end);
    return !this.#isEnded;
  }

  #give(end) {
    if (!this.#length) return;
    const samples = this.#isSilent ? null : this.#samples.slice(0, this.#length);
    const block = { frame: end - this.#length, count: this.#length, rendered: Date.now(), samples };
    this.port.postMessage(block, samples ? [samples.buffer] : []);
    this.#length = 0;
    this.#isSilent = true;
  }
}

registerProcessor("streamtask-tap", Tap);
