// The page: takes a file or the microphone, and shows what comes back.

import { LiveSession } from "./live.js";

const element = (id) => document.getElementById(id);
const HEALTH_EVERY = 5000;

// ── what is said ───────────────────────────────────────────────────────────────────────────────────────────────

class Captions {
  #lines = new Map();
  #speakers = [];
  #done = 0;
  #chunks = null;
  #language = "";

  clear(translation) {
    this.#lines.clear();
    this.#speakers = [];
    this.#done = 0;
    this.#chunks = null;
    this.#language = translation;
    element("lines").replaceChildren();
    element("now").hidden = true;
    element("error").hidden = true;
    element("downloads").hidden = true;
  }

  expect(chunks) {
    this.#chunks = chunks;
    this.#tellProgress();
  }

  take(message) {
    const takers = {
      partial: () => this.#showSpoken(message),
      final: () => this.#showFinal(message),
      translation: () => this.#showTranslation(message),
      failed: () => this.#showFailure(message),
    };
    takers[message.type]?.();
  }

  get isDone() {
    return this.#chunks !== null && this.#done >= this.#chunks;
  }

  #showSpoken({ stable, tentative }) {
    element("stable").textContent = stable;
    element("tentative").textContent = tentative;
    element("now").hidden = !(stable || tentative);
    element("now").scrollIntoView({ block: "nearest" });
  }

  #showFinal(message) {
    element("now").hidden = true;
    for (const [place, segment] of message.segments.entries()) {
      const line = this.#line(message.sequence, place);
      line.querySelector("time").textContent = clock(segment.start);
      line.querySelector(".text").textContent = segment.text.trim();
      line.querySelector(".text").lang = message.language;
      this.#showSpeaker(line, message.speaker_map.speakers[segment.speaker] ?? segment.speaker);
      if (place === 0) showTiming(line, "Words", message.latency);
    }
    this.#done += 1;
    this.#tellProgress();
  }

  #showTranslation(message) {
    if (message.is_partial) return;
    for (const [place, segment] of message.segments.entries()) {
      const line = this.#line(message.sequence, place);
      const text = line.querySelector(".translation");
      text.textContent = segment.text.trim();
      text.lang = message.target_language;
      text.hidden = false;
      if (place === 0) showTiming(line, languageName(message.target_language), message.latency);
    }
  }

  #showFailure(message) {
    if (message.stage === "transcription") {
      this.#done += 1;
      this.#tellProgress();
    }
    showError(message.message);
  }

  // Chunks are answered in any order; they stand in the order in which they were spoken.
  #line(sequence, place) {
    const known = this.#lines.get(`${sequence}:${place}`);
    if (known) return known;
    const line = element("line").content.firstElementChild.cloneNode(true);
    const order = sequence * 10_000 + place;
    line.dataset.order = order;
    const next = [...element("lines").children].find((other) => Number(other.dataset.order) > order);
    element("lines").insertBefore(line, next ?? null);
    this.#lines.set(`${sequence}:${place}`, line);
    line.scrollIntoView({ block: "nearest" });
    return line;
  }

  #showSpeaker(line, name) {
    if (!name) return;
    if (!this.#speakers.includes(name)) this.#speakers.push(name);
    const label = line.querySelector(".speaker");
    label.textContent = name;
    label.dataset.hue = this.#speakers.indexOf(name) % 3;
    label.hidden = false;
  }

  #tellProgress() {
    const bar = element("progress");
    bar.hidden = this.#chunks === null || this.#chunks < 2 || this.isDone;
    bar.max = this.#chunks ?? 1;
    bar.value = this.#done;
    if (this.isDone) tell(element("lines").childElementCount ? "All of it has been heard." : "Nobody speaks in it.");
  }

  offerDownloads(sessionId) {
    const rows = [["", "Transcript"], ...(this.#language ? [[this.#language, languageName(this.#language)]] : [])];
    element("downloads").replaceChildren(...rows.map(([language, name]) => downloads(sessionId, language, name)));
    element("downloads").hidden = false;
  }
}

function showTiming(line, name, latency) {
  const timing = line.querySelector(".timing");
  const row = document.createElement("span");
  const total = document.createElement("b");
  total.textContent = milliseconds(latency.queue + latency.total);
  row.append(`${name}: queue ${milliseconds(latency.queue)} · model ${milliseconds(latency.inference)} · total `, total);
  if (timing.childElementCount) timing.append(document.createElement("br"));
  timing.append(row);
}

function downloads(sessionId, language, name) {
  const row = document.createElement("span");
  row.append(name);
  for (const form of ["txt", "srt", "vtt", "json"]) {
    const link = document.createElement("a");
    link.href = "#";
    link.textContent = form;
    link.setAttribute("aria-label", `${name} as ${form}`);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      download(sessionId, language, form).catch((error) => showError(error.message));
    });
    row.append(link);
  }
  return row;
}

