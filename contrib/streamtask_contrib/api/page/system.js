// How the system is: a line that is always there, and a panel for who wants to know more.

import { made, shortName, stateName } from "./meeting.js";
import { ask, element, sentence, span } from "./page.js";

const EVERY = 5000;

export class System {
  #choose;

  // `choose`: called with the bot that somebody wants to see.
  constructor(choose) {
    this.#choose = choose;
  }

  start() {
    element("health").addEventListener("click", () => {
      element("system").open = true;
    });
    element("system").addEventListener("toggle", () => this.look());
    this.look();
    setInterval(() => this.look(), EVERY);
  }

  async look() {
    try {
      const health = await (await ask("/api/system/health")).json();
      this.#tell(health.status, line(health), health.problems.join("\n"));
      if (element("system").open) this.#show(health, await (await ask("/api/bots")).json());
    } catch (error) {
      this.#tell("down", error instanceof TypeError ? "The server cannot be reached." : error.message, "");
    }
  }

  #tell(status, text, title) {
    element("health").dataset.status = status;
    element("health").title = title;
    element("health-text").textContent = text;
  }

  #show(health, bots) {
    element("problems").replaceChildren(...health.problems.map((problem) => made("li", sentence(problem))));
    element("problems").closest("section").hidden = !health.problems.length;
    table("services", health.services, ({ service, status, instance, details, last_report: age }) => [
      dotted(status, service),
      details.join("; ") || instance,
      `${span(age)} ago`,
    ]);
    table("anomalies", health.anomalies, ({ kind, subject, severity, evidence, age }) => [
      dotted(severity === "critical" ? "down" : "degraded", kind.replaceAll("_", " ")),
      evidence || subject,
      `for ${span(age)}`,
    ]);
    const living = new Set(health.workers.flatMap(({ groups }) => groups));
    table("groups", health.groups, ({ stream, group, lag, pending, dead }) => [
      dotted(living.has(group) ? (dead ? "degraded" : "ok") : "down", group),
      stream,
      `${lag ?? "?"} wait · ${pending} at work${dead ? ` · ${dead} given up` : ""}`,
    ]);
    table("bots", bots, (bot) => [this.#link(bot), stateName(bot.state), bot.participants.join(", ")]);
  }

  #link(bot) {
    const button = made("button", shortName(bot.meeting_url));
    button.type = "button";
    button.className = "link";
    button.addEventListener("click", () => this.#choose(bot));
    return button;
  }
}

function line(health) {
  if (health.status !== "ok") {
    const more = health.problems.length - 1;
    return `${sentence(health.problems[0])}${more ? ` (and ${more} more)` : ""}`;
  }
  const living = Object.values(health.bots).reduce((sum, count) => sum + count, 0);
  const bots = living ? ` · ${living} ${living === 1 ? "bot" : "bots"}` : "";
  return `ready · ${health.workers.length} workers${bots} · ${health.redis_ping_ms} ms`;
}

function table(id, found, cells) {
  const rows = found.map((one) => row(cells(one).map((cell) => (cell instanceof Node ? wrapped(cell) : made("td", cell)))));
  element(id).replaceChildren(...(rows.length ? rows : [row([none()])]));
}

function row(cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

function none() {
  const cell = made("td", "None");
  cell.className = "none";
  return cell;
}

function wrapped(node) {
  const cell = document.createElement("td");
  cell.append(node);
  return cell;
}

function dotted(status, text) {
  const name = made("span", text);
  name.className = "dotted";
  name.dataset.status = status;
  return name;
}
