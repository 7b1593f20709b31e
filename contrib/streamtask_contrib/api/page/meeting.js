// A bot in a meeting: sent, watched from one state to the next, called back. Its words are captions like any others.

import { ask, element, hue, openSocket, sentence, showError, span, tell } from "./page.js";

const STEPS = ["Asked", "Joining", "In call", "Listening", "Left"];
const STATES = {
  requested: { step: 0, name: "asked for", text: "Waits to be started" },
  starting: { step: 0, name: "starting", text: "Is being started" },
  joining: { step: 1, name: "joining", text: "Is on its way in" },
  waiting_room: { step: 1, name: "waiting room", text: "Waits for somebody in the meeting to let it in" },
  in_call: { step: 2, name: "in the call", text: "Is in the call, and hears nobody yet" },
  capturing: { step: 3, name: "listening", text: "Listens" },
  leaving: { step: 3, name: "leaving", text: "Is leaving" },
  stopped: { step: 4, name: "left", text: "Has left" },
  failed: { step: 4, name: "failed", text: "It did not work" },
};
const REASONS = {
  requested: "as it was asked to",
  everyone_left: "everybody else has left",
  nobody_joined: "nobody else came",
  silence: "nobody has spoken for long",
  longest: "it was there for as long as it may be",
  waiting_room_timeout: "nobody let it in",
  join_timeout: "the meeting could not be reached in time",
  meeting_ended: "the meeting is over",
  process_lost: "its process was lost",
  removed: "somebody in the meeting has removed it",
  denied: "it was not let in",
};
const ENDED = ["stopped", "failed"];
// What plays a recording as a meeting is told by its address.
const RECORDING = /^(file|recording):/;

export const stateName = (state) => STATES[state]?.name ?? state;

export class Meeting {
  #captions;
  #changed;
  #bot = null;
  #socket = null;
  // How far it came: one that failed did not go through what is between.
  #reached = 0;

  // `changed`: called when a bot is in another state.
  constructor(captions, changed) {
    this.#captions = captions;
    this.#changed = changed;
  }

  start() {
    // A link may say where to go; to go there is for who opened it.
    element("meeting-url").value = new URLSearchParams(location.search).get("meeting") ?? "";
    element("track").replaceChildren(...STEPS.map((name) => made("li", name)));
    element("meeting-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#act(this.#send(), element("send-bot"));
    });
    element("stop-bot").addEventListener("click", () => this.#act(this.#stop(), element("stop-bot")));
    setInterval(() => this.#showTime(), 1000);
    this.takeUp();
  }

  // A bot that is in a meeting already is shown to who comes.
  async takeUp() {
    const answer = await ask("/api/bots?living=true").catch(() => null);
    const [bot] = answer ? await answer.json() : [];
    if (bot && !this.#bot) this.show(bot);
  }

  show(bot) {
    this.#socket?.close();
    this.#bot = { ...bot, sequence: -1 };
    this.#reached = 0;
    element("bot").hidden = false;
    element("bot-id").textContent = bot.bot_id;
    element("meeting-name").textContent = shortName(bot.meeting_url);
    element("meeting-name").title = bot.meeting_url;
    this.#take(bot);
    this.#captions.begin(`Listening to ${shortName(bot.meeting_url)} …`, element("translate").value);
    this.#captions.offerDownloads(bot.session_id);
    this.#captions.follow(bot.session_id);
    this.#watch(bot.bot_id);
  }

  // Something else is to be heard; the bot stays where it is.
  leaveCaptions() {
    this.#socket?.close();
    this.#socket = null;
    this.#bot = null;
    element("bot").hidden = true;
  }

  async #act(promise, button) {
    button.disabled = true;
    try {
      await promise;
    } catch (error) {
      showError(error.message);
    } finally {
      button.disabled = false;
    }
  }

  async #send() {
    const address = element("meeting-url").value.trim();
    const wish = element("translate").value;
    const body = {
      meeting_url: address,
      driver: RECORDING.test(address) ? "file" : "browser",
      translate: wish ? [wish] : [],
    };
    const answer = await ask("/api/bots", { method: "POST", body });
    const { bot_id: botId } = await answer.json();
    this.show(await (await ask(`/api/bots/${botId}`)).json());
  }

  async #stop() {
    this.#take(await (await ask(`/api/bots/${this.#bot.bot_id}`, { method: "DELETE" })).json());
  }

  // Every status as it comes; a socket that breaks is followed by another, which begins with what stands then.
  #watch(botId) {
    const socket = openSocket(`/api/bots/${botId}/status`);
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (this.#socket === socket && message.type === "status") this.#take(message);
    };
    socket.onclose = ({ code }) => {
      const isOver = this.#socket !== socket || code >= 4000 || ENDED.includes(this.#bot?.state);
      if (!isOver) setTimeout(() => this.#socket === socket && this.#watch(botId), 1000);
    };
  }

  #take(status) {
    if (status.sequence < this.#bot.sequence) return;
    if (status.state !== this.#bot.state) this.#changed();
    this.#bot = { ...this.#bot, ...status };
    const { state, reason, sub_code: subCode, participants, desired, attempt } = this.#bot;
    const { step, name, text } = STATES[state];
    const isOver = ENDED.includes(state);
    const asked = desired === "stopped" && !isOver && state !== "leaving";
    element("bot").dataset.state = state;
    element("bot-state").textContent = asked ? "asked to leave" : name;
    element("bot-text").textContent = `${text}${isOver ? because(reason, subCode) : ""}${attempt > 1 ? `, attempt ${attempt}` : ""}`;
    if (state !== "failed") this.#reached = step;
    else if (!this.#captions.isDone) tell("Nothing more will come.");
    for (const [place, item] of [...element("track").children].entries()) {
      item.className = place === step ? "current" : place <= this.#reached ? "done" : "";
    }
    element("track").lastElementChild.textContent = state === "failed" ? "Failed" : STEPS.at(-1);
    element("participants").replaceChildren(...participants.map(chip));
    element("participants").hidden = !participants.length;
    element("stop-bot").hidden = isOver || asked || state === "leaving";
    this.#showTime();
  }

  #showTime() {
    if (!this.#bot) return;
    const since = (Date.now() - Date.parse(this.#bot.changed_at)) / 1000;
    element("bot-since").textContent = ENDED.includes(this.#bot.state) ? `${span(since)} ago` : `for ${span(since)}`;
  }
}

function because(reason, subCode) {
  const why = REASONS[reason] ?? reason.replaceAll("_", " ");
  const finer = subCode && subCode !== reason ? ` (${subCode.replaceAll("_", " ")})` : "";
  return why ? `: ${why}${finer}` : "";
}

function chip(name) {
  const item = made("li", name);
  item.className = "speaker";
  item.dataset.hue = hue(name);
  return item;
}

export function made(tag, text) {
  const item = document.createElement(tag);
  item.textContent = text;
  return item;
}

// "https://meet.example.org/standup?token=…" → "meet.example.org/standup"
export function shortName(address) {
  const [place] = address.replace(/^[a-z]+:(\/\/)?/, "").split(/[?#]/);
  return place.replace(/\/$/, "") || sentence(address);
}
