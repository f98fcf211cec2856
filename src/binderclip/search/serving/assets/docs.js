// The API's description for people, made from openapi.json: nothing is fetched from anywhere else.

import { make } from "./make.js";

const place = document.getElementById("operations");

const EXAMPLES = {
  "post /v1/embeddings": '-d \'{"input": ["a red bicycle", "data:image/png;base64,..."]}\'',
  "post /v1/classify": '-d \'{"input": "data:image/jpeg;base64,...", "labels": ["cat", "dog", "car|automobile"]}\'',
  "post /v1/search": '-d \'{"query": "a dog", "plus": [{"id": "ID"}], "minus": "snow", "where": "date>=2024-01", "limit": 10}\'',
  "get /v1/search": "?q=a+red+bicycle&limit=5",
  "post /v1/search/upload": "-F image=@cat.jpg -F limit=5",
};

const told = await (await fetch(new URL("openapi.json", document.baseURI))).json();

const schemaOf = (schema) => (schema?.$ref ? told.components.schemas[schema.$ref.split("/").pop()] : schema);

function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return String(schema.const);
  if (schema.anyOf) return [...new Set(schema.anyOf.map(kind))].join(" | ");
  if (schema.type === "array") return `[${kind(schema.items)}]`;
  return schema.type ?? "any";
}

function fields(operation) {
  const rows = (operation.parameters ?? []).map((one) => [one.name, one.schema, one.description, one.required]);
  for (const content of Object.values(operation.requestBody?.content ?? {})) {
    const body = schemaOf(content.schema);
    for (const [name, schema] of Object.entries(body.properties ?? {})) rows.push([name, schema, schema.description, body.required?.includes(name)]);
  }
  return rows;
}

function row([name, schema, text, required]) {
  const preset = schema?.default === undefined || schema.default === null ? "" : `, by default ${JSON.stringify(schema.default)}`;
  const about = [text ?? schema?.description ?? "", required ? "(needed)" : ""].join(" ");
  return make("tr", {}, make("td", {}, make("code", { textContent: name })), make("td", { textContent: kind(schema) + preset }), make("td", { textContent: about }));
}

function example(method, path) {
  const more = EXAMPLES[`${method} ${path}`];
  if (!more) return [];
  const address = new URL(path.slice(1), document.baseURI).href;
  const json = more.startsWith("-d") ? "-H 'Content-Type: application/json' " : "";
  const text = more.startsWith("?") ? `curl '${address}${more}'` : `curl ${address} ${json}${more}`;
  return [make("pre", { textContent: text, tabIndex: 0 })];
}

for (const [path, methods] of Object.entries(told.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    const title = make("h2", {}, make("b", { textContent: method.toUpperCase() }), path);
    const section = make("section", {}, title, make("p", { textContent: (operation.description || operation.summary).replaceAll("`", "") }));
    const rows = fields(operation);
    if (rows.length) section.append(make("table", {}, make("tbody", {}, ...rows.map(row))));
    section.append(...example(method, path));
    place.append(section);
  }
}
place.removeAttribute("aria-busy");
