// The dashboard: asks for the figures every few seconds, follows the stream of jobs, and shows one of them.

const POLL_MS = 3000;
const PATIENCE_MS = 8000;
const AGAIN_MS = 2000;
const TOLD_EVERY_MS = 8000;
const ROWS = 200;
const PAGE = 50;
const MINUTES = 60;

const UNDER_WAY = ["queued", "running", "uploading", "deleting"];
const ICONS = {
  queued: "M8 4v4l2.5 1.5M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12",
  running: "M5.5 4v8l6-4z", uploading: "M8 13V3M4 7l4-4 4 4", deleting: "M3 4.5h10M6 4V2.5h4V4m2 .5-.6 9H4.6L4 4.5",
  succeeded: "M3 8.5 6.5 12 13 4.5", passed: "M3 8.5 6.5 12 13 4.5", failed: "M4 4l8 8M12 4l-8 8",
  skipped: "M3 8h10", expired: "M4 2h8M4 14h8M5 2c0 4 6 8 6 12M11 2c0 4-6 8-6 12", lost: "M5.5 6a2.5 2.5 0 1 1 3.6 2.2C8.3 8.600 8 9 8 10M8 13v.1",
};

const byId = (id) => document.getElementById(id);

/* Elements. Everything that is shown goes in as text, never as markup. */

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function badge(state) {
  const icon = svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: ICONS[state] }));
  return el("span", { class: `badge is-${state}` }, icon, state[0].toUpperCase() + state.slice(1));
}

function bar(part, from = 0) {
  const inner = el("i");
  inner.style.marginLeft = `${from * 100}%`;
  inner.style.width = part ? `max(2px, ${part * 100}%)` : "0";
  return el("span", { class: "bar", "aria-hidden": "true" }, inner);
}

/* Numbers and times, as people say them. */

let ahead = 0; // How far the server's clock is ahead of this one, in milliseconds.
const now = () => Date.now() + ahead;
const whole = (n) => n.toLocaleString("en");
const few = (n) => n.toLocaleString("en", { maximumFractionDigits: n < 10 ? 2 : n < 100 ? 1 : 0 });
const share = (part) => (part === 1 || part === 0 ? `${part * 100}%` : `${Math.min(99.9, part * 100).toFixed(1)}%`);
const known = (value, format) => (value === null || value === undefined || Number.isNaN(value) ? "–" : format(value));

function span(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10000) return `${Number((ms / 1000).toFixed(1))} s`;
  if (ms < 120000) return `${Math.round(ms / 1000)} s`;
  return ms < 7200000 ? `${Math.round(ms / 60000)} min` : `${Math.round(ms / 3600000)} h`;
}
function ago(at) {
  const seconds = Math.floor((now() - at) / 1000);
  if (seconds < 1) return "now";
  const [size, unit] = seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"] : [3600, "h"];
  return `${Math.floor(seconds / size)} ${unit} ago`;
}
const clock = (at) => new Date(at).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

