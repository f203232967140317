// What there is to read about a channel or a command: its types and its policy.

import { make } from "./dom.js";
import { definition, fieldsOf, kindOf, namesIn } from "./types.js";

const table = (label, heads, rows) =>
  make(
    "div",
    { className: "scroll", tabIndex: 0, role: "group", ariaLabel: label },
    make(
      "table",
      { className: "rows" },
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows.map((cells) => make("tr", {}, ...cells.map((each) => make("td", {}, each))))),
    ),
  );

const code = (text) => make("code", {}, text);

const fieldsTable = (label, fields) => {
  const hasTexts = fields.some(({ text }) => text);
  return table(
    label,
    ["Name", "Type", "Default", ...(hasTexts ? ["Meaning"] : [])],
    fields.map(({ name, kind, isRequired, hasDefault, default: value, text }) => [
      code(name),
      code(kind),
      hasDefault ? code(JSON.stringify(value)) : isRequired ? "required" : "optional",
      ...(hasTexts ? [text] : []),
    ]),
  );
};

const typeOf = (name) => {
  const schema = definition(name);
  const fields = fieldsOf(schema);
  return make(
    "div",
    { className: "type" },
    make("h5", {}, code(name)),
    ...(schema.description ? [make("p", { className: "quiet" }, schema.description)] : []),
    fields.length ? fieldsTable(`Fields of ${name}`, fields) : make("p", {}, code(kindOf(schema))),
  );
};

const typesOf = (...schemas) => {
  const names = namesIn(schemas);
  return names.length ? [make("h4", {}, "Types"), ...names.map(typeOf)] : [];
};

export const ofChannel = ({ template, parameters, events, policy }) => [
  make("h4", {}, "Events"),
  table(
    `Events of ${template}`,
    ["Event", "Data"],
    Object.entries(events).map(([event, schema]) => [code(event), code(kindOf(schema))]),
  ),
  make(
    "dl",
    { className: "facts" },
    ...Object.entries({
      ...(parameters.length ? { Parameters: `${parameters.join(", ")}: one segment each` } : {}),
      ...policy,
    }).map(([word, text]) => make("div", {}, make("dt", {}, word), make("dd", {}, text))),
  ),
  ...typesOf(...Object.values(events)),
];

export const ofCommand = ({ action, params, result }) => {
  const fields = fieldsOf(params);
  const name = params.$ref ? kindOf(params) : "";
  return [
    make("h4", {}, "Parameters"),
    fields.length
      ? fieldsTable(`Parameters of ${action}`, fields)
      : make("p", {}, params.properties ? "none" : code(kindOf(params))),
    make("h4", {}, "Answer"),
    make("p", {}, code(kindOf(result))),
    // Those of the parameters stand above, unless they refer to others.
    ...typesOf(...(name ? fields.map(({ schema }) => schema) : [params]), result),
  ];
};
