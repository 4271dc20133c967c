"use strict";
// The live page. It asks the admin API of the process that served it, and nobody else. Whatever comes from there is set as
// text, never as markup.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MINUTE = 60;
const WORDS = {
  healthy: "healthy", slow_start: "ramping up", probing: "probing", ejected: "ejected", unhealthy: "unhealthy",
  draining: "draining", drained: "drained",
};
const OUT = new Set(["unhealthy", "ejected", "probing", "draining", "drained"]);
const FAULTY = new Set(["unhealthy", "ejected"]);

const seen = { status: null, history: null, rates: new Map(), rows: new Map(), cards: new Map(), misses: 0 };

// ---- building -----------------------------------------------------------------------------------------------------------

function h(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function s(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const icon = (name) => s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));

function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

// ---- words --------------------------------------------------------------------------------------------------------------

const plural = (count, one, many) => `${count} ${count === 1 ? one : many || `${one}s`}`;

function amount(value) {
  if (value == null) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toFixed(1);
}

function millis(value) {
  if (value == null) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(value >= 10000 ? 0 : 1)} s`;
  if (value >= 10) return `${Math.round(value)} ms`;
  return `${value.toFixed(value >= 1 ? 1 : 2)} ms`;
}

function percent(share) {
  if (share === 0) return "0 %";
  return share < 0.001 ? "<0.1 %" : `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function ago(moment) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(moment)) / 1000));
  if (seconds < 2) return "just now";
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 130000) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const clock = (moment) => new Date(moment).toLocaleTimeString("en-GB");
const sum = (values) => values.reduce((total, value) => total + (value || 0), 0);
const last = (values, count) => values.slice(Math.max(0, values.length - count));

// ---- asking -------------------------------------------------------------------------------------------------------------

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok && answer.status !== 503) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

let asking = false;

async function look() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const [ready, status, history] = await Promise.all([ask("/readyz"), ask("/api/v1/status"), ask("/api/v1/history")]);
    const readiness = { ready: ready.status === 200, word: (await ready.text()).trim() };
    take(await status.json(), await history.json(), readiness);
    seen.misses = 0;
    document.body.classList.remove("stale");
    document.body.classList.add("live");
  } catch (fault) {
    seen.misses += 1;
    if (seen.misses > 1) lost();
  } finally {
    asking = false;
  }
}

function lost() {
  document.body.classList.add("stale");
  document.body.classList.remove("live");
  $("phase").className = "pill bad";
  text($("phase"), "no answer");
  const when = seen.at ? `What is below was so at ${clock(seen.at)}.` : "Is the admin listener still there?";
  verdict("bad", "The proxy does not answer.", [[null, when]]);
}

function take(status, history, readiness) {
  const now = performance.now();
  measure(status, now);
  Object.assign(seen, { status, history, at: Date.now() });
  head(status, readiness);
  judge(status, readiness);
  tiles(status, history);
  drawRates(history);
  drawLatency(history);
  upstreams(status, history);
  listeners(status);
}

// The rate of each backend, smoothed over some seconds, from what its counter has grown by.
function measure(status, now) {
  const elapsed = seen.measured ? (now - seen.measured) / 1000 : 0;
  for (const upstream of status.upstreams) {
    for (const backend of upstream.backends) {
      const key = `${upstream.name}\n${backend.address}`;
      const before = seen.rates.get(key);
      if (!before || elapsed <= 0 || backend.requests < before.requests) {
        seen.rates.set(key, { requests: backend.requests, rate: before ? before.rate : null });
        continue;
      }
      const fresh = (backend.requests - before.requests) / elapsed;
      const weight = 1 - Math.exp(-elapsed / 3);
      const rate = before.rate == null ? fresh : before.rate + (fresh - before.rate) * weight;
      seen.rates.set(key, { requests: backend.requests, rate: rate < 0.05 ? 0 : rate });
    }
  }
  seen.measured = now;
}