// By a request and not by a link: a link cannot say the key.
async function download(sessionId, language, form) {
  const query = new URLSearchParams({ format: form, ...(language && { language }) });
  const answer = await ask(`/api/sessions/${sessionId}/transcript?${query}`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = [sessionId.slice(0, 8), ...(language ? [language] : []), form].join(".");
  link.click();
  URL.revokeObjectURL(link.href);
}

// ── asking the API ─────────────────────────────────────────────────────────────────────────────────────────────

let key = sessionStorage.getItem("key") ?? "";

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: key ? { Authorization: `Bearer ${key}` } : {} });
  if (answer.status === 401) element("key-form").hidden = false;
  if (!answer.ok && answer.status !== 503) throw new Error(await reason(answer));
  return answer;
}

async function reason(answer) {
  const told = await answer.json().catch(() => ({}));
  return typeof told.detail === "string" ? told.detail : `The server answers ${answer.status}.`;
}

async function showHealth() {
  try {
    const health = await (await ask("/api/system/health")).json();
    const workers = health.workers.length;
    element("health").dataset.status = health.status;
    element("health").title = health.problems.join("\n");
    element("health-text").textContent =
      health.status === "ok" ? `ready · ${workers} workers · ${health.redis_ping_ms} ms` : health.problems[0];
  } catch (error) {
    element("health").dataset.status = "down";
    element("health-text").textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
  }
}

// ── a file ─────────────────────────────────────────────────────────────────────────────────────────────────────

const captions = new Captions();
let results = null;

function upload(file) {
  begin(`Sending ${file.name} …`);
  const form = new FormData();
  form.append("translate", element("translate").value);
  form.append("diarize", element("diarize").checked);
  form.append("file", file);
  // XMLHttpRequest, because fetch does not say how much has been sent.
  const request = new XMLHttpRequest();
  request.open("POST", "/api/audio/upload");
  if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
  request.upload.onprogress = ({ loaded, total }) => showSent(loaded / total);
  request.onerror = () => showError("The server cannot be reached.");
  request.onload = () => {
    showSent(1);
    const answer = parsed(request.responseText);
    if (request.status !== 202) {
      if (request.status === 401) element("key-form").hidden = false;
      showError(typeof answer.detail === "string" ? answer.detail : `The server answers ${request.status}.`);
      return;
    }
    tell(answer.repeated ? "This recording has been heard before." : "Sent; waiting for its words …");
    captions.expect(answer.chunk_ids.length);
    captions.offerDownloads(answer.session_id);
    follow(answer.session_id);
  };
  request.send(form);
}

