// One voice a participant: all of its tracks go into one tap. The clock is one audio context, shared by all.

const RATE = 16000;

class Clock {
  #context = null;
  #isReady = null;
  #tapSource;

  constructor(tapSource) {
    this.#tapSource = tapSource;
  }

  // The context, running, with the tap's code in it where the page may have worklets.
  async context() {
    this.#context ??= this.#open();
    await this.#isReady;
    return this.#context;
  }

  #open() {
    const context = new AudioContext({ sampleRate: RATE });
    // The machine may stop it, when it sleeps or its sound card goes: what is said must not be lost for longer.
    const resume = () => context.state === "running" || context.resume().catch(() => {});
    context.addEventListener("statechange", resume);
    setInterval(resume, 1000);
    resume();
    this.#isReady = context.audioWorklet?.addModule(
      URL.createObjectURL(new Blob([this.#tapSource], { type: "text/javascript" })),
    );
    return context;
  }
}

class Voice {
  #sources = new Map();
  #context;
  #tap;

  constructor(context, hear) {
    this.#context = context;
    this.#tap = context.audioWorklet ? new WorkletTap(context, hear) : new ScriptTap(context, hear);
  }

  // Hear these tracks from now on, and no others.
  follow(tracks) {
    for (const [track, source] of this.#sources) {
      if (tracks.has(track)) continue;
      source.disconnect();
      this.#sources.delete(track);
    }
    for (const track of tracks) {
      if (this.#sources.has(track)) continue;
      const source = this.#context.createMediaStreamSource(new MediaStream([track]));
      source.connect(this.#tap.node);
      this.#sources.set(track, source);
    }
  }

  flush() {
    return this.#tap.flush();
  }

  end() {
    this.follow(new Set());
    this.#tap.end();
  }
}

class WorkletTap {
  #flushed = [];

  constructor(context, hear) {
    this.node = new AudioWorkletNode(context, "streamtask-tap", {
      channelCount: 1,
      channelCountMode: "explicit",
      channelInterpretation: "speakers",
    });
    this.node.port.onmessage = ({ data }) => {
      if (data === "flushed") this.#flushed.shift()?.();
      else hear(data);
    };
    // What is not connected is not rendered. The tap puts nothing out.
    this.node.connect(context.destination);
  }

  flush() {
    return new Promise((resolve) => {
      this.#flushed.push(resolve);
      this.node.port.postMessage("flush");
    });
  }

  end() {
    this.node.port.postMessage("end");
    this.node.disconnect();
  }
}

// For pages that were not fetched in a safe way, where there are no worklets. It runs on the page's thread: what the page
// holds up for longer than a buffer is lost.
class ScriptTap {
  constructor(context, hear) {
    this.node = context.createScriptProcessor(4096, 1, 1);
    this.node.onaudioprocess = ({ inputBuffer, playbackTime }) => {
      const heard = inputBuffer.getChannelData(0);
      const samples = Int16Array.from(heard, (sample) => Math.round(Math.max(-1, Math.min(1, sample)) * 32767));
      const frame = Math.round(playbackTime * RATE) - heard.length;
      const age = context.currentTime - (frame + heard.length) / RATE;
      const isSilent = samples.every((sample) => sample === 0);
      const rendered = Date.now() - age * 1000;
      hear({ frame, count: heard.length, rendered, samples: isSilent ? null : samples });
    };
    this.node.connect(context.destination);
  }

  async flush() {}

  end() {
    this.node.onaudioprocess = null;
    this.node.disconnect();
  }
}