// ---- head and verdict ---------------------------------------------------------------------------------------------------

function head(status, readiness) {
  const phase = $("phase");
  phase.className = `pill ${readiness.ready ? "good" : "warn"}`;
  text(phase, readiness.ready ? "serving" : readiness.word);
  const facts = [
    ["version", status.version], ["pid", String(status.pid)], ["generation", String(status.generation)],
    ["up", ago(status.started_at)],
  ];
  const list = $("facts");
  facts.forEach(([name, value], at) => {
    if (!list.children[at]) list.append(h("div", {}, h("dt", {}, name), h("dd", {})));
    text(list.children[at].lastChild, value);
  });
  text($("config-facts"), `Generation ${status.generation}, hash ${status.config_hash}.`);
  document.title = `${seen.trouble ? "● " : ""}Roundel`;
}

function judge(status, readiness) {
  const lines = [];
  let level = "good";
  let [all, usable] = [0, 0];
  const dead = status.upstreams.filter((one) => one.backends.every((backend) => OUT.has(backend.state)));
  // Not all lines are shown: the worst come first.
  for (const upstream of [...dead, ...status.upstreams.filter((one) => !dead.includes(one))]) {
    const out = upstream.backends.filter((one) => OUT.has(one.state));
    all += upstream.backends.length;
    usable += upstream.backends.length - out.length;
    if (out.length === upstream.backends.length) level = "bad";
    else if (out.some((one) => FAULTY.has(one.state)) && level === "good") level = "warn";
    for (const one of out) lines.push([one.state, `${upstream.name}: ${one.address} is ${WORDS[one.state]}`, one.reason]);
    for (const one of upstream.unresolved || []) {
      if (level === "good") level = "warn";
      lines.push(["unhealthy", `${upstream.name}: ${one.name} does not resolve`, one.reason]);
    }
  }
  const lacking = all - usable;
  let headline = all ? `All is well: all ${all} backends can be used.` : "There are no upstreams: the proxy answers by itself.";
  if (all === 1 && !lacking) headline = "All is well: the one backend can be used.";
  if (dead.length) {
    headline = `${dead.map((one) => one.name).join(", ")} ${dead.length === 1 ? "has" : "have"} no usable backend: clients get ${dead.some((one) => !one.backends.length) ? "errors" : "503"}.`;
  } else if (lacking) {
    headline = `${usable} of ${plural(all, "backend")} can be used, ${lacking} cannot; every upstream still serves.`;
  }
  if (!readiness.ready && level === "good") level = "warn";
  seen.trouble = level === "bad";
  verdict(level, headline, lines);
}

function verdict(level, headline, lines) {
  const place = $("verdict");
  const key = JSON.stringify([level, headline, lines]);
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.className = `verdict ${level}`;
  const shown = lines.slice(0, 6);
  const items = shown.map(([state, what, why]) =>
    h("li", state ? { class: `s-${state}` } : {}, ...(state ? [icon(state)] : []), h("span", {}, what), ...(why ? [h("span", { class: "muted" }, why)] : [])));
  if (lines.length > shown.length) items.push(h("li", { class: "muted" }, `and ${lines.length - shown.length} more below`));
  place.replaceChildren(h("p", { class: "headline" }, headline), ...(items.length ? [h("ul", {}, ...items)] : []));
}

// ---- tiles and charts ---------------------------------------------------------------------------------------------------

const flights = [];

