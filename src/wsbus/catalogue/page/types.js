// JSON Schema (2020-12) as a short text, as rows of fields, and as an example.

let definitions = {};

export const define = (found) => {
  definitions = found;
};

const nameOf = (schema) => schema.$ref?.slice(schema.$ref.lastIndexOf("/") + 1);

/** The schema that a reference leads to. */
export const resolved = (schema) => {
  const seen = new Set();
  let here = schema ?? {};
  while (here.$ref && !seen.has(here.$ref)) {
    seen.add(here.$ref);
    here = definitions[nameOf(here)] ?? {};
  }
  return here;
};

const choices = (schema) => schema.anyOf ?? schema.oneOf ?? [];

/** A type in a few words: `number | null`, `Order[]`. */
export const kindOf = (schema) => {
  if (!schema || schema === true) return "any";
  if (schema.$ref) return nameOf(schema);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ") || "never";
  if (choices(schema).length) return [...new Set(choices(schema).map(kindOf))].join(" | ");
  if (schema.allOf) return schema.allOf.map(kindOf).join(" & ");
  const { type } = schema;
  if (Array.isArray(type)) return type.map((each) => kindOf({ ...schema, type: each })).join(" | ");
  if (type === "array") return arrayOf(schema);
  if (type === "object") return objectOf(schema);
  return type ? `${type}${bounds(schema)}` : "any";
};

const arrayOf = ({ prefixItems, items }) => {
  if (prefixItems) return `[${prefixItems.map(kindOf).join(", ")}]`;
  const kind = kindOf(items);
  return kind.includes(" ") ? `(${kind})[]` : `${kind}[]`;
};

const objectOf = ({ properties, required = [], additionalProperties }) => {
  if (!properties) {
    return typeof additionalProperties === "object" ? `{ [name]: ${kindOf(additionalProperties)} }` : "object";
  }
  const fields = Object.entries(properties).map(
    ([name, each]) => `${name}${required.includes(name) ? "" : "?"}: ${kindOf(each)}`,
  );
  return fields.length ? `{ ${fields.join(", ")} }` : "{}";
};

/** What is said about values besides their type: ` (0 to 1)`, ` (date-time)`. */
const bounds = (schema) => {
  const said = [];
  if (schema.format) said.push(schema.format);
  const of = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", multipleOf: "a multiple of" };
  for (const [word, sign] of Object.entries(of)) if (word in schema) said.push(`${sign} ${schema[word]}`);
  if ("minLength" in schema) said.push(`${schema.minLength} characters or more`);
  if ("maxLength" in schema) said.push(`${schema.maxLength} characters or fewer`);
  if (schema.pattern) said.push(`like ${schema.pattern}`);
  return said.length ? ` (${said.join(", ")})` : "";
};

/** The fields of an object type; none of others. */
export const fieldsOf = (schema) => {
  const { properties = {}, required = [] } = resolved(schema);
  return Object.entries(properties).map(([name, each]) => ({
    name,
    schema: each,
    kind: kindOf(each),
    isRequired: required.includes(name),
    hasDefault: "default" in each,
    default: each.default,
    text: each.description ?? "",
  }));
};

/** The types with names that a type is made of, with those that these are made of. */
export const namesIn = (schema, found = new Set()) => {
  if (Array.isArray(schema)) schema.forEach((each) => namesIn(each, found));
  else if (schema && typeof schema === "object") {
    const name = typeof schema.$ref === "string" ? nameOf(schema) : undefined;
    if (name && !found.has(name)) {
      found.add(name);
      namesIn(definitions[name], found);
    }
    for (const [word, each] of Object.entries(schema)) if (word !== "default") namesIn(each, found);
  }
  return [...found];
};

export const definition = (name) => definitions[name] ?? {};

const TEXTS = {
  "date-time": "2026-01-31T12:00:00Z",
  date: "2026-01-31",
  time: "12:00:00",
  uuid: "00000000-0000-4000-8000-000000000000",
};

const numberOf = (schema) => {
  const { minimum, exclusiveMinimum, maximum } = schema;
  if (minimum > 0) return minimum;
  if (exclusiveMinimum >= 0) return exclusiveMinimum + 1;
  return maximum < 0 ? maximum : 0;
};

/** A value of a type, to begin with: required fields only. */
export const exampleOf = (schema, depth = 0) => {
  const found = resolved(schema);
  if ("default" in found) return found.default;
  if ("const" in found) return found.const;
  if (found.enum) return found.enum[0];
  if (choices(found).length) return exampleOf(choices(found)[0], depth);
  const type = Array.isArray(found.type) ? found.type[0] : found.type;
  if (type === "object") {
    if (depth > 5) return {};
    const fields = fieldsOf(found).filter(({ isRequired }) => isRequired);
    return Object.fromEntries(fields.map(({ name, schema: each }) => [name, exampleOf(each, depth + 1)]));
  }
  if (type === "array") return (found.prefixItems ?? []).map((each) => exampleOf(each, depth + 1));
  if (type === "string") return TEXTS[found.format] ?? "x".repeat(found.minLength ?? 0);
  if (type === "integer" || type === "number") return numberOf(found);
  return type === "boolean" ? false : null;
};

/** The types that a value may have: `["string", "null"]`; empty: any. */
export const typesOf = (schema) => {
  const found = resolved(schema);
  if (choices(found).length) return [...new Set(choices(found).flatMap(typesOf))];
  if (found.enum) return [...new Set(found.enum.map((each) => (each === null ? "null" : typeof each)))];
  return [found.type ?? []].flat();
};

/** The values of a type that has few of them; none of others. */
export const valuesOf = (schema) => {
  const found = resolved(schema);
  if ("const" in found) return [found.const];
  if (found.type === "boolean") return [true, false];
  if (found.type === "null") return [null];
  if (found.enum) return found.enum;
  const parts = choices(found).map(valuesOf);
  return parts.length && parts.every((each) => each.length) ? parts.flat() : [];
};
