// Hears the meeting that is in this document. Runs before the page's own scripts, in each of its frames.
//
// What should be heard is worked out anew whenever something may have changed, and made so: nothing depends on having
// seen each single change.

// Somebody without a name is told only after so long: pages show sound before names.
const NAMELESS_AFTER = 2000;
const AT_MOST_EVERY = 100;
const AT_LEAST_EVERY = 1000;
const MEDIA_EVENTS = [
  "emptied", "ended", "loadedmetadata", "loadstart", "pause", "play", "playing", "ratechange", "volumechange",
];

class Participant {
  #id;
  #reporter;
  #since = performance.now();
  // As it was told; null: it was not told yet.
  #name = null;
  #voice = null;
  #early = [];

  constructor(id, reporter) {
    this.#id = id;
    this.#reporter = reporter;
  }

  // Tell who it is as soon as that is known, or has been waited for long enough; and again when it is another name.
  call(name) {
    const isOld = performance.now() - this.#since >= NAMELESS_AFTER;
    if (name ? name !== this.#name : isOld && this.#name === null) this.#tell(name);
  }

  get isHeard() {
    return this.#voice !== null;
  }

  follow(tracks, context) {
    this.#voice ??= new Voice(context, (block) => this.#hear(block));
    this.#voice.follow(tracks);
  }

  async flush() {
    if (this.#name === null) this.#tell("");
    await this.#voice?.flush();
  }

  leave() {
    this.#voice?.end();
    if (this.#name !== null) this.#reporter.tell("left", { id: this.#id });
  }

  #tell(name) {
    this.#name = name;
    this.#reporter.tell("joined", { id: this.#id, name });
    for (const block of this.#early.splice(0)) this.#reporter.tell("heard", block);
  }

  #hear({ frame, count, rendered, samples }) {
    const block = { id: this.#id, frame, count, rendered, pcm: samples ? base64(samples) : "" };
    if (this.#name === null) this.#early.push(block);
    else this.#reporter.tell("heard", block);
  }
}

class Meeting {
  #participants = new Map();
  #reporter;
  #people;
  #clock;
  #remote = new RemoteTracks(() => this.#look());
  #elements = new Elements(this.#remote, (why) => this.#reporter.tell("refused", { why }));
  #followsConnections;
  #lookedAt = 0;
  #planned = null;
  #isLooking = false;

  constructor(reporter, recipe, tapSource) {
    this.#reporter = reporter;
    this.#people = new People(recipe);
    this.#clock = new Clock(tapSource);
    this.#followsConnections = recipe.connections;
  }

  begin() {
    this.#reporter.tell("began");
    new MutationObserver(() => this.#look()).observe(document, {
      childList: true,
      subtree: true,
      characterData: true,
      attributes: true,
    });
    for (const event of MEDIA_EVENTS) document.addEventListener(event, () => this.#look(), true);
    setInterval(() => this.#look(), AT_LEAST_EVERY);
    this.#look();
  }

  // All that was said up to now is with the driver when this resolves.
  async flush() {
    await Promise.all([...this.#participants.values()].map((participant) => participant.flush()));
    await this.#reporter.settled();
  }

  #look() {
    if (this.#planned !== null) return;
    const wait = Math.max(0, this.#lookedAt + AT_MOST_EVERY - performance.now());
    this.#planned = setTimeout(() => {
      this.#planned = null;
      this.#lookedAt = performance.now();
      void this.#reconcile();
    }, wait);
  }

  async #reconcile() {
    if (this.#isLooking) return this.#look();
    this.#isLooking = true;
    try {
      const present = this.#present();
      for (const [id, participant] of this.#participants) {
        if (present.has(id)) continue;
        this.#participants.delete(id);
        participant.leave();
      }
      for (const [id, { element, tracks }] of present) {
        if (!this.#participants.has(id)) this.#participants.set(id, new Participant(id, this.#reporter));
        const participant = this.#participants.get(id);
        if (tracks.size || participant.isHeard) participant.follow(tracks, await this.#clock.context());
        participant.call(this.#people.name(id, element).slice(0, 200));
      }
    } finally {
      this.#isLooking = false;
    }
  }

  // Everybody who is here, with the tracks that are heard of them. A track is heard once, wherever it is played.
  #present() {
    const present = new Map(this.#people.shown().map((id) => [id, { element: null, tracks: new Set() }]));
    const heard = new Set();
    const add = (id, element, tracks) => {
      if (!present.has(id)) present.set(id, { element, tracks: new Set() });
      const entry = present.get(id);
      entry.element ??= element;
      for (const track of tracks) entry.tracks.add(track);
    };
    for (const element of this.#people.elements()) {
      if (!this.#elements.isFilled(element)) continue;
      const id = this.#people.owner(element);
      const tracks = this.#elements.tracks(element).filter((track) => !heard.has(track));
      for (const track of tracks) heard.add(track);
      // Nobody is there for an element that has never been heard: the page's own camera, a sound that is not played.
      if (tracks.length || this.#participants.get(id)?.isHeard) add(id, element, tracks);
    }
    if (this.#followsConnections) {
      for (const track of this.#remote.living()) {
        if (!heard.has(track) && !track.muted) add(this.#people.unknown(track), null, [track]);
      }
    }
    return present;
  }
}

// `settings`: `binding`, the name of the driver's function; `flush`, under which the driver finds ours; `recipe`; `tap`, the
// source of the tap.
function start({ binding, flush, recipe, tap }) {
  const send = globalThis[binding];
  // The page's own scripts are not to speak in the name of its participants.
  delete globalThis[binding];
  const meeting = new Meeting(new Reporter(send), recipe, tap);
  Object.defineProperty(globalThis, flush, { value: () => meeting.flush() });
  meeting.begin();
}
