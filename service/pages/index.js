"use strict";

const FORMATS = {
  html: { ending: "html", text: "page with plots" },
  json: { ending: "json", text: "JSON" },
  markdown: { ending: "md", text: "Markdown" },
};
const find = (id) => document.getElementById(id);
let tasks = [];
let key = "";

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

async function request(path, body) {
  const headers = {
    ...(body && { "Content-Type": "application/json" }),
    ...(key && { Authorization: `Bearer ${key}` }),
  };
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  if (answer.status === 401) {
    find("keyform").hidden = false;
    find("key").focus();
  }
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer;
}

const ask = async (path, body) => (await request(path, body)).json();

// A link cannot send a key. With a key, fetch the target of the link and save it.
async function save(event) {
  if (!key) return;
  event.preventDefault();
  const link = event.currentTarget;
  const url = URL.createObjectURL(await (await request(link.getAttribute("href"))).blob());
  element("a", { href: url, download: link.dataset.file }).click();
  URL.revokeObjectURL(url);
}

const percent = (fraction, digits = 1) => (fraction == null ? "–" : `${(100 * fraction).toFixed(digits)} %`);
const megabytes = (bytes) => (bytes == null ? "–" : `${(bytes / 1e6).toFixed(bytes < 1e6 ? 3 : 1)} MB`);
const RUNTIMES = { onnx: "ONNX\u00a0Runtime", sparse: "sparse\u00a0runtime" };
const milliseconds = (seconds) => `${(1000 * seconds).toFixed(seconds < 0.01 ? 2 : 1)} ms`;

