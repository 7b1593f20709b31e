// A live session over a socket that may break: what is not acked yet is kept, and sent again to the next socket.

const RETRIES = 6;
const DONE = 1000;
// The server says that it cannot go on by itself: the session has ended or is elsewhere, or we are wrong.
const FINAL = new Set([1008, 4401, 4409]);

export class LiveSession extends EventTarget {
  #config;
  #key;
  #socket = null;
  #sessionId = "";
  #lastId = "0";
  // Blocks of samples that may have to be sent again, each with its position in seconds.
  #kept = [];
  #position = 0;
  #acked = 0;
  #isOpen = false;
  #isPaused = false;
  #pausedAt = 0;
  #isEnding = false;
  #failures = 0;

  constructor(config, key) {
    super();
    this.#config = config;
    this.#key = key;
  }

  get sessionId() {
    return this.#sessionId;
  }

  start() {
    const query = new URLSearchParams({ after: this.#lastId });
    if (this.#sessionId) query.set("session_id", this.#sessionId);
    this.#socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/audio/stream?${query}`);
    this.#socket.onopen = () => {
      const rest = { resume_from: this.#acked, token: this.#key };
      this.#socket.send(JSON.stringify({ type: "config", ...this.#config, ...rest }));
    };
    this.#socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    this.#socket.onclose = ({ code, reason }) => this.#closed(code, reason);
  }

  send(buffer) {
    this.#kept.push({ position: this.#position, buffer });
    this.#position += buffer.byteLength / 2 / this.#config.sample_rate;
    if (this.#isOpen && !this.#isPaused) this.#socket.send(buffer);
  }

  end() {
    this.#isEnding = true;
    if (this.#isOpen && !this.#isPaused) this.#say("end");
  }

  #say(type) {
    this.#socket.send(JSON.stringify({ type }));
  }

  #take(message) {
    if (message.id) this.#lastId = message.id;
    if (message.type === "ready") {
      this.#sessionId = message.session_id;
      this.#failures = 0;
      this.#goOn(message.received_until);
    } else if (message.type === "ack") {
      this.#acked = message.received_until;
      this.#kept = this.#kept.filter(({ position, buffer }) => position + this.#seconds(buffer) > this.#acked);
    } else if (message.type === "backpressure") {
      if (message.paused) {
        this.#isPaused = true;
        this.#pausedAt = this.#position;
      } else {
        this.#goOn(this.#pausedAt);
      }
    }
    this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }

  // Send all that the server has not heard, exactly from there on.
  #goOn(from) {
    this.#isOpen = true;
    this.#isPaused = false;
    for (const { position, buffer } of this.#kept) {
      const skip = Math.max(0, Math.round((from - position) * this.#config.sample_rate) * 2);
      if (skip < buffer.byteLength) this.#socket.send(buffer.slice(skip));
    }
    if (this.#isEnding) this.#say("end");
  }

  #seconds(buffer) {
    return buffer.byteLength / 2 / this.#config.sample_rate;
  }

  #closed(code, reason) {
    this.#isOpen = false;
    const gone = code === DONE || FINAL.has(code) || this.#failures >= RETRIES;
    if (gone) {
      this.dispatchEvent(new CustomEvent("end", { detail: code === DONE ? "" : reason || "The connection is lost." }));
    } else {
      setTimeout(() => this.start(), 250 * 2 ** this.#failures++);
    }
  }
}
