// What every part of the page uses: its elements, the API with the key, and how figures are written.

export const element = (id) => document.getElementById(id);

let key = sessionStorage.getItem("key") ?? "";

export function useKey(given) {
  key = given;
  sessionStorage.setItem("key", key);
  element("key-form").hidden = true;
}

export const currentKey = () => key;

export const authorization = () => (key ? { Authorization: `Bearer ${key}` } : {});

export async function ask(path, { body, ...options } = {}) {
  const sent = body && { body: JSON.stringify(body), headers: { ...authorization(), "Content-Type": "application/json" } };
  const answer = await fetch(path, { headers: authorization(), ...options, ...sent });
  if (answer.status === 401) askForKey();
  // 503 is an answer, too, where it is about health: it says what is wrong.
  if (!answer.ok && !(answer.status === 503 && path.includes("/system/"))) throw new Error(await reason(answer));
  return answer;
}

export function askForKey() {
  element("key-form").hidden = false;
}

async function reason(answer) {
  const told = await answer.json().catch(() => ({}));
  return typeof told.detail === "string" ? told.detail : `The server answers ${answer.status}.`;
}

// A socket of the API; browsers let a page send no header with it.
export function openSocket(path, query = {}) {
  const parameters = new URLSearchParams({ ...query, ...(key && { key }) });
  return new WebSocket(`${location.origin.replace(/^http/, "ws")}${path}?${parameters}`);
}

export function tell(status) {
  element("status").textContent = status;
}

export function showError(message) {
  element("error").textContent = sentence(message);
  element("error").hidden = false;
  tell("");
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// Who speaks has one colour wherever the name stands.
const names = [];

export function forgetSpeakers() {
  names.length = 0;
}

export function hue(name) {
  if (!names.includes(name)) names.push(name);
  return names.indexOf(name) % 3;
}

export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}.${Math.floor((seconds % 1) * 10)}`;
}

export function milliseconds(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  return whole < 86_400 ? `${Math.floor(whole / 3600)} h` : `${Math.floor(whole / 86_400)} d`;
}

export function languageName(code) {
  return new Intl.DisplayNames(["en"], { type: "language" }).of(code);
}