function when(text) {
  return el("time", { datetime: text, title: new Date(text).toLocaleString() }, ago(Date.parse(text)));
}
setInterval(() => {
  for (const time of document.querySelectorAll("time")) {
    const text = ago(Date.parse(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
  }
}, 1000);

/* Calls. A session that is over leads to the page that asks for the key. */

async function get(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (response.status === 401) location.reload();
  const content = await response.json();
  if (!response.ok) throw Object.assign(new Error(content.request_info.message), { answered: true });
  return content;
}

function notice(text) {
  byId("notice").hidden = !text;
  if (byId("notice").textContent !== text) byId("notice").textContent = text;
}

function link(state) {
  const words = { live: "Live", lost: "Connection lost, reconnecting…", connecting: "Connecting…" };
  byId("link").dataset.link = state;
  byId("link").lastElementChild.textContent = words[state];
}

/* The figures. */

let overview = null;
let chosen = "all";

async function poll() {
  if (document.hidden) return;
  try {
    const asked = Date.now();
    overview = await get("/dashboard/overview");
    ahead = overview.now * 1000 - (asked + Date.now()) / 2;
    notice("");
    showFigures();
    if (byId("link").dataset.link === "lost") follow();
  } catch (error) {
    if (error.answered) notice(error.message);
    else link("lost");
  }
}

function tile(name, figure, unit, below, look = "") {
  const shown = el("dd", { class: "figure" }, figure, unit ? el("small", {}, unit) : "");
  return el("div", { class: `tile ${look}` }, el("dt", {}, name), shown, el("dd", { class: "below" }, below));
}

function inUnits(ms) {
  const [figure, ...unit] = known(ms, span).split(" ");
  return [figure, unit.join(" ")];
}

function showFigures() {
  const { queue, held, workers, rates, faults } = overview;
  const every = rates[0];
  const running = workers.reduce((sum, each) => sum + each.running, 0);
  const threads = workers.reduce((sum, each) => sum + each.threads, 0);
  const waited = queue.oldest ? now() - queue.oldest * 1000 : 0;
  const { ended, succeeded, failed, expired, lost, p50, p95 } = every.whole;
  const unanswered = expired + lost;
  byId("tiles").replaceChildren(
    tile("Waiting in the queue", whole(queue.depth), "", queue.depth ? `oldest for ${span(Math.max(0, waited))}` : "nothing waits", waited > 5000 ? "warn" : ""),
    tile("Held requests", whole(held), "", "on all front ends"),
    tile("Workers", whole(workers.length), "", workers.length ? `${running} of ${threads} places in use` : "none gives a sign of life", workers.length ? "" : "bad"),
    tile("Jobs a second", few(perSecond(every).at(-1)), "", `${whole(ended)} in the last hour`),
    tile("Success rate", known(ended ? succeeded / ended : null, share), "", ended ? `${whole(failed)} failed` + (unanswered ? `, ${whole(unanswered)} unanswered` : "") : "last hour", unanswered ? "warn" : ""),
    tile("Latency, p95", ...inUnits(p95), p50 === null ? "last hour" : `half within ${span(p50)}`),
  );
  byId("hour").hidden = !ended;
  byId("hour-empty").hidden = ended > 0;
  if (ended) {
    showTypes(rates);
    showPlots(rates.find((rate) => rate.type === chosen) ?? every);
    showFaults(faults);
  }
  showWorkers(workers);
}

// The last minute is not over: what it has is divided by what has passed of it.
function perSecond(rate) {
  const passed = Math.max(5, now() / 1000 - overview.minutes.at(-1));
  return rate.ended.map((count, i) => count / (i === MINUTES - 1 ? Math.min(60, passed) : 60));
}
const success = (rate) => rate.ended.map((count, i) => (count ? rate.succeeded[i] / count : null));

function path(values, x, y) {
  let drawn = "";
  values.forEach((value, i) => {
    if (value === null) return;
    const first = i === 0 || values[i - 1] === null;
    // A minute between two empty ones is a dot.
    drawn += `${first ? "M" : "L"}${x(i).toFixed(1)} ${y(value).toFixed(1)}${first ? "h.01" : ""}`;
  });
  return drawn;
}

function area(values, x, y) {
  const runs = [];
  values.forEach((value, i) => {
    if (value === null) return;
    if (i === 0 || values[i - 1] === null) runs.push([]);
    runs.at(-1).push(`${x(i).toFixed(1)} ${y(value).toFixed(1)}`);
  });
  const ends = values.flatMap((value, i) => (value !== null && (i === 0 || values[i - 1] === null) ? [i] : []));
  return runs.map((run, n) => `M${x(ends[n]).toFixed(1)} ${y(0)}L${run.join("L")}L${x(ends[n] + run.length - 1).toFixed(1)} ${y(0)}Z`).join("");
}

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// `lines` are {name, values, look}, the first of which is filled; `format` says a value; what is summed up is for who
// cannot see it.
function plot(figure, title, lines, format, top, summary) {
  const [width, height, left, right, under] = [figure.clientWidth || 320, 150, 46, 6, 20];
  const highest = top ?? roundUp(Math.max(...lines.flatMap((line) => line.values.map((value) => value ?? 0)), 0));
  const x = (i) => left + (i / (MINUTES - 1)) * (width - left - right);
  const y = (value) => 6 + (1 - value / highest) * (height - under - 6);
  const last = (line) => known(line.values.findLast((value) => value !== null), format);
  const key = (line, value) => el("span", { class: lines.length > 1 ? `key ${line.look}` : "" }, lines.length > 1 ? `${line.name} ` : "", el("b", {}, value));
  const readings = el("span", {}, ...lines.map((line) => key(line, last(line))));
  const name = el("span", {}, title);
  const cursor = svg("line", { class: "cursor", y1: 6, y2: height - under, visibility: "hidden" });
  const drawing = svg("svg", { width, height, role: "img", "aria-label": `${title}: ${summary}` },
    [0, 0.5, 1].map((part) => svg("line", { class: "grid", x1: left, x2: width - right, y1: y(part * highest), y2: y(part * highest) })),
    [0, 0.5, 1].map((part) => svg("text", { x: left - 8, y: y(part * highest) + 4, "text-anchor": "end" }, format(part * highest))),
    [0, 20, 40, MINUTES - 1].map((i) => svg("text", { x: x(i), y: height - 3, "text-anchor": i ? (i === MINUTES - 1 ? "end" : "middle") : "start" }, clock(overview.minutes[i] * 1000))),
    svg("path", { class: `area ${lines[0].look}`, d: area(lines[0].values, x, y) }),
    lines.map((line) => svg("path", { class: `stroke ${line.look}`, d: path(line.values, x, y) })), cursor);
  const read = (event) => {
    const part = (event.clientX - drawing.getBoundingClientRect().left - left) / (width - left - right);
    const i = Math.min(MINUTES - 1, Math.max(0, Math.round(part * (MINUTES - 1))));
    fill(cursor, { x1: x(i), x2: x(i), visibility: "visible" }, []);
    name.textContent = `${title}, ${clock(overview.minutes[i] * 1000)}`;
    readings.replaceChildren(...lines.map((line) => key(line, known(line.values[i], format))));
  };
  drawing.addEventListener("pointermove", read);
  drawing.addEventListener("pointerleave", () => showFigures());
  if (!figure.matches(":hover")) figure.replaceChildren(el("figcaption", {}, name, readings), drawing);
}

function showPlots(rate) {
  const { ended, succeeded, p50, p95 } = rate.whole;
  const speeds = perSecond(rate);
  byId("hour-of").textContent = chosen === "all" ? "All types" : `Only ${chosen}`;
  plot(byId("plot-rate"), "Jobs a second", [{ values: speeds, look: "" }], few, null,
    `${few(speeds.at(-1))} now, at most ${few(Math.max(...speeds))}, ${whole(ended)} jobs in the last hour`);
  plot(byId("plot-success"), "Success rate", [{ values: success(rate), look: "good" }], (part) => (part === 0.5 ? "50%" : share(part)), 1,
    `${share(succeeded / ended)} in the last hour`);
  plot(byId("plot-latency"), "Latency", [{ name: "p95", values: rate.p95, look: "" }, { name: "p50", values: rate.p50, look: "second" }],
    (ms) => (ms ? span(ms) : "0"), null, `half of the jobs within ${known(p50, span)}, 95 of 100 within ${known(p95, span)}`);
}

function spark(values, look) {
  const [width, height, highest] = [72, 22, Math.max(...values, 1e-9)];
  const x = (i) => (i / (MINUTES - 1)) * width;
  const y = (value) => 2 + (1 - value / highest) * (height - 3);
  return svg("svg", { width, height, "aria-hidden": "true" },
    look ? "" : svg("path", { class: "area", d: area(values, x, y) }), svg("path", { class: `stroke ${look}`, d: path(values, x, y) }));
}

function showTypes(rates) {
  if (!rates.some((rate) => rate.type === chosen)) chosen = "all";
  const choose = (type) => {
    chosen = type;
    showFigures();
    byId("types").querySelector("[aria-pressed=true]").focus();
  };
  const drawn = (text, values, look) => el("td", { class: "drawn" }, text, spark(values, look));
  const focused = byId("types").contains(document.activeElement) && document.activeElement.dataset.type;
  byId("types").replaceChildren(...rates.map((rate) => {
    const { ended, succeeded, p50, p95 } = rate.whole;
    const button = el("button", { class: "plain", "data-type": rate.type, "aria-pressed": String(rate.type === chosen), onclick: () => choose(rate.type) },
      rate.type === "all" ? "All types" : rate.type);
    return el("tr", { class: rate.type === chosen ? "chosen" : "" }, el("td", {}, button), drawn(whole(ended), perSecond(rate), ""), drawn(share(succeeded / ended), success(rate), "good"),
      el("td", { class: "number" }, known(p50, span)), drawn(known(p95, span), rate.p95, "plain"));
  }));
  if (focused) byId("types").querySelector(`[data-type="${focused}"]`)?.focus();
}

function showFaults(faults) {
  const all = Object.entries(faults);
  const sum = all.reduce((so_far, [, count]) => so_far + count, 0);
  const show = (fault) => {
    filters.reset();
    filters.elements.fault.value = fault;
    refilter();
    byId("jobs").scrollIntoView();
    byId("jobs").focus({ preventScroll: true });
  };
  if (byId("faults").contains(document.activeElement)) return;
  byId("faults").replaceChildren(...all.slice(0, 6).map(([fault, count]) =>
    el("li", {}, el("button", { class: "plain mono", title: "Show these jobs", onclick: () => show(fault) }, fault), el("span", { class: "number" }, whole(count)), bar(count / sum))));
  if (!all.length) byId("faults").append(el("li", { class: "empty" }, "No job has failed in the last hour."));
}

function showWorkers(workers) {
  byId("workers").replaceChildren(...workers.map((each) =>
    el("li", {}, el("span", { class: "mono" }, each.worker), el("span", { class: "number" }, `${each.running} of ${each.threads}`), bar(each.running / each.threads),
      el("span", { class: "soft" }, "sign of life ", when(new Date(each.at * 1000).toISOString())), el("span", { class: "soft number" }, `up ${span(Math.max(0, now() - each.since * 1000))}`))));
  if (!workers.length) byId("workers").append(el("li", { class: "empty" }, "No worker has given a sign of life for 15 seconds: start one with dropoff worker."));
}

/* The jobs. */

const filters = byId("filters");
const jobs = new Map(); // Job id -> {job, row}
let cursor = null;
let asked = 0; // Counts what was asked for, so that an answer to an earlier question is dropped.

function filtered() {
  return new URLSearchParams([...new FormData(filters)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));
}

function matches(job, by) {
  const text = `${job.id}\n${job.destination ?? ""}\n${job.host ?? ""}`.toLowerCase();
  return ["state", "type", "fault"].every((name) => !by.get(name) || by.get(name) === job[name]) && text.includes((by.get("search") ?? "").toLowerCase());
}

function cells(job) {
  const took = UNDER_WAY.includes(job.state) ? "" : span(Date.parse(job.changed_at) - Date.parse(job.submitted_at));
  const label = `Job ${job.id}, ${job.type}, ${job.state}${job.fault ? `, ${job.fault}` : ""}: open its timeline`;
  const cell = (look, ...content) => el("td", { role: "cell", class: look }, ...content);
  return [
    cell("of-state", badge(job.state), job.fault ? el("span", { class: "reason mono" }, job.fault) : ""),
    cell("of-job", el("button", { class: "plain mono", "aria-label": label }, job.id.slice(0, 8))),
    cell("of-type", job.type),
    cell("where", job.host ?? el("span", { class: "soft" }, "–"), el("span", { class: "soft mono" }, job.destination ?? "")),
    cell("of-account", job.account_name ?? String(job.account)),
    cell("of-took number", took),
    cell("of-when number", when(job.submitted_at)),
  ];
}

function put(job, fresh) {
  const before = jobs.get(job.id);
  if (before && Date.parse(job.changed_at) < Date.parse(before.job.changed_at)) return;
  if (!matches(job, filtered())) {
    before?.row.remove();
    jobs.delete(job.id);
    return;
  }
  const row = before?.row ?? el("tr", { role: "row", onclick: () => open(job.id) });
  const held = row.contains(document.activeElement);
  row.replaceChildren(...cells(job));
  if (held) row.querySelector("button").focus();
  jobs.set(job.id, { job, row });
  if (before) return;
  if (fresh) row.classList.add("new");
  const older = [...byId("rows").children].find((other) => other.dataset.at < job.submitted_at);
  row.dataset.at = job.submitted_at;
  byId("rows").insertBefore(row, older ?? null);
  row.dataset.id = job.id;
}

function trim() {
  const rows = byId("rows");
  while (rows.children.length > ROWS && !cursorMoved) {
    jobs.delete(rows.lastElementChild.dataset.id);
    rows.lastElementChild.remove();
  }
  const any = rows.children.length > 0;
  byId("count").textContent = any ? `${whole(rows.children.length)} shown, newest first` : "";
  byId("empty").hidden = any || loading;
  byId("empty").textContent = [...filtered()].length
    ? "No job matches: change the filters, or clear them."
    : "No job yet. Each create, update and verification of a destination shows here as it happens.";
}

let loading = false;
let cursorMoved = false; // Whether older jobs were asked for, which are then kept.

async function load(from = null) {
  const mine = ++asked;
  loading = true;
  const by = filtered();
  by.set("limit", PAGE);
  if (from) by.set("cursor", from);
  try {
    const content = await get(`/jobs?${by}`);
    if (mine !== asked) return;
    if (!from) {
      const there = new Set(content.jobs.map((job) => job.id));
      for (const [id, { job, row }] of jobs) {
        if (there.has(id) || (matches(job, by) && now() - Date.parse(job.submitted_at) < 10000)) continue;
        row.remove();
        jobs.delete(id);
      }
    }
    cursorMoved = Boolean(from);
    content.jobs.forEach((job) => put(job, false));
    cursor = content.next_cursor;
    byId("older").hidden = !cursor;
  } catch (error) {
    if (error.answered) notice(error.message);
    else link("lost");
  } finally {
    if (mine === asked) loading = false;
    trim();
  }
}

function refilter() {
  keepInAddress();
  load();
}

/* The stream. The browser resumes it by itself where it was cut; where that is refused, it is begun anew. */

let stream = null;
let failures = [];
let toldAt = 0;
let arrived = new Map();

function follow() {
  stream?.close();
  stream = new EventSource("/jobs/stream");
  const mine = stream;
  let begun = false;
  stream.onopen = () => {
    link("live");
    if (!begun) load();
    begun = true;
  };
  stream.onerror = () => {
    link("lost");
    if (mine === stream && stream.readyState === EventSource.CLOSED) setTimeout(() => mine === stream && follow(), AGAIN_MS);
  };
  stream.addEventListener("gap", () => load());
  stream.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    if (!arrived.size) setTimeout(arrive, 100);
    arrived.set(job.id, job);
    if (job.state === "failed") failures.push(job);
  });
}

