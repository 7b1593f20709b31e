// The page: takes a file, the microphone or a meeting, and shows what comes back.

import { Captions } from "./captions.js";
import { LiveSession } from "./live.js";
import { Meeting } from "./meeting.js";
import { authorization, askForKey, currentKey, element, showError, tell, useKey } from "./page.js";
import { System } from "./system.js";

const captions = new Captions();
const meeting = new Meeting(captions, () => system.look());
const system = new System((bot) => meeting.show(bot));

// ── a file ─────────────────────────────────────────────────────────────────────────────────────────────────────

function upload(file) {
  begin(`Sending ${file.name} …`);
  const form = new FormData();
  form.append("translate", element("translate").value);
  form.append("diarize", element("diarize").checked);
  form.append("file", file);
  // XMLHttpRequest, because fetch does not say how much has been sent.
  const request = new XMLHttpRequest();
  request.open("POST", "/api/audio/upload");
  for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
  request.upload.onprogress = ({ loaded, total }) => showSent(loaded / total);
  request.onerror = () => showError("The server cannot be reached.");
  request.onload = () => {
    showSent(1);
    const answer = parsed(request.responseText);
    if (request.status !== 202) {
      if (request.status === 401) askForKey();
      showError(typeof answer.detail === "string" ? answer.detail : `The server answers ${request.status}.`);
      return;
    }
    tell(answer.repeated ? "This recording has been heard before." : "Sent; waiting for its words …");
    captions.expect(answer.chunk_ids.length);
    captions.offerDownloads(answer.session_id);
    captions.follow(answer.session_id);
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
  const session = new LiveSession({ sample_rate: sound.sampleRate, translate: wish ? [wish] : [] }, currentKey());
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
  meeting.leaveCaptions();
  captions.begin(status, element("translate").value);
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
  useKey(element("key").value);
  system.look();
  meeting.takeUp();
});

offerFiles();
offerSpeaking();
system.start();
meeting.start();
