// What is said, line by line: of a file, of the microphone, of a meeting.

import { ask, clock, element, forgetSpeakers, hue, languageName, milliseconds, openSocket, showError, tell } from "./page.js";

export class Captions {
  #lines = new Map();
  #done = 0;
  #chunks = null;
  #language = "";
  #results = null;

  begin(status, translation) {
    this.#results?.close();
    this.#results = null;
    this.#lines.clear();
    this.#done = 0;
    this.#chunks = null;
    this.#language = translation;
    forgetSpeakers();
    element("lines").replaceChildren();
    element("now").hidden = true;
    element("error").hidden = true;
    element("downloads").hidden = true;
    element("progress").hidden = true;
    tell(status);
  }

  // Results come over a socket; one that breaks is followed by another, behind the last result.
  follow(sessionId, after = "0") {
    const socket = openSocket(`/api/sessions/${sessionId}/events`, { after });
    let last = after;
    this.#results = socket;
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      last = message.id || last;
      if (this.#results === socket) this.take(message);
    };
    socket.onclose = ({ code }) => {
      if (this.#results === socket && code < 4000) setTimeout(() => this.#followAgain(socket, sessionId, last), 1000);
    };
  }

  #followAgain(socket, sessionId, after) {
    if (this.#results === socket) this.follow(sessionId, after);
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
      const line = this.#line(message.sequence, place, segment.start);
      line.querySelector("time").textContent = clock(segment.start);
      line.querySelector(".text").textContent = segment.text.trim();
      line.querySelector(".text").lang = message.language;
      showSpeaker(line, message.speaker_map.speakers[segment.speaker] ?? segment.speaker);
      if (place === 0) showTiming(line, "Words", message.latency);
    }
    this.#done += 1;
    if (message.is_last) this.#chunks = message.sequence + 1;
    this.#tellProgress();
  }

  #showTranslation(message) {
    if (message.is_partial) return;
    for (const [place, segment] of message.segments.entries()) {
      const line = this.#line(message.sequence, place, segment.start);
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

  // Chunks are answered in any order, and those of two who speak at once overlap; lines stand as they were spoken.
  #line(sequence, place, start) {
    const known = this.#lines.get(`${sequence}:${place}`);
    if (known) return known;
    const line = element("line").content.firstElementChild.cloneNode(true);
    line.dataset.start = start;
    const next = [...element("lines").children].find((other) => Number(other.dataset.start) > start);
    element("lines").insertBefore(line, next ?? null);
    this.#lines.set(`${sequence}:${place}`, line);
    line.scrollIntoView({ block: "nearest" });
    return line;
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

function showSpeaker(line, name) {
  if (!name) return;
  const label = line.querySelector(".speaker");
  label.textContent = name;
  label.dataset.hue = hue(name);
  label.hidden = false;
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