function arrive() {
  for (const job of arrived.values()) put(job, true);
  if (arrived.has(shown)) open(shown);
  arrived = new Map();
  trim();
  if (failures.length && Date.now() - toldAt > TOLD_EVERY_MS) {
    const { fault, host, type } = failures.at(-1);
    byId("told").textContent = `${failures.length === 1 ? "A job" : `${failures.length} jobs`} failed: ${fault} at ${host ?? type}`;
    [failures, toldAt] = [[], Date.now()];
  }
}

/* One job. */

const dialog = byId("job");
let shown = null;

function sentence(report, state) {
  const words = {
    queued: "It waits for a worker.", running: "A worker has begun.", uploading: "The test file is being uploaded.",
    deleting: "The test file is being deleted.", expired: "No worker took it in time; the caller was told to try again.",
    lost: "A worker began it and did not end it in time; the caller was told so, and nothing was created.",
  };
  const look = report ? (report.ok ? "" : "bad") : UNDER_WAY.includes(state) ? "" : "warn";
  const text = report?.message ?? words[state] ?? "Its report was too long to be kept.";
  const unnamed = report?.parameter && !text.includes(report.parameter);
  return el("p", { class: `sentence ${look}` }, text, unnamed ? el("span", { class: "soft" }, " Look at ", el("code", {}, report.parameter), ".") : "");
}