function table(headings, rows) {
  const cell = (kind, value, place) =>
    element(kind, { className: headings[place].startsWith("#") ? "number" : "" }, value);
  const head = element("tr", {}, ...headings.map((text, place) => cell("th", text.replace("#", ""), place)));
  const body = rows.map((row) => element("tr", {}, ...row.map((value, place) => cell("td", value, place))));
  return element("div", { className: "scroll", tabIndex: 0 },
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

function bar(label, score, regression) {
  if (regression) return element("div", { className: "row" }, element("span", {}, label), "", element("span", {}, score.toFixed(3)));
  const shown = Math.min(Math.max(score, 0), 1);
  return element("div", { className: "row" },
    element("span", {}, label),
    element("progress", { className: "bar", max: 1, value: shown, ariaLabel: label }),
    element("span", {}, percent(score)));
}

function showState(ready, reason) {
  const badge = find("state");
  badge.textContent = ready ? "ready" : "not ready";
  badge.className = `badge ${ready ? "good" : "bad"}`;
  badge.title = reason || "every default model has answered a warm-up request";
  find("reason").textContent = reason ?? "";
}

function showTask(task, reports, refusal) {
  const block = element("div", { className: "task" }, element("h3", {}, task.task));
  const facts = [task.labels.slice(0, 8).join(", ") + (task.labels.length > 8 ? ", …" : "")];
  if (task.max_length) facts.push(`up to ${task.max_length} tokens`);
  block.append(element("p", { className: "note" }, facts.filter(Boolean).join(" · ")));
  if (refusal) block.append(element("p", { className: "error" }, `refused: ${refusal.reason}`));
  block.append(table(
    ["Variant", "State", "#Sparsity", "Served file", "#Size", "Runtime", "#Latency", "#Test accuracy", "Version"],
    task.variants.map((one) => [
      element("span", {}, one.variant, " ",
        ...(one.variant === task.default_variant ? [element("span", { className: "badge good" }, "default")] : [])),
      one.state === "refused"
        ? element("span", {}, element("span", { className: "badge bad" }, "refused"), ` ${one.reason}`) : one.state,
      percent(one.encoder_sparsity, 0), one.file ? element("code", {}, one.file) : "–", megabytes(one.file_bytes),
      RUNTIMES[one.runtime] ?? "–", one.latency ? milliseconds(one.latency.p50_seconds) : "–",
      percent(one.accuracy), element("code", {}, one.version || "–"),
    ]),
  ));
  const measured = task.variants.map((one) => one.latency).find(Boolean);
  if (measured) {
    block.append(element("p", { className: "note" },
      `Latency: median of ${measured.batch === 1 ? "one text" : `${measured.batch} texts`} of ${measured.length} tokens ` +
      `with ${measured.threads} threads on ${measured.cpu}, measured when the bundle was made.`));
  }
  const report = reports.find((one) => one.task === task.task);
  if (report) {
    const path = report.url.slice(1);
    const links = report.formats.map((format) => {
      const { ending, text } = FORMATS[format];
      return reportLink(`${path}?format=${format}`, `${task.task}.${ending}`, text);
    });
    block.append(element("p", { className: "note" }, "Report: ", ...links.flatMap((link, i) => (i ? [", ", link] : [link]))));
  }
  return block;
}

function reportLink(href, file, text) {
  const link = element("a", { href }, text);
  link.dataset.file = file;
  link.addEventListener("click", (event) => save(event).catch((error) => showError(error)));
  return link;
}

function showError(error) {
  find("error").textContent = error.message;
  find("error").hidden = false;
}

function chosenTask() {
  return tasks.find((task) => task.task === find("task").value);
}

const isRegression = () => chosenTask()?.problem_type === "regression";

const asInput = (line) => {
  const [text, pair] = line.split("\t");
  return pair === undefined ? text : { text, text_pair: pair };
};

function fillVariants() {
  const task = chosenTask();
  if (!task) return;
  const ready = task.variants.filter((one) => one.state === "ready").map((one) => one.variant);
  const fill = (select, names, chosen) => {
    select.replaceChildren(...names.map((name) => element("option", { value: name, selected: name === chosen }, name)));
  };
  fill(find("variant"), ready, task.default_variant);
  const others = ready.filter((name) => name !== find("variant").value);
  fill(find("other"), others, others.includes("dense") ? "dense" : others[0]);
  document.querySelector("button[value=compare]").disabled = others.length === 0;
  find("example").textContent =
    `curl ${new URL("v1/models/" + task.task + "/classify", document.baseURI)} \\\n` +
    (key ? "  -H 'Authorization: Bearer YOUR_KEY' \\\n" : "") +
    `  -H 'Content-Type: application/json' -d '{"inputs": "a warm, funny, engaging film", "top_k": null}'`;
}

const shownWarnings = (answer) =>
  (answer.warnings ?? []).map((text) => element("p", { className: "error" }, `Warning: ${text}`));

function showClassified(texts, answer) {
  const seconds = answer.timings;
  find("results").replaceChildren(
    element("p", { className: "note" },
      `${answer.model.variant} · ${milliseconds(seconds.total_seconds)} in all, ${milliseconds(seconds.inference_seconds)} of it inference`),
    ...shownWarnings(answer),
    ...answer.predictions.map((labels, row) => {
      const { tokens, truncated } = answer.usage[row];
      return element("div", { className: "result" },
        element("p", { className: "text", dir: "auto" }, texts[row]),
        ...labels.slice(0, 5).map((one) => bar(one.label, one.score, isRegression())),
        element("p", { className: "note" }, `${tokens} tokens${truncated ? ", the text was truncated" : ""}`));
    }));
}

function showCompared(texts, answer) {
  const summary = answer.summary;
  find("results").replaceChildren(
    table(["Variant", "#Inference", "#Speed-up", "#Same prediction", "#Largest difference"],
      answer.variants.map((one) => [
        one.model.variant, milliseconds(one.inference_seconds), `${one.latency_ratio.toFixed(2)}×`,
        percent(one.agreement, 0), one.max_difference.toFixed(3),
      ])),
    element("p", { className: "note" },
      `${summary.items} texts, one run each; ${answer.reference} is the reference. See the report for reliable figures.`),
    ...shownWarnings(answer),
    ...answer.items.map((item, row) => element("div", { className: "result" },
      element("p", { className: "text", dir: "auto" }, texts[row]),
      ...Object.entries(item.predictions).map(([variant, one]) => bar(`${variant}: ${one.label}`, one.score, isRegression())),
      element("p", { className: "note" },
        item.agree == null ? "" : item.agree ? "same prediction" : "different predictions"))));
}

async function submit(event) {
  event.preventDefault();
  const texts = find("texts").value.split("\n").filter((line) => line.trim());
  const compares = event.submitter?.value === "compare";
  const { task } = chosenTask() ?? {};
  find("error").hidden = true;
  const buttons = [...document.querySelectorAll("button")].filter((button) => !button.disabled);
  buttons.forEach((button) => { button.disabled = true; });
  try {
    if (!task) throw new Error("no model is loaded yet");
    const variant = find("variant").value;
    if (!variant) throw new Error(`no variant of ${task} is served: see the models below`);
    const root = `v1/models/${encodeURIComponent(task)}`;
    if (compares) {
      // The first is the reference: dense, where it is one of the two.
      const variants = [find("other").value, variant].sort((one, other) => (other === "dense") - (one === "dense"));
      showCompared(texts, await ask(`${root}/compare`, { inputs: texts.map(asInput), variants }));
    } else {
      showClassified(texts, await ask(`${root}/${encodeURIComponent(variant)}/classify`, { inputs: texts.map(asInput), top_k: null }));
    }
  } catch (error) {
    find("results").replaceChildren();
    showError(error);
  } finally {
    buttons.forEach((button) => { button.disabled = false; });
  }
}

async function load() {
  const [info, models, reports] = await Promise.all([ask("info"), ask("v1/models"), ask("v1/reports")]);
  showState(info.ready, info.reason);
  tasks = models.models;
  find("tasks").replaceChildren(...tasks.map((task) => showTask(task, reports.reports,
    models.refused.find((one) => one.task === task.task && one.variant === null))));
  if (tasks.length === 0) find("tasks").replaceChildren(element("p", { className: "error" }, info.reason));
  const serving = tasks.find((task) => task.variants.some((one) => one.state === "ready"));
  find("task").replaceChildren(...tasks.map((task) =>
    element("option", { value: task.task, selected: task === serving }, task.task)));
  fillVariants();
  if (tasks.some((task) => task.variants.some((one) => one.state === "loading"))) setTimeout(load, 1000);
}

find("form").addEventListener("submit", submit);
find("task").addEventListener("change", fillVariants);
find("variant").addEventListener("change", () => {
  const task = chosenTask();
  const chosen = find("variant").value;
  const others = task.variants.filter((one) => one.state === "ready" && one.variant !== chosen).map((one) => one.variant);
  find("other").replaceChildren(...others.map((name) =>
    element("option", { value: name, selected: name === "dense" }, name)));
});
find("texts").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("form").requestSubmit();
});
find("keyform").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value.trim();
  find("keyform").hidden = true;
  find("reason").textContent = "";
  begin();
});
const begin = () => load().catch((error) => {
  showState(false, error.message);
  if (!find("keyform").hidden) find("state").textContent = "needs a key";
});
begin();
