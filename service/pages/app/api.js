// Requests to the service, and the keys that they carry. Keys are kept in this module's memory and nowhere else.

const SECOND = 1000;
const FAULTS_OF_SERVICE = new Set([502, 503]);

// An answer that is not a success. `status` is 0 if the service did not answer at all.
export class Problem extends Error {
  constructor(status, detail, retryAfterSeconds = null) {
    super(detail);
    this.status = status;
    this.retryAfterSeconds = retryAfterSeconds;
  }

  // True for what passes by itself: too many requests, a service that starts, ends or cannot be reached.
  get passes() {
    return this.status === 0 || this.status === 429 || FAULTS_OF_SERVICE.has(this.status);
  }
}

class Keys extends EventTarget {
  #classify = "";
  #admin = "";

  get known() {
    return Boolean(this.#classify || this.#admin);
  }

  // A key has the scopes that it was made with, so one key may do for both.
  of(scope) {
    return scope === "admin" ? this.#admin || this.#classify : this.#classify || this.#admin;
  }

  set(classify, admin) {
    this.#classify = classify.trim();
    this.#admin = admin.trim();
    this.dispatchEvent(new Event("change"));
  }

  refused() {
    this.dispatchEvent(new Event("refused"));
  }
}

export const keys = new Keys();

// Has the event "lost" when the service does not answer a request.
export const connection = new EventTarget();

export async function request(path, { method, body, scope = "classify", signal } = {}) {
  const key = keys.of(scope);
  const headers = {
    ...(body !== undefined && { "Content-Type": "application/json" }),
    ...(key && { Authorization: `Bearer ${key}` }),
  };
  let answer;
  try {
    answer = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection.dispatchEvent(new Event("lost"));
    throw new Problem(0, "The service does not answer. Is it running, and is the network up?");
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

export async function ask(path, options) {
  const answer = await request(path, options);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service ended before it had answered.");
  }
}

export const modelPath = (...parts) => ["v1/models", ...parts.map(encodeURIComponent)].join("/");

// Wait; returns early if the signal is aborted or the keys change.
export function pause(seconds, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      keys.removeEventListener("change", end);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = seconds === Infinity ? undefined : setTimeout(end, seconds * SECOND);
    keys.addEventListener("change", end);
    signal?.addEventListener("abort", end);
    if (signal?.aborted) end();
  });
}

const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

async function problemOf(answer) {
  let detail = `The service answered with status ${answer.status}.`;
  try {
    detail = (await answer.json()).detail ?? detail;
  } catch {
    // A proxy has answered, not the service.
  }
  if (answer.status === 401) {
    if (!keys.known) detail = "This service needs an API key: give one under Keys";
    keys.refused();
  }
  const seconds = Number(answer.headers.get("Retry-After") ?? NaN);
  return new Problem(answer.status, sentence(detail), Number.isFinite(seconds) ? seconds : null);
}