function facts(job, report) {
  const fact = (name, value, look = "") => (value ? el("div", { class: look }, el("dt", {}, name), el("dd", {}, value)) : null);
  const file = report ? el("code", {}, report.object) : null;
  return el("dl", { class: "facts" }, fact("Host", job.host, "whole"), fact("Type", job.type), fact("Account", job.account_name ?? String(job.account)),
    fact("Destination", job.destination && el("code", {}, job.destination)), fact("Region", report?.region), fact("Worker", job.worker && el("span", { class: "mono" }, job.worker)),
    fact("Attempt", job.attempt > 1 ? String(job.attempt) : ""), fact("Submitted", new Date(job.submitted_at).toLocaleString("en-GB")),
    fact(report?.left_behind ? "Left behind: this test file may still be there, remove it" : "Test file", file, "whole"));
}

function timeline(job) {
  const moments = job.timeline.map((each) => Date.parse(each.at));
  return el("ol", { class: "timeline" }, job.timeline.map((each, i) =>
    el("li", {}, el("span", {}, badge(each.state)), el("span", { class: "soft mono" }, each.worker ?? "front end"),
      el("span", { class: "number" }, i ? `+${span(Math.max(0, moments[i] - moments[i - 1]))}` : new Date(moments[i]).toLocaleTimeString("en-GB")))));
}

