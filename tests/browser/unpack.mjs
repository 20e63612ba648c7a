// Unpacks the Chromium of @sparticuz/chromium, and the libraries that it needs, beside where npm has put them.
import { spawnSync } from "node:child_process";
import { chmodSync, createReadStream, createWriteStream, mkdirSync, writeFileSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress } from "node:zlib";

const from = new URL("node_modules/@sparticuz/chromium/bin/", import.meta.url);
const to = new URL("node_modules/.chromium/", import.meta.url);

mkdirSync(to, { recursive: true });
for (const name of ["chromium", "al2023.tar", "fonts.tar", "swiftshader.tar"]) {
  const unpacked = new URL(name, to);
  await pipeline(createReadStream(new URL(`${name}.br`, from)), createBrotliDecompress(), createWriteStream(unpacked));
  if (name.endsWith(".tar")) {
    const done = spawnSync("tar", ["--extract", "--file", unpacked.pathname, "--directory", to.pathname]);
    if (done.status !== 0) throw new Error(`tar could not unpack ${name}: ${done.stderr}`);
  }
}
const fonts = new URL("fonts", to).pathname;
writeFileSync(new URL("fonts.conf", to), `<fontconfig><dir>${fonts}</dir><cachedir>${fonts}/cache</cachedir></fontconfig>\n`);
chmodSync(new URL("chromium", to), 0o755);