function tiles(status, history) {
  const requests = history.good.map((good, at) => good + history.client_errors[at] + history.server_errors[at]);
  const recent = last(requests, 5);
  text($("t-rate"), amount(recent.length ? sum(recent) / recent.length : 0));
  const minute = sum(last(requests, MINUTE));
  const failed = sum(last(history.server_errors, MINUTE));
  text($("t-errors"), minute ? percent(failed / minute) : "–");
  const grave = failed > 0 && failed / minute >= 0.01;
  $("t-errors").classList.toggle("bad", grave);
  text($("t-p50"), millis(latest(history.p50_ms)));
  text($("t-p99"), millis(latest(history.p99_ms)));
  const flight = sum(status.upstreams.flatMap((one) => one.backends.map((backend) => backend.in_flight)));
  flights.push(flight);
  if (flights.length > 300) flights.shift();
  text($("t-flight"), amount(flight));
  text($("t-flight-word"), flight === 1 ? "request" : "requests");
  const open = sum(status.listeners.map((one) => one.connections));
  text($("t-open"), amount(open));
  text($("t-open-word"), open === 1 ? "connection" : "connections");
  spark($("s-rate"), last(requests, MINUTE));
  spark($("s-errors"), last(history.server_errors, MINUTE));
  $("s-errors").classList.toggle("alarm", grave);
  spark($("s-p99"), last(history.p99_ms, MINUTE));
  spark($("s-flight"), last(flights, MINUTE));
}

// The newest value that there is, of the last ten seconds.
function latest(values) {
  return last(values, 10).reduce((found, value) => (value == null ? found : value), null);
}

function spark(place, values) {
  const [width, height] = [100, 34];
  const most = Math.max(1e-9, ...values.map((value) => value || 0));
  const points = values.map((value, at) => [(at / Math.max(1, values.length - 1)) * width, height - 2 - ((value || 0) / most) * (height - 8)]);
  const line = points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  if (!place.firstChild) {
    place.setAttribute("viewBox", `0 0 ${width} ${height}`);
    place.setAttribute("preserveAspectRatio", "none");
    place.append(s("path", { class: "area" }), s("path", { class: "curve" }));
  }
  const empty = points.length < 2;
  place.firstChild.setAttribute("d", empty ? "" : `${line}L${width} ${height}L0 ${height}Z`);
  place.lastChild.setAttribute("d", empty ? "" : line);
}

const SPAN = 300;
const PAD = { left: 44, right: 6, top: 8, bottom: 22 };

// A scale whose lines are at 1, 2 or 5 times a power of ten.
function scale(most) {
  const rough = Math.max(most, 1e-3) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough);
  return { step, top: Math.ceil(most / step) * step || step };
}

