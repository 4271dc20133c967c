#!/usr/bin/env bash
# The live page in a real browser: it shows an outage as it happens, drains and resumes a backend by click, asks no other
# host, fits a phone, and axe finds nothing to object to in either theme.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 chromium
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

free 8080
free 9901
backend a
a=127.0.0.1:$port
backend b
b=127.0.0.1:$port
b_pid=$pid
printf 'open sesame\n' >"$work/token"
cat >"$work/roundel.yaml" <<YAML
listeners: [{ address: "127.0.0.1:8080", name: a-name-as-long-as-those-that-tools-make.internal.example.com }]
admin: { address: "127.0.0.1:9901", token_file: token }
access_log: none
upstreams:
  web:
    backends: [$a, $b]
    health_check: { type: http, interval: 1s, timeout: 900ms, fast_interval: 200ms }
  gone: { backends: ["127.0.0.1:1"], health_check: none, outlier: none }
routes:
  - { name: gone, match: [{ path_prefix: /gone }], filters: [{ request_headers: { set: { x-from: page } } }], to: gone }
  - { name: site, to: web }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" 2>"$work/log" &
children+=("$!")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:9901/readyz

mkdir "$work/browser"
(cd "$work/browser" && npm init -y && npm install --no-audit --no-fund playwright-core axe-core) >"$work/npm" 2>&1 ||
    { cat "$work/npm"; fail "the browser's driver cannot be installed"; }
cat >"$work/browser/page.js" <<'JAVASCRIPT'
const { chromium } = require("playwright-core");
const fs = require("fs");
const http = require("http");
const assert = require("assert");
const [, , a, b, pid, shots] = process.argv;
const arguments_ = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const say = (words) => console.log(`   ${words}`);

async function open(browser, options) {
  const page = await browser.newPage(options);
  page.on("request", (request) => assert(new URL(request.url()).host === "127.0.0.1:9901" || request.url().startsWith("data:"), request.url()));
  page.on("pageerror", (fault) => { throw fault; });
  await page.goto("http://127.0.0.1:9901/");
  await page.waitForSelector(`text=${b}`);
  return page;
}

async function axe(page, what) {
  await page.evaluate(fs.readFileSync(require.resolve("axe-core"), "utf8"));
  const { violations } = await page.evaluate(() => window.axe.run());
  assert.deepStrictEqual(violations.map((one) => [one.id, one.nodes.map((node) => node.html)]), [], what);
}

const row = (page, address) => page.locator("tr", { hasText: address });

(async () => {
  const load = setInterval(() => http.get("http://127.0.0.1:8080/", (answer) => answer.resume()).on("error", () => {}), 20);
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: arguments_ });
  const page = await open(browser, { viewport: { width: 1280, height: 900 }, colorScheme: "light" });
  await page.waitForSelector("text=All is well");
  say("the page says that all is well, and what each backend does");
  await axe(page, "light");

  await row(page, a).getByRole("button", { name: "Drain" }).click();
  await page.getByRole("button", { name: "Drain it" }).click();
  await page.waitForSelector("text=writing needs the token");
  await page.locator("#ask-token input").fill("open sesame");
  await page.locator("#ask-token input").press("Enter");
  await row(page, a).getByText("drained", { exact: true }).waitFor();
  await row(page, a).getByRole("button", { name: "Resume" }).press("Enter");
  await page.getByRole("button", { name: "Resume it" }).press("Enter");
  await row(page, a).getByText("healthy").waitFor();
  say("a drain by click, with the token, and a resume by keyboard");

  await fetch("http://127.0.0.1:8080/gone/shop?item=7");
  await page.locator(".failure summary", { hasText: "/gone/shop?item=7" }).click();
  for (const words of ["route gone", "won by its rule", "try 1: 127.0.0.1:1", "connection refused"]) await page.locator(".failure .told", { hasText: words }).waitFor();
  await axe(page, "light, with a failure opened");
  // Newer ones do not take away what is being read.
  for (let more = 0; more < 40; more += 1) await fetch(`http://127.0.0.1:8080/gone/more/${more}`);
  await page.locator(".failure summary", { hasText: "/gone/more/39" }).waitFor();
  assert(await page.locator(".failure[open] .told", { hasText: "route gone" }).isVisible(), "an open failure stays");
  say("a failure that is opened says why, in words");

  process.kill(Number(pid), "SIGKILL");
  const told = async () => (await (await fetch("http://127.0.0.1:9901/api/v1/status")).json()).upstreams[0].backends.find((one) => one.address === b).state;
  while ((await told()) === "healthy") await new Promise((wake) => setTimeout(wake, 20));
  const known = Date.now();
  await row(page, b).locator(".s-unhealthy, .s-ejected").first().waitFor();
  say(`an outage shows ${Date.now() - known} ms after the proxy knows of it`);
  await page.waitForSelector("text=2 of 3 backends can be used");
  await page.keyboard.press("/");
  await page.keyboard.type(b);
  assert.equal(await row(page, a).isVisible(), false, "the search hides what was not asked for");
  await page.screenshot({ path: `${shots}/outage.png`, fullPage: true });
  await axe(page, "light, in an outage");

  for (const [what, options] of [
    ["dark", { viewport: { width: 1280, height: 900 }, colorScheme: "dark" }],
    ["phone", { viewport: { width: 390, height: 844 }, colorScheme: "dark" }],
  ]) {
    const other = await open(browser, options);
    await other.locator(".failure summary", { hasText: "/gone" }).first().click();
    await other.locator(".failure .told").first().waitFor();
    await axe(other, what);
    const wider = await other.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert(wider <= 0, `${what}: the page is ${wider} px too wide`);
    await other.screenshot({ path: `${shots}/${what}.png`, fullPage: true });
  }
  say("axe objects to nothing: light, dark, phone width");
  clearInterval(load);
  await browser.close();
})().catch((fault) => { console.error(fault); process.exit(1); });
JAVASCRIPT
mkdir -p "${SHOTS:-$work/shots}"
timeout 150 node "$work/browser/page.js" "$a" "$b" "$b_pid" "${SHOTS:-$work/shots}" || fail "the page is not as it should be"
{ wait "$b_pid"; } 2>/dev/null || true
