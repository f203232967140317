import { readFileSync, writeFileSync } from "node:fs";
import { renderToString } from "react-dom/server";
import { app } from "./app.jsx";

const page = readFileSync("dist/index.html", "utf-8");
writeFileSync("dist/index.html", page.replace("<!--app-->", renderToString(app)));
