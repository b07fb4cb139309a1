// The service as every section sees it: readiness, tasks, reports. Read at the start, and again while it changes.

import { ask, connection, keys } from "./api.js";

const LOADING_SECONDS = 1;
const AWAY_SECONDS = 3;

class ServiceState extends EventTarget {
  info = null;
  models = [];
  refused = [];
  reports = [];
  problem = null;
  #timer = null;
  #reading = false;

  constructor() {
    super();
    keys.addEventListener("change", () => this.read());
    connection.addEventListener("lost", () => {
      if (!this.#reading && this.problem === null) this.read();
    });
  }

  async read() {
    clearTimeout(this.#timer);
    this.#reading = true;
    try {
      const [info, models, reports] = await Promise.all([ask("info"), ask("v1/models"), ask("v1/reports")]);
      Object.assign(this, { info, models: models.models, refused: models.refused, reports: reports.reports, problem: null });
    } catch (problem) {
      this.problem = problem;
    }
    this.#reading = false;
    this.dispatchEvent(new Event("change"));
    const seconds = this.#secondsToNext();
    if (seconds !== null) this.#timer = setTimeout(() => this.read(), 1000 * seconds);
  }

  get ready() {
    return this.problem === null && this.info?.ready === true;
  }

  task(name) {
    return this.models.find((one) => one.task === name);
  }

  // Variants of a task that answer, dense first.
  serving(name) {
    const ready = (this.task(name)?.variants ?? []).filter((one) => one.state === "ready").map((one) => one.variant);
    return ready.sort((one, other) => (other === "dense") - (one === "dense"));
  }

  #secondsToNext() {
    if (this.problem !== null) return this.problem.status === 401 ? null : AWAY_SECONDS;
    const loads = this.models.some((task) => task.variants.some((one) => one.state === "loading"));
    return loads || !this.info.ready ? LOADING_SECONDS : null;
  }
}

export const service = new ServiceState();
