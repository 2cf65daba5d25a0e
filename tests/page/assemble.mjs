// The page from its sources, as runtime/build.rs puts it together, for trying changes without a build.
import { readFileSync } from "node:fs";

const folder = new URL("../../runtime/src/page/", import.meta.url);
const read = (name) => readFileSync(new URL(name, folder), "utf8");

export function assemble() {
  const list = readFileSync(new URL("../../runtime/build.rs", import.meta.url), "utf8").match(/MODULES[^=]*=\s*\[([^\]]*)\]/)[1];
  const modules = [...list.matchAll(/"(\w+)"/g)].map((match) => match[1]);
  const plain = (text) => text.split("\n").filter((line) => !line.startsWith("import ")).map((line) => line.replace(/^export /, "")).join("\n");
  const script = modules.map((name) => plain(read(`${name}.js`))).join("\n");
  return read("index.html")
    .replace("<style></style>", () => `<style>${read("style.css")}</style>`)
    .replace('<script type="module"></script>', () => `<script type="module">${script}</script>`);
}
