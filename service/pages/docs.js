"use strict";

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function typeOf(schema, document) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return [...new Set(schema.anyOf.map((one) => typeOf(one, document)))].join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") {
    const item = typeOf(schema.items, document);
    return item.includes(" | ") ? `(${item})[]` : `${item}[]`;
  }
  if (schema.type === "object" && schema.additionalProperties?.type) return `{name: ${schema.additionalProperties.type}}`;
  return schema.type ?? "any";
}

function resolve(schema, document) {
  return schema.$ref ? document.components.schemas[schema.$ref.split("/").pop()] : schema;
}

function fields(schema, document) {
  const resolved = resolve(schema, document);
  const rows = Object.entries(resolved.properties ?? {}).map(([field, facts]) => {
    const needed = resolved.required?.includes(field);
    const preset = facts.default === undefined ? "" : `default ${JSON.stringify(facts.default)}. `;
    return element("tr", {},
      element("td", {}, element("code", {}, field)),
      element("td", {}, element("code", {}, typeOf(facts, document)), needed ? "" : " (optional)"),
      element("td", {}, preset + (facts.description ?? "")));
  });
  if (rows.length === 0) return element("p", { className: "note" }, typeOf(schema, document));
  const head = element("tr", {}, ...["Field", "Type", "What"].map((text) => element("th", {}, text)));
  return element("div", { className: "scroll", tabIndex: 0 },
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function nested(schema, document, seen = new Set()) {
  for (const found of JSON.stringify(schema).matchAll(/#\/components\/schemas\/(\w+)/g)) {
    if (seen.has(found[1])) continue;
    seen.add(found[1]);
    nested(document.components.schemas[found[1]], document, seen);
  }
  return seen;
}

function operation(path, method, facts, document) {
  const block = element("details", {},
    element("summary", {}, element("span", { className: "method" }, method.toUpperCase()), element("code", {}, path),
      element("span", { className: "what" }, facts.description ?? "")));
  if (facts.parameters?.length) {
    block.append(element("p", { className: "note" }, "Parameters: " + facts.parameters.map((one) =>
      `${one.name} (${one.in}, ${typeOf(one.schema, document)})`).join(", ")));
  }
  const body = facts.requestBody?.content["application/json"]?.schema;
  if (body) {
    block.append(element("p", { className: "note" }, "Body"), fields(body, document));
    const example = resolve(body, document).examples?.[0];
    if (example) {
      block.append(element("pre", { tabIndex: 0 },
        `curl ${location.origin}${path} \\\n  -H 'Content-Type: application/json' -d '${JSON.stringify(example)}'`));
    }
  }
  for (const [status, answer] of Object.entries(facts.responses)) {
    const [media, content] = Object.entries(answer.content ?? {})[0] ?? ["", {}];
    if (Number(status) < 300 && content.schema) {
      block.append(element("p", { className: "note" }, `${status}: ${media}`), fields(content.schema, document));
      for (const name of nested(content.schema, document)) {
        if (content.schema.$ref?.endsWith(`/${name}`)) continue;
        const reference = { $ref: `#/components/schemas/${name}` };
        block.append(element("p", { className: "note" }, name), fields(reference, document));
      }
    }
  }
  if (facts.security) block.append(element("p", { className: "note" }, "Needs an API key where the service has keys"));
  const errors = Object.keys(facts.responses).filter((status) => Number(status) >= 400);
  if (errors.length) block.append(element("p", { className: "note" }, `Errors: ${errors.join(", ")} as application/problem+json`));
  return block;
}

async function load() {
  const document_ = await (await fetch("openapi.json")).json();
  document.getElementById("lead").textContent = document_.info.description;
  const groups = new Map();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const [method, facts] of Object.entries(methods)) {
      const tag = facts.tags?.[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operation(path, method, facts, document_));
    }
  }
  groups.set("errors", [fields({ $ref: "#/components/schemas/Problem" }, document_)]);
  document.getElementById("groups").replaceChildren(...[...groups].map(([tag, operations]) =>
    element("section", {}, element("h2", {}, tag[0].toUpperCase() + tag.slice(1)), ...operations)));
  document.querySelector("details")?.setAttribute("open", "");
}

load().catch((error) => { document.getElementById("lead").textContent = `The API's document cannot be read: ${error.message}`; });