function showSent(part) {
  element("progress").hidden = part >= 1;
  element("progress").max = 1;
  element("progress").value = part;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

// Results come over a socket; one that breaks is followed by another, behind the last result.
function follow(sessionId, after = "0") {
  const query = new URLSearchParams({ after, ...(key && { key }) });
  const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/sessions/${sessionId}/events?${query}`);
  let last = after;
  results = socket;
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    last = message.id || last;
    captions.take(message);
  };
  socket.onclose = ({ code }) => {
    if (results === socket && code < 4000) setTimeout(() => follow(sessionId, last), 1000);
  };
}

// ── the microphone ─────────────────────────────────────────────────────────────────────────────────────────────

let speaking = null;

async function speak() {
  // What makes calls pleasant to hear takes away what models listen for.
  const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  begin("Listening …");
  const source = listenTo(stream);
  const sound = source.context;
  await sound.audioWorklet.addModule("/page/recorder.js");
  const recorder = new AudioWorkletNode(sound, "recorder", { numberOfOutputs: 0 });
  source.connect(recorder);
  const wish = element("translate").value;
  const session = new LiveSession({ sample_rate: sound.sampleRate, translate: wish ? [wish] : [] }, key);
  session.addEventListener("message", ({ detail }) => hear(detail, session));
  session.addEventListener("end", ({ detail }) => stopSpeaking(detail));
  recorder.port.onmessage = ({ data }) => {
    showLevel(data);
    session.send(data);
  };
  speaking = { stream, sound, session };
  session.start();
  element("speak").setAttribute("aria-pressed", "true");
  element("speak-text").textContent = "Stop";
  element("level").hidden = false;
}

// The browser resamples where it can; where it cannot, the workers do.
function listenTo(stream) {
  try {
    return new AudioContext({ sampleRate: 16_000 }).createMediaStreamSource(stream);
  } catch {
    return new AudioContext().createMediaStreamSource(stream);
  }
}

function hear(message, session) {
  if (message.type === "ready") captions.offerDownloads(session.sessionId);
  if (message.type === "backpressure") tell(message.paused ? "Too much waits; pausing …" : "Listening …");
  if (message.type === "status" && message.state === "finishing") captions.expect(message.chunks);
  if (message.type === "error") showError(message.message);
  captions.take(message);
}

function finishSpeaking() {
  for (const track of speaking.stream.getTracks()) track.stop();
  speaking.sound.close();
  speaking.session.end();
  tell("Waiting for the last words …");
  quietButton();
}

function stopSpeaking(trouble) {
  if (speaking?.sound.state !== "closed") {
    for (const track of speaking.stream.getTracks()) track.stop();
    speaking.sound.close();
  }
  speaking = null;
  quietButton();
  if (trouble) showError(trouble);
}

function quietButton() {
  element("speak").setAttribute("aria-pressed", "false");
  element("speak-text").textContent = "Speak";
  element("level").hidden = true;
}

function showLevel(buffer) {
  const samples = new Int16Array(buffer);
  const loudest = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  element("level").value = Math.sqrt(loudest / 32768);
}

// ── the page ───────────────────────────────────────────────────────────────────────────────────────────────────

function begin(status) {
  results?.close();
  results = null;
  captions.clear(element("translate").value);
  tell(status);
}

function tell(status) {
  element("status").textContent = status;
}

function showError(message) {
  element("error").textContent = message.charAt(0).toUpperCase() + message.slice(1);
  element("error").hidden = false;
  tell("");
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}.${Math.floor((seconds % 1) * 10)}`;
}

function milliseconds(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

function languageName(code) {
  return new Intl.DisplayNames(["en"], { type: "language" }).of(code);
}

function offerSpeaking() {
  const note = element("speak-note");
  if (!window.isSecureContext || !navigator.mediaDevices) {
    note.textContent = "Browsers give a page the microphone over HTTPS or on localhost only.";
    note.hidden = false;
    element("speak").disabled = true;
  }
  element("speak").addEventListener("click", () => {
    if (speaking) finishSpeaking();
    else speak().catch((error) => showError(`The microphone cannot be used: ${error.message}`));
  });
}

function offerFiles() {
  const drop = element("drop");
  element("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) upload(target.files[0]);
    target.value = "";
  });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  });
}

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = element("key").value;
  sessionStorage.setItem("key", key);
  element("key-form").hidden = true;
  showHealth();
});

offerFiles();
offerSpeaking();
showHealth();
setInterval(showHealth, HEALTH_EVERY);