function frame(place, most, word) {
  const { width, height } = place.getBoundingClientRect();
  const { step, top } = scale(most);
  const x = (at, count) => PAD.left + ((SPAN - count + at) / (SPAN - 1)) * (width - PAD.left - PAD.right);
  const y = (value) => height - PAD.bottom - (value / top) * (height - PAD.top - PAD.bottom);
  const parts = [];
  for (let value = 0; value <= top + step / 2; value += step) {
    parts.push(s("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(value), y2: y(value) }));
    parts.push(s("text", { x: PAD.left - 8, y: y(value) + 4, "text-anchor": "end" }, word(value)));
  }
  for (const minutes of width < 420 ? [5, 3, 1, 0] : [5, 4, 3, 2, 1, 0]) {
    const at = PAD.left + (1 - minutes / 5) * (width - PAD.left - PAD.right);
    const anchor = minutes === 5 ? "start" : minutes === 0 ? "end" : "middle";
    parts.push(s("text", { x: at, y: height - 5, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
  }
  return { width, height, x, y, parts };
}

function area(tops, floors, { x, y }) {
  if (tops.length < 2) return "";
  const forth = tops.map((value, at) => `${at ? "L" : "M"}${x(at, tops.length).toFixed(1)} ${y(value).toFixed(1)}`);
  const back = floors.map((value, at) => `L${x(at, floors.length).toFixed(1)} ${y(value).toFixed(1)}`).reverse();
  return `${forth.join("")}${back.join("")}Z`;
}

// A line through what there is; it breaks where there is nothing.
function curve(values, { x, y }) {
  let pen = "M";
  return values.map((value, at) => {
    if (value == null) { pen = "M"; return ""; }
    const point = `${pen}${x(at, values.length).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
    return point;
  }).join("");
}

function show(place, { width, height, parts }, marks) {
  const cross = s("line", { class: "cross", y1: PAD.top, y2: height - PAD.bottom, visibility: "hidden" });
  const picture = s("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...parts, ...marks, cross);
  place.replaceChildren(picture);
  point(place);
}

function drawRates(history) {
  const { good, client_errors: client, server_errors: server } = history;
  const two = good.map((value, at) => value + client[at]);
  const three = two.map((value, at) => value + server[at]);
  const plot = frame($("c-rate"), Math.max(4, ...three), amount);
  const zero = good.map(() => 0);
  show($("c-rate"), plot, [
    s("path", { class: "good", d: area(good, zero, plot) }),
    s("path", { class: "client", d: area(two, good, plot) }),
    s("path", { class: "server", d: area(three, two, plot) }),
  ]);
}

function drawLatency(history) {
  const most = Math.max(1, ...history.p99_ms.map((value) => value || 0));
  const plot = frame($("c-latency"), most, (value) => (most >= 1000 ? `${value / 1000} s` : `${+value.toFixed(2)} ms`));
  show($("c-latency"), plot, [
    s("path", { class: "p50", d: curve(history.p50_ms, plot) }),
    s("path", { class: "p99", d: curve(history.p99_ms, plot) }),
  ]);
}

// What the pointer, or the arrow keys, have chosen: seconds before now.
const chosen = new Map();

function point(place) {
  const back = chosen.get(place.id);
  const cross = place.querySelector(".cross");
  const readout = place.id === "c-rate" ? $("r-rate") : $("r-latency");
  const history = seen.history;
  const at = history && back != null ? history.good.length - 1 - back : -1;
  if (at < 0 || !cross) {
    if (cross) cross.setAttribute("visibility", "hidden");
    return text(readout, "");
  }
  const { width } = place.getBoundingClientRect();
  const x = PAD.left + ((SPAN - 1 - back) / (SPAN - 1)) * (width - PAD.left - PAD.right);
  cross.setAttribute("x1", x);
  cross.setAttribute("x2", x);
  cross.setAttribute("visibility", "visible");
  const when = clock(Date.now() - back * 1000);
  text(readout, place.id === "c-rate"
    ? `${when}: ${amount(history.good[at])} answered, ${amount(history.client_errors[at])} 4xx, ${amount(history.server_errors[at])} 5xx`
    : `${when}: median ${millis(history.p50_ms[at])}, p99 ${millis(history.p99_ms[at])}`);
}

function choosing(place) {
  const choose = (back) => {
    if (back == null) chosen.delete(place.id);
    else chosen.set(place.id, Math.max(0, Math.min(SPAN - 1, back)));
    point(place);
  };
  place.addEventListener("pointermove", (event) => {
    const { left, width } = place.getBoundingClientRect();
    const share = (event.clientX - left - PAD.left) / (width - PAD.left - PAD.right);
    choose(Math.round((1 - share) * (SPAN - 1)));
  });
  place.addEventListener("pointerleave", () => choose(null));
  place.addEventListener("blur", () => choose(null));
  place.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: 1, ArrowRight: -1, PageUp: 30, PageDown: -30 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose((chosen.get(place.id) ?? -step) + step);
  });
}

// ---- upstreams ----------------------------------------------------------------------------------------------------------

function upstreams(status, history) {
  const wanted = $("filter").value.trim().toLowerCase();
  const alive = new Set();
  let shown = 0;
  for (const upstream of status.upstreams) {
    const card = seen.cards.get(upstream.name) || newCard(upstream.name);
    alive.add(upstream.name);
    shown += fillCard(card, upstream, history, wanted);
  }
  for (const [name, card] of seen.cards) {
    if (alive.has(name)) continue;
    card.node.remove();
    seen.cards.delete(name);
  }
  $("nothing").hidden = shown > 0 || !wanted;
}

function newCard(name) {
  const card = { rows: new Map(), about: h("span", { class: "muted" }), rate: h("span", { class: "rate" }), body: h("tbody") };
  card.spark = s("svg", { class: "spark", "aria-hidden": "true" });
  const title = h("h3", { class: "mono" }, name);
  const columns = [["state"], ["backend, and why"], ["share"], ["a second", "number"], ["under way", "number"], ["failed", "number"], ["p50", "number"], ["p99", "number"], ["", "number"]];
  const head = h("tr", {}, ...columns.map(([word, kind]) => h("th", { scope: "col", ...(kind ? { class: kind } : {}) }, word || h("span", { class: "hidden" }, "action"))));
  card.node = h("article", { class: "upstream" },
    h("header", {}, title, card.about, card.spark, card.rate),
    h("table", { class: "backends" }, h("caption", { class: "hidden" }, `Backends of ${name}`), h("thead", {}, head), card.body));
  $("upstreams").append(card.node);
  seen.cards.set(name, card);
  return card;
}

function fillCard(card, upstream, history, wanted) {
  const usable = upstream.backends.filter((one) => !OUT.has(one.state)).length;
  text(card.about, `${upstream.balance.replaceAll("_", " ")} · ${usable} of ${plural(upstream.backends.length, "backend")} usable`);
  const columns = history.upstreams[upstream.name];
  const requests = columns ? columns.requests : [];
  const recent = last(requests, 5);
  text(card.rate, `${amount(recent.length ? sum(recent) / recent.length : 0)} /s`);
  spark(card.spark, last(requests, 120));
  const rateOf = (backend) => (seen.rates.get(`${upstream.name}\n${backend.address}`) || {}).rate;
  const most = sum(upstream.backends.map((one) => rateOf(one) || 0));
  const alive = new Set();
  let shown = 0;
  for (const backend of upstream.backends) {
    alive.add(backend.address);
    const row = card.rows.get(backend.address) || newRow(card, upstream.name, backend.address);
    const words = [upstream.name, backend.address, backend.name, backend.state, WORDS[backend.state]].join(" ").toLowerCase();
    row.node.hidden = !words.includes(wanted);
    shown += row.node.hidden ? 0 : 1;
    fillRow(row, backend, rateOf(backend), most);
  }
  for (const [address, row] of card.rows) {
    if (alive.has(address)) continue;
    row.node.remove();
    card.rows.delete(address);
  }
  card.node.hidden = Boolean(wanted) && shown === 0;
  return shown;
}

function newRow(card, upstream, address) {
  const cell = (kind, label) => h("td", { ...(kind ? { class: kind } : {}), ...(label ? { "data-label": label } : {}) });
  const row = {
    state: h("td"), address: h("span", { class: "mono" }, address), tags: h("span"), why: h("div", { class: "why" }),
    since: h("div", { class: "since" }), fill: h("i"), rate: cell("number", "per second"), flight: cell("number", "under way"), failed: cell("number", "failed"), p50: cell("number", "p50"), p99: cell("number", "p99"),
    button: h("button", { type: "button", class: "quiet small" }),
  };
  row.button.addEventListener("click", () => order(upstream, address, row.button.dataset.order));
  row.share = h("span", { class: "share", role: "img" }, row.fill);
  row.node = h("tr", {}, row.state, h("td", { class: "where" }, row.address, row.tags, row.why), h("td", { class: "shares" }, row.share), row.rate, row.flight, row.failed, row.p50, row.p99, h("td", {}, row.button));
  card.body.append(row.node);
  card.rows.set(address, row);
  return row;
}

function fillRow(row, backend, rate, most) {
  if (row.state.dataset.state !== backend.state) {
    row.state.dataset.state = backend.state;
    row.state.replaceChildren(h("span", { class: `state s-${backend.state}` }, icon(backend.state), WORDS[backend.state] || backend.state), row.since);
    row.node.className = FAULTY.has(backend.state) ? "out" : "";
  }
  const tags = [];
  if (backend.name !== backend.address) tags.push(backend.name);
  if (backend.backup) tags.push("backup");
  if (backend.weight !== 1) tags.push(`weight ${backend.weight}`);
  if (row.tags.dataset.key !== tags.join()) {
    row.tags.dataset.key = tags.join();
    row.tags.replaceChildren(...tags.map((tag) => h("span", { class: "tag" }, tag)));
  }
  const since = ago(backend.since);
  text(row.why, backend.reason || WORDS[backend.state]);
  text(row.since, since === "just now" ? since : `for ${since}`);
  const share = most > 0 && rate ? rate / most : 0;
  row.fill.style.width = `${(share * 100).toFixed(1)}%`;
  row.share.setAttribute("aria-label", `${percent(share)} of the upstream's requests`);
  row.share.title = percent(share);
  text(row.rate, amount(rate));
  text(row.flight, amount(backend.in_flight));
  text(row.failed, amount(backend.failures));
  text(row.p50, millis(backend.latency_ms.p50));
  text(row.p99, millis(backend.latency_ms.p99));
  const resumes = backend.state === "draining" || backend.state === "drained";
  const word = resumes ? "resume" : "drain";
  if (row.button.dataset.order !== word) {
    row.button.dataset.order = word;
    row.button.textContent = resumes ? "Resume" : "Drain";
    row.button.setAttribute("aria-label", `${resumes ? "Resume" : "Drain"} ${backend.address}`);
  }
}

function listeners(status) {
  const body = $("listeners");
  const key = JSON.stringify(status.listeners);
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  body.replaceChildren(...status.listeners.map((one) =>
    h("tr", {}, h("td", {}, one.name), h("td", { class: "mono" }, one.address), h("td", { class: "number" }, amount(one.connections)))));
}

// ---- orders -------------------------------------------------------------------------------------------------------------

let token = sessionStorage.getItem("roundel-token") || "";

function order(upstream, address, word) {
  const others = seen.status.upstreams.find((one) => one.name === upstream).backends.filter((one) => one.address !== address && !OUT.has(one.state)).length;
  const left = others ? `${plural(others, "other backend")} of ${upstream} stay${others === 1 ? "s" : ""} in use.` : `No other backend of ${upstream} is in use: its clients will get 503.`;
  const about = word === "drain"
    ? `It gets no new requests; those under way finish. ${left}`
    : "It gets requests again as soon as its health allows.";
  dialog(`${word === "drain" ? "Drain" : "Resume"} ${address}?`, about, word === "drain" ? "Drain it" : "Resume it", async () => {
    const path = `/api/v1/upstreams/${encodeURIComponent(upstream)}/backends/${encodeURIComponent(address)}/${word}`;
    const answer = await fetch(path, { method: "POST", headers: token ? { authorization: `Bearer ${token}` } : {} });
    if (answer.ok) return look();
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 401) wantToken();
    throw new Error(problem.detail || `the proxy answered ${answer.status}`);
  });
}

function wantToken() {
  $("ask-token").hidden = false;
  $("ask-token").querySelector("input").focus();
}

function dialog(title, about, yes, act) {
  const box = $("ask");
  const field = $("ask-token").querySelector("input");
  text($("ask-title"), title);
  text($("ask-text"), about);
  text($("ask-fault"), "");
  $("ask-token").hidden = true;
  field.value = token;
  const button = $("ask-yes");
  text(button, yes);
  button.onclick = async () => {
    if (!$("ask-token").hidden) keepToken(field.value);
    button.disabled = true;
    try {
      await act();
      box.close();
    } catch (fault) {
      text($("ask-fault"), fault.message);
    } finally {
      button.disabled = false;
    }
  };
  field.onkeydown = (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    button.click();
  };
  box.showModal();
  button.focus();
}

function keepToken(value) {
  token = value.trim();
  if (token) sessionStorage.setItem("roundel-token", token);
  else sessionStorage.removeItem("roundel-token");
}

// ---- events and failures ------------------------------------------------------------------------------------------------

const kept = [];

function happened(event) {
  kept.unshift(event);
  if (kept.length > 100) kept.pop();
  $("no-events").hidden = true;
  $("events").replaceChildren(...kept.map((one) => h("li", {}, h("time", { datetime: one.time }, clock(one.time)), h("span", {}, one.text))));
}

function listen() {
  const source = new EventSource("/api/v1/events?last=30");
  const hear = (event) => {
    let told = {};
    try { told = JSON.parse(event.data); } catch { return; }
    happened({ time: told.time || new Date().toISOString(), text: told.text || told.message || event.data });
    look();
  };
  source.onmessage = hear;
  for (const kind of ["health", "ejection", "reload", "drain", "upgrade", "certificate", "lost"]) source.addEventListener(kind, hear);
}

async function failures() {
  if (document.hidden) return;
  const answer = await fetch("/api/v1/requests?last=failed", { cache: "no-store" }).catch(() => null);
  if (!answer || !answer.ok) return;
  const told = await answer.json();
  const list = Array.isArray(told) ? told : told.requests || [];
  const key = JSON.stringify(list.map((one) => one.request_id));
  const place = $("failures");
  if (place.dataset.key === key || !list.length) return;
  place.dataset.key = key;
  // What is being read stays, however many newer ones come; and so does the place of the keyboard.
  const there = new Map([...place.children].map((node) => [node.dataset.id, node]));
  const held = document.activeElement;
  const read = [...there.values()].filter((node) => node.open);
  const others = list.slice(0, 30).filter((one) => !there.get(one.request_id)?.open);
  place.replaceChildren(...read, ...others.map((one) => there.get(one.request_id) || failure(one)));
  if (place.contains(held)) held.focus({ preventScroll: true });
}

function failure(one) {
  const node = h("details", { class: "failure", "data-id": one.request_id },
    h("summary", {}, h("b", {}, String(one.status ?? "–")), h("span", { class: "mono" }, `${one.method || ""} ${one.path || ""}`.trim() || "a head that never became a request"), h("span", { class: "muted" }, one.reason || ""), h("time", { datetime: one.time }, clock(one.time))));
  node.addEventListener("toggle", () => explain(node, one), { once: true });
  return node;
}

// What became of a request, and why, in the words of `roundel why`.
async function explain(node, one) {
  const answer = await fetch(`/api/v1/requests/${encodeURIComponent(one.request_id)}`, { cache: "no-store" }).catch(() => null);
  if (!answer || !answer.ok) {
    node.append(h("div", { class: "told" }, h("p", { class: "muted" }, "It is not remembered any more: newer requests have taken its place.")));
    return;
  }
  const told = await answer.json();
  node.append(h("div", { class: "told" }, h("p", { class: "end" }, told.verdict || ""), ...way(told), circumstances(told)));
}

// The way of a request: its route, its filters, its tries.
function way(told) {
  const route = told.route || {};
  const steps = [];
  const step = (level, title, ...lines) => steps.push(h("li", { class: level }, h("h3", {}, title), ...lines));
  const line = (words, level) => h("p", { class: level || "muted" }, words);
  const rejected = (route.rejected || []).map((one) => line(`not ${one.route}: ${one.why || "another one comes first"}`));
  if (route.name) step("good", `route ${route.name}`, ...(route.rule ? [line(`won by its rule ${route.rule}`)] : []), ...folded(rejected, "other route"));
  else if (told.method && told.protocol) step("bad", "no route", ...rejected);
  for (const one of told.filters || []) {
    const level = { refused: "bad", not_reached: "off" }[one.verdict] || "good";
    step(level, `filter ${one.filter}`, line(one.verdict.replaceAll("_", " "), level === "bad" ? "bad" : "muted"));
  }
  (told.attempts || []).forEach((one, at) => step(...attempt(one, at + 1, line)));
  if (told.attempts_left_out) step("off", `${plural(told.attempts_left_out, "earlier try", "earlier tries")} left out`);
  if (told.upstream && !(told.attempts || []).length) step("bad", `upstream ${told.upstream}`, line("no backend was tried", "bad"));
  const out = (told.excluded || []).map((one) => line(`${one.backend}: ${(WORDS[one.state] || one.state)}, ${one.why}`));
  if (out.length) step("off", "backends that were out", ...out);
  return steps.length ? [h("ol", { class: "way" }, ...steps)] : [];
}

function attempt(one, number, line) {
  const outcome = one.outcome || {};
  const level = outcome.failed ? "bad" : outcome.answered >= 500 ? "bad" : outcome.answered ? "good" : "off";
  const end = outcome.why || (outcome.answered ? `answered ${outcome.answered}` : "without an answer");
  const times = [
    one.reused ? "over a connection used before" : one.connect_ms != null ? `connected in ${millis(one.connect_ms)}` : "no connection",
    ...(one.first_byte_ms != null ? [`first byte after ${millis(one.first_byte_ms)}`] : []),
    `over after ${millis(one.took_ms)}`,
  ];
  const out = (one.excluded || []).map((other) => line(`not ${other.backend}: ${WORDS[other.state] || other.state}, ${other.why}`));
  return [level, `try ${number}: ${one.backend}`, line(end, level === "bad" ? "bad" : "plain"), line(`chosen: ${one.chosen}`), line(times.join(", ")), ...out];
}

// A few lines as they are, many behind a line that counts them.
function folded(lines, what) {
  return lines.length > 2 ? [h("details", {}, h("summary", { class: "muted" }, `not ${plural(lines.length, what)}`), ...lines)] : lines;
}

function circumstances(told) {
  const facts = [
    ["status", [told.status, told.reason].filter((part) => part != null).join(" ")],
    ["client", told.client], ["host", told.host], ["listener", [told.listener, told.protocol].filter(Boolean).join(", ")],
    ["took", told.duration_ms == null ? null : millis(told.duration_ms)],
    ["bodies", told.bytes_in == null ? null : `${amount(told.bytes_in)} B in, ${amount(told.bytes_out)} B out`],
    ["trace", told.trace_id], ["id", told.request_id],
  ];
  const shown = facts.filter(([, value]) => value != null && value !== "");
  const notes = (told.notes || []).map((note) => h("p", { class: "muted" }, `Note: ${note}`));
  return h("div", {}, ...notes, h("dl", {}, ...shown.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))])));
}

// ---- the rest -----------------------------------------------------------------------------------------------------------

function theme(choice) {
  if (choice) document.documentElement.dataset.theme = choice;
  else delete document.documentElement.dataset.theme;
}

function turnTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  const choice = dark ? "light" : "dark";
  localStorage.setItem("roundel-theme", choice);
  theme(choice);
}

async function plan() {
  if (!$("config").open) return;
  const answer = await ask("/api/v1/config").catch(() => null);
  text($("plan"), answer ? JSON.stringify(await answer.json(), null, 2) : "It cannot be read.");
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
  if (event.key === "t") turnTheme();
}

theme(localStorage.getItem("roundel-theme"));
$("theme").addEventListener("click", turnTheme);
$("token").addEventListener("click", () => {
  dialog("The admin token", "Orders by this page need the token of admin.token_file. It is kept in this tab only.", "Keep it", async () => {});
  wantToken();
});
$("config").addEventListener("toggle", plan);
$("filter").addEventListener("input", () => seen.status && upstreams(seen.status, seen.history));
document.addEventListener("keydown", keys);
document.addEventListener("visibilitychange", look);
addEventListener("resize", () => { if (seen.history) { drawRates(seen.history); drawLatency(seen.history); } });
choosing($("c-rate"));
choosing($("c-latency"));
look();
failures();
listen();
setInterval(look, 1000);
setInterval(failures, 2000);
