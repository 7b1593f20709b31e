// Which sound there is in the page: in its elements, and in its connections to others.

// Tracks that came from somebody else, whatever the page does with them: it may play them in an element, or by WebAudio
// beside a muted one, or not yet.
class RemoteTracks {
  // With what keeps each of them flowing: Chromium decodes nothing that no element plays.
  #tracks = new Map();

  constructor(changed) {
    const found = ({ track }) => {
      if (track.kind !== "audio") return;
      const sink = Object.assign(new Audio(), { muted: true, srcObject: new MediaStream([track]) });
      sink.play().catch(() => {});
      this.#tracks.set(track, sink);
      for (const event of ["ended", "mute", "unmute"]) track.addEventListener(event, changed);
      changed();
    };
    const Original = globalThis.RTCPeerConnection;
    if (!Original) return;
    globalThis.RTCPeerConnection = class RTCPeerConnection extends Original {
      constructor(...options) {
        super(...options);
        this.addEventListener("track", found);
        this.addEventListener("connectionstatechange", changed);
      }
    };
    globalThis.webkitRTCPeerConnection = globalThis.RTCPeerConnection;
  }

  has(track) {
    return this.#tracks.has(track);
  }

  // Those that still come.
  living() {
    for (const track of this.#tracks.keys()) {
      if (track.readyState === "ended") this.#tracks.delete(track);
    }
    return this.#tracks.keys();
  }
}

class Elements {
  #captured = new WeakMap();
  #remote;
  #refused;

  constructor(remote, refused) {
    this.#remote = remote;
    this.#refused = refused;
  }

  // Whether there is anything in it that could be heard, now or later.
  isFilled(element) {
    return Boolean(element.srcObject || element.currentSrc || element.src);
  }

  // What is heard of an element now. What another sends is heard also where the page mutes the element; a recording, and
  // the page's own microphone, only as a person would hear them.
  tracks(element) {
    const stream = element.srcObject instanceof MediaStream ? element.srcObject : this.#capture(element);
    const isAudible = !element.muted && element.volume > 0 && !element.paused;
    return (stream?.getAudioTracks() ?? []).filter(
      (track) => track.readyState === "live" && (isAudible || this.#remote.has(track)),
    );
  }

  // The sound of a recording, without taking it from the page. The stream stays the same when another is played.
  #capture(element) {
    if (element.srcObject || element.readyState < HTMLMediaElement.HAVE_METADATA || element.paused) {
      return this.#captured.get(element);
    }
    if (!this.#captured.has(element)) {
      let stream = null;
      try {
        stream = element.captureStream();
      } catch (error) {
        // From another site, which does not allow it.
        this.#refused(error.name);
      }
      this.#captured.set(element, stream);
    }
    return this.#captured.get(element);
  }
}
