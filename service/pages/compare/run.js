// One comparison: sends rows in chunks, waits where it must, and can be stopped and continued.

import { ask, modelPath, pause } from "../app/api.js";
import { Tally } from "./figures/tally.js";

// A request should take this long: short enough to stop soon, long enough to be worth its overhead.
const CHUNK_SECONDS = 1;
const FIRST_CHUNK = 8;
// Texts that are sent alone: their times are the latency of single requests. At most one of so many rows.
const ALONE_MOST = 150;
const ROWS_PER_ALONE = 4;
const FAR_WAIT_SECONDS = 10;
const REFUSED_IN_A_ROW_MOST = 20;
const RATE_MEMORY = 0.8;
// Answers that concern the texts sent, so that fewer of them may pass.
const TOO_MUCH = new Set([413, 422, 504]);

export class ComparisonRun extends EventTarget {
  state = "ready"; // running, waiting, needs key, stopped, done, failed
  message = "";
  warnings = new Set();
  refused = []; // { number, reason }
  seconds = 0;
  #position = 0;
  #chunk = FIRST_CHUNK;
  #rate = null; // rows per second
  #refusedInARow = 0;
  #abort = new AbortController();
  #versions = new Map();

  // `rows` are { number, text, pair, truth, truths }; `overlong` the treatment of long texts, null for the task's default;
  // `limits` those of /info.
  constructor({ task, reference, candidate, rows, overlong, limits }) {
    super();
    Object.assign(this, { task, reference, candidate, rows, overlong, limits });
    this.tally = new Tally(task, reference, candidate);
  }

  get done() {
    return this.#position;
  }

  get busy() {
    return ["running", "waiting", "needs key"].includes(this.state);
  }

  // Seconds that the remaining rows will take; null before the first answer.
  get secondsLeft() {
    return this.#rate ? (this.rows.length - this.#position) / this.#rate : null;
  }

  stop() {
    this.#abort.abort();
  }

  async start() {
    this.#abort = new AbortController();
    this.#enter("running", "");
    try {
      while (this.#position < this.rows.length) {
        await this.#sendNext();
        if (this.#abort.signal.aborted) {
          this.#enter("stopped", "");
          return;
        }
      }
      this.#enter("done", "");
    } catch (problem) {
      if (problem.name === "AbortError") this.#enter("stopped", "");
      else this.#enter("failed", problem.message);
    }
  }

  async #sendNext() {
    const { tally } = this;
    const alone = this.#alone;
    const chunk = this.#nextRows(alone ? 1 : this.#chunk);
    const started = performance.now();
    let answer;
    try {
      answer = await this.#send(chunk);
    } catch (problem) {
      if (!TOO_MUCH.has(problem.status)) throw problem;
      this.#passOver(chunk, problem);
      return;
    }
    if (answer === null) return;
    const seconds = (performance.now() - started) / 1000;
    this.#note(answer);
    answer.items.forEach((item, place) => tally.add(chunk[place], item));
    const times = Object.fromEntries(answer.variants.map((one) => [one.model.variant, one.inference_seconds]));
    tally.addSeconds(chunk.length, times[this.reference], times[this.candidate]);
    this.#position += chunk.length;
    this.#refusedInARow = 0;
    this.seconds += seconds;
    if (!alone || this.#rate === null) this.#adapt(chunk.length, seconds);
    this.dispatchEvent(new Event("change"));
  }

  // True if the next text is to be sent alone: these texts are spread evenly over the file.
  get #alone() {
    const spacing = Math.max(this.rows.length / ALONE_MOST, ROWS_PER_ALONE);
    return this.#position >= spacing * this.tally.alone.reference.length;
  }

  // The next rows, as many as the service's limits allow.
  #nextRows(most) {
    const { limits } = this;
    const count = Math.min(most, limits.max_items, Math.max(limits.max_waiting_inputs, 1));
    const chunk = [];
    let [bytes, tokens] = [0, 0];
    for (const row of this.rows.slice(this.#position, this.#position + count)) {
      const characters = row.text.length + (row.pair?.length ?? 0);
      bytes += 4 * characters + 64; // at most 4 bytes a character in JSON, except control characters
      tokens += Math.min(characters + 3, this.overlong === "windows" ? Infinity : this.task.max_length ?? Infinity);
      if (chunk.length && (2 * bytes > limits.max_body_bytes || 2 * tokens > limits.max_waiting_tokens)) break;
      chunk.push(row);
    }
    return chunk;
  }

  // The answer, or null if the run was stopped while it waited.
  async #send(chunk) {
    const { signal } = this.#abort;
    const inputs = chunk.map(({ text, pair }) => (pair === null ? text : { text, text_pair: pair }));
    const body = { inputs, variants: [this.reference, this.candidate], ...(this.overlong && { overlong: this.overlong }) };
    for (let attempt = 0; ; attempt += 1) {
      try {
        const answer = await ask(modelPath(this.task.task, "compare"), { body, signal });
        if (this.state !== "running") this.#enter("running", "");
        return answer;
      } catch (problem) {
        await this.#wait(problem, attempt);
        if (signal.aborted) return null;
      }
    }
  }

  // Wait for what passes by itself or for a key; throws every other problem.
  async #wait(problem, attempt) {
    if (problem.status === 401) {
      this.#enter("needs key", `${problem.message} Give a key above: the comparison continues where it is.`);
      await pause(Infinity, this.#abort.signal);
    } else if (problem.passes) {
      const seconds = problem.retryAfterSeconds ?? Math.min(2 ** attempt, FAR_WAIT_SECONDS);
      this.#enter("waiting", `${problem.message} Trying again in ${seconds} s.`);
      await pause(seconds, this.#abort.signal);
    } else {
      throw problem;
    }
  }

  // Send fewer texts next time; a single one that is refused is left out with its reason.
  #passOver(chunk, problem) {
    if (chunk.length > 1) {
      this.#chunk = Math.max(Math.floor(chunk.length / 2), 1);
      return;
    }
    this.refused.push({ number: chunk[0].number, reason: problem.message });
    this.#position += 1;
    this.#refusedInARow += 1;
    if (this.#refusedInARow >= REFUSED_IN_A_ROW_MOST) throw problem;
    this.dispatchEvent(new Event("change"));
  }

  #adapt(count, seconds) {
    const rate = count / Math.max(seconds, 1e-3);
    this.#rate = this.#rate === null ? rate : RATE_MEMORY * this.#rate + (1 - RATE_MEMORY) * rate;
    const fitting = Math.floor(rate * CHUNK_SECONDS);
    if (count > 1 || this.#chunk === 1) {
      this.#chunk = Math.max(Math.min(fitting, 2 * count), Math.min(FIRST_CHUNK, 2 * count));
    }
  }

  #note(answer) {
    for (const warning of answer.warnings ?? []) this.warnings.add(warning);
    for (const { model } of answer.variants) {
      const known = this.#versions.get(model.variant);
      if (known !== undefined && known !== model.version) {
        this.warnings.add(`${model.variant} changed from version ${known} to ${model.version} meanwhile: start again for ` +
          "clean figures.");
      }
      this.#versions.set(model.variant, model.version);
    }
  }

  #enter(state, message) {
    Object.assign(this, { state, message });
    this.dispatchEvent(new Event("change"));
  }
}