function steps(report) {
  const total = Math.max(1, report.steps.reduce((sum, step) => sum + (step.ms ?? 0), 0));
  let passed = 0;
  const rows = report.steps.map((step) => {
    const ms = step.ms ?? 0;
    const drawn = step.ms === undefined ? "" : bar(ms / total, Math.min(0.98, passed / total));
    passed += ms;
    const told = { code: step.code, "provider’s code": step.provider_code, HTTP: step.status, "request id": step.request_id };
    const why = Object.entries(told).filter(([, value]) => value !== undefined).map(([name, value]) => el("div", {}, el("span", { class: "soft" }, `${name} `), el("code", {}, String(value))));
    return el("tr", { class: step.outcome }, el("th", { scope: "row" }, step.step), el("td", {}, badge(step.outcome)), el("td", { class: "number" }, step.ms === undefined ? "" : span(ms), drawn),
      el("td", { class: "why" }, step.reason ? el("div", {}, step.reason) : "", why));
  });
  const head = ["Step", "Outcome", "Took", "What the provider said"].map((name, i) => el("th", { scope: "col", class: i === 2 ? "number" : "" }, name));
  return el("table", { class: "steps" }, el("caption", {}, `Steps of the verification, ${span(report.duration_ms)} in all`), el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
}

async function open(id) {
  const first = shown !== id || !dialog.open;
  shown = id;
  keepInAddress();
  let parts;
  try {
    const { job } = await get(`/jobs/${encodeURIComponent(id)}`);
    const state = job.report?.left_behind ? el("span", { class: "badge is-lost" }, "File left behind") : "";
    parts = [el("div", { class: "id" }, badge(job.state), job.fault ? el("code", {}, job.fault) : "", state), sentence(job.report, job.state), el("section", { "aria-label": "Timeline" }, el("h3", {}, "Timeline"), timeline(job)),
      job.report ? steps(job.report) : null, facts(job, job.report)];
  } catch (error) {
    parts = [el("p", { class: "sentence warn" }, error.answered ? error.message : "The connection was lost: it is shown when it is back.")];
  }
  if (shown !== id) return;
  const copy = el("button", { onclick: async () => {
    await navigator.clipboard.writeText(id);
    copy.textContent = "Copied";
  } }, "Copy id");
  const top = el("div", { class: "top" }, el("div", {}, el("h2", { id: "job-title" }, "Job"), el("code", { class: "soft" }, id)), copy,
    el("button", { autofocus: true, onclick: () => dialog.close() }, "Close"));
  if (first) dialog.replaceChildren(el("div", { class: "job" }, top, ...parts.filter(Boolean)));
  else dialog.firstElementChild.replaceChildren(dialog.querySelector(".top"), ...parts.filter(Boolean));
  if (!dialog.open) dialog.showModal();
}

dialog.addEventListener("close", () => {
  const row = jobs.get(shown)?.row;
  shown = null;
  keepInAddress();
  row?.querySelector("button").focus();
});
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

/* The address has the filters and the open job, so that a view can be handed on. */

function keepInAddress() {
  const view = filtered();
  if (shown) view.set("job", shown);
  history.replaceState(null, "", `${location.pathname}${[...view].length ? `?${view}` : ""}`);
}

function readAddress() {
  const view = new URLSearchParams(location.search);
  for (const field of filters.elements) if (field.name && view.has(field.name)) field.value = view.get(field.name);
  if (view.get("job")) open(view.get("job"));
}

let typing = null;
filters.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refilter, 250);
});
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(refilter));
byId("older").addEventListener("click", () => load(cursor));
document.addEventListener("visibilitychange", poll);
new ResizeObserver(() => overview && showFigures()).observe(byId("plot-rate"));

readAddress();
follow();
poll();
setInterval(poll, POLL_MS);
