// Parses the AsyncAPI document of stdin with the official parser, at argv[2]; prints what is wrong.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { Parser } = createRequire(import.meta.url)(process.argv[2]);
const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
for (const { severity, message, path } of diagnostics) {
  if (severity < 2) console.log(`${path.join(".")}: ${message}`);
}
if (document === undefined) process.exit(1);
const replies = document.operations().all().filter((each) => each.reply());
console.log(JSON.stringify({
  channels: document.channels().all().map((each) => each.address()).filter((each) => each),
  replies: replies.map((each) => each.id()),
  schemes: document.securitySchemes().all().map((each) => each.id()),
}));
