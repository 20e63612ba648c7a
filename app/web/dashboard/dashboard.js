// The dashboard: asks for the figures every few seconds, follows the stream of jobs, and shows one of them.

const POLL_MS = 3000;
const PATIENCE_MS = 8000;
const AGAIN_MS = 2000;
const LEFTOVERS_EVERY_MS = 15000;
const ACT_MS = 60000; // What a button asks for may be held as long as a create.
const FOUND_PAGE = 20;
const SELDOM = 6; // How many jobs a minute at most are told by minute rather than by second.
const FEW = 8; // How many entries of a list are shown before all of it is asked for.
const ANNOUNCE_EVERY_MS = 8000;
const ROWS = 200;
const PAGE = 50;
const MINUTES = 60;

const UNDER_WAY = ["queued", "running", "uploading", "deleting"];
const ICONS = {
  queued: "M8 4v4l2.5 1.5M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12",
  running: "M5.5 4v8l6-4z", uploading: "M8 13V3M4 7l4-4 4 4", deleting: "M3 4.5h10M6 4V2.5h4V4m2 .5-.6 9H4.6L4 4.5",
  ok: "M3 8.5 6.5 12 13 4.5", pending: "M8 4v4l2.5 1.5M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12",
  succeeded: "M3 8.5 6.5 12 13 4.5", passed: "M3 8.5 6.5 12 13 4.5", failed: "M4 4l8 8M12 4l-8 8",
  skipped: "M3 8h10", expired: "M4 2h8M4 14h8M5 2c0 4 6 8 6 12M11 2c0 4-6 8-6 12", lost: "M5.5 6a2.5 2.5 0 1 1 3.6 2.2C8.3 8.600 8 9 8 10M8 13v.1",
};

const byId = (id) => document.getElementById(id);
const PAGE_TOKEN = document.querySelector("meta[name=page-token]").content;
const WORDS = Object.fromEntries([...byId("words").options].map((option) => [option.value, option.text]));

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
  return el("span", { class: `badge is-${state}` }, icon(state), state[0].toUpperCase() + state.slice(1));
}
const icon = (state) => svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: ICONS[state] }));

function bar(part, from = 0) {
  const inner = el("i");
  inner.style.marginLeft = `${from * 100}%`;
  inner.style.width = part ? `max(2px, ${part * 100}%)` : "0";
  return el("span", { class: "bar", "aria-hidden": "true" }, inner);
}

// A code, and what it means in a few words.
function reason(code) {
  return el("span", { class: "reason" }, WORDS[code] ? `${WORDS[code]} ` : "", el("span", { class: "mono" }, code));
}

// `entries` as items of the list `id`: the first few, and a button that shows the rest.
const expanded = new Set();
function showList(id, entries, item, empty, count = entries.length, change = () => {}) {
  const list = byId(id);
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const shownAll = expanded.has(id);
  list.replaceChildren(...(shownAll ? entries : entries.slice(0, FEW)).map(item));
  if (!entries.length) list.append(el("li", { class: "empty" }, empty));
  if (count > FEW) {
    const turn = () => {
      if (!expanded.delete(id)) expanded.add(id);
      showList(id, entries, item, empty, count, change);
      change();
    };
    list.append(el("li", { class: "rest" }, el("button", { class: "plain", "data-key": "rest", "aria-expanded": String(shownAll), onclick: turn }, shownAll ? "Show fewer" : `Show all ${whole(count)}`)));
  }
  if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/* Numbers and times, as people say them. */

let ahead = 0; // How far the server's clock is ahead of this one, in milliseconds.
const now = () => Date.now() + ahead;
const whole = (n) => n.toLocaleString("en");
const few = (n) => n.toLocaleString("en", { maximumFractionDigits: n < 10 ? 2 : n < 100 ? 1 : 0 });
const share = (part) => (part === 1 || part === 0 ? `${part * 100}%` : `${Math.min(99.9, part * 100).toFixed(1)}%`);
function bytes(n) {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, n)) / 3)));
  return `${few(n / 1000 ** power)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}
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
  const [size, unit] = seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"] : seconds < 172800 ? [3600, "h"] : [86400, "d"];
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

const get = (path) => call(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
const post = (path, body) =>
  call(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", "X-Dropoff-Page": PAGE_TOKEN }, signal: AbortSignal.timeout(ACT_MS) });

async function call(path, options) {
  const response = await fetch(path, options);
  if (response.status === 401) location.reload();
  const content = await response.json();
  if (!response.ok) throw Object.assign(new Error(content.request_info.message), { answered: true, status: response.status });
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
    const all = Object.entries({ accounts: "accounts", destinations: "destinations-list" }).filter(([, list]) => expanded.has(list));
    overview = await get(`/dashboard/overview?${new URLSearchParams(all.map(([name]) => [name, "all"]))}`);
    ahead = overview.now * 1000 - (asked + Date.now()) / 2;
    notice("");
    showFigures();
    if (byId("link").dataset.link === "lost") follow();
    await showDeliveries();
  } catch (error) {
    if (error.answered) notice(error.message);
    else link("lost");
  }
}

let leftoversAt = -LEFTOVERS_EVERY_MS;

async function pollLeftovers() {
  if (document.hidden || performance.now() - leftoversAt < LEFTOVERS_EVERY_MS) return;
  leftoversAt = performance.now();
  try {
    showLeftovers(await get("/leftovers"));
  } catch {
    // What the figures show is asked for as well, and says what is wrong.
    leftoversAt = -LEFTOVERS_EVERY_MS;
  }
}

function showLeftovers({ total_count: count, leftovers }) {
  byId("leftovers").hidden = !count;
  byId("leftovers-count").textContent = leftovers.length < count ? `the oldest ${whole(leftovers.length)} of ${whole(count)}` : whole(count);
  byId("leftovers-list").replaceChildren(...leftovers.map((each) => {
    const next = each.next_try_at ? `tried ${whole(each.tries)} times` : "an operator is needed";
    const again = async () => {
      const answered = await post(`/leftovers/${each.id}/retry`, {});
      leftoversAt = -LEFTOVERS_EVERY_MS;
      await pollLeftovers();
      return answered.request_info.message;
    };
    return el("li", {}, el("button", { class: "plain mono", title: "Show this job", onclick: () => open(each.id) }, each.id.slice(0, 8)), el("span", { class: "number" }, when(each.created_at)),
      el("span", { class: each.next_try_at ? "soft" : "warn" }, `${each.reason ?? "to be removed"}, ${next}`), el("span", { class: "soft number" }, each.account_name ?? String(each.account)),
      el("span", { class: "soft mono" }, each.object), each.next_try_at ? "" : actButton("Try again", `retry ${each.id}`, "Have its delete tried again, for 24 hours from now on", again));
  }));
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
  const { queue, held, rates, faults, failing, refused } = overview;
  const workers = overview.workers.filter((each) => !each.deliveries);
  const every = rates[0];
  const running = workers.reduce((sum, each) => sum + each.running, 0);
  const room = workers.reduce((sum, each) => sum + each.jobs, 0);
  const waited = queue.oldest ? now() - queue.oldest * 1000 : 0;
  const { ended, succeeded, failed, expired, lost, p50, p95 } = every.whole;
  const unanswered = expired + lost;
  const [pace, speeds] = paceOf(every);
  byId("tiles").replaceChildren(
    tile("Waiting in the queue", whole(queue.depth), "", queue.depth ? `now, oldest for ${span(Math.max(0, waited))}` : "now, nothing waits", waited > 5000 ? "warn" : ""),
    tile("Held requests", whole(held), "", "now, on all front ends"),
    tile("Workers", whole(workers.length), "", workers.length ? `now, ${running} of at most ${room} jobs` : "none is heard of", workers.length ? "" : "bad"),
    tile(pace, few(speeds.at(-1)), "", `this minute; ${whole(ended)} in the last hour`),
    tile("Success rate", known(ended ? succeeded / ended : null, share), "", "of verifications, last hour" + (ended ? `: ${whole(failed)} failed` + (unanswered ? `, ${whole(unanswered)} unanswered` : "") : ""), unanswered ? "warn" : ""),
    tile("Latency, p95", ...inUnits(p95), p50 === null ? "last hour" : `last hour: half within ${span(p50)}`),
  );
  byId("hour").hidden = !ended;
  byId("hour-empty").hidden = ended > 0;
  if (ended) {
    showTypes(rates);
    showPlots(rates.find((rate) => rate.type === chosen) ?? every);
    showFaults(faults);
  }
  showFailing(failing, refused);
  showDestinations(overview.failing_destinations);
  showWorkers(overview.workers);
}

// The last minute is not over: what it has is divided by what has passed of it.
function perSecond(rate) {
  const passed = Math.max(5, now() / 1000 - overview.minutes.at(-1));
  return rate.ended.map((count, i) => count / (i === MINUTES - 1 ? Math.min(60, passed) : 60));
}
// What is seldom is counted by minute: a hundredth of a job a second tells nobody anything.
function paceOf(rate) {
  const speeds = perSecond(rate);
  return Math.max(...rate.ended) > SELDOM ? ["Jobs a second", speeds] : ["Jobs a minute", rate.ended];
}
const success = (rate) => rate.ended.map((count, i) => (count ? rate.succeeded[i] / count : null));

// A bar for each minute that has a value; what is not nothing is at least two pixels high.
function bars(values, x, y, width) {
  return values.map((value, i) => {
    if (!value) return "";
    const top = Math.min(y(value), y(0) - 2);
    return `M${x(i).toFixed(1)} ${y(0)}V${top.toFixed(1)}h${width.toFixed(1)}V${y(0)}z`;
  }).join("");
}

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// `lines` are {name, values, look}, of which each stands before the ones before it, and those without a name are not
// read; `format` says a value; what is summed up is for who cannot see it.
function plot(figure, title, lines, format, top, summary) {
  const [width, height, left, right, under] = [figure.clientWidth || 320, 150, 46, 6, 20];
  const highest = top ?? roundUp(Math.max(...lines.flatMap((line) => line.values.map((value) => value ?? 0)), 0));
  const step = (width - left - right) / MINUTES;
  const x = (i) => left + i * step;
  const y = (value) => 6 + (1 - value / highest) * (height - under - 6);
  const read = lines.filter((line) => line.name !== undefined);
  const last = Math.max(0, read[0].values.findLastIndex((value) => value !== null));
  const key = (line, i) => el("span", { class: read.length > 1 ? `key ${line.look}` : "" }, line.name ? `${line.name} ` : "", el("b", {}, known(line.values[i], format)));
  const readings = el("span", { class: "readings" });
  const tell = (i) => readings.replaceChildren(el("span", {}, `${clock(overview.minutes[i] * 1000)} `), ...read.map((line) => key(line, i)));
  tell(last);
  const name = el("span", {}, title);
  const cursor = svg("line", { class: "cursor", y1: 6, y2: height - under, visibility: "hidden" });
  const drawing = svg("svg", { width, height, role: "img", "aria-label": `${title}: ${summary}` },
    [0, 0.5, 1].map((part) => svg("line", { class: "grid", x1: left, x2: width - right, y1: y(part * highest), y2: y(part * highest) })),
    [0, 0.5, 1].map((part) => svg("text", { x: left - 8, y: y(part * highest) + 4, "text-anchor": "end" }, format(part * highest))),
    [0, 20, 40, MINUTES - 1].map((i) => svg("text", { x: i === MINUTES - 1 ? width - right : x(i), y: height - 3, "text-anchor": i ? (i === MINUTES - 1 ? "end" : "middle") : "start" }, clock(overview.minutes[i] * 1000))),
    lines.map((line) => svg("path", { class: `fill ${line.look}`, d: bars(line.values, x, y, step * 0.75) })), cursor);
  const point = (event) => {
    const part = (event.clientX - drawing.getBoundingClientRect().left - left) / (width - left - right);
    const i = Math.min(MINUTES - 1, Math.max(0, Math.floor(part * MINUTES)));
    const middle = x(i) + step * 0.375;
    fill(cursor, { x1: middle, x2: middle, visibility: "visible" }, []);
    tell(i);
  };
  drawing.addEventListener("pointermove", point);
  drawing.addEventListener("pointerleave", () => showFigures());
  if (!figure.matches(":hover")) figure.replaceChildren(el("figcaption", {}, name, readings), drawing);
}

function showPlots(rate) {
  const { ended, succeeded, p50, p95 } = rate.whole;
  const [name, speeds] = paceOf(rate);
  byId("hour-of").textContent = chosen === "all" ? "All types" : `Only ${chosen}`;
  plot(byId("plot-rate"), name, [{ name: "", values: speeds, look: "" }], few, null,
    `${few(speeds.at(-1))} now, at most ${few(Math.max(...speeds))}, ${whole(ended)} jobs in the last hour`);
  plot(byId("plot-success"), "Success rate", [{ values: rate.ended.map((count) => (count ? 1 : null)), look: "bad" }, { name: "", values: success(rate), look: "good" }], (part) => (part === 0.5 ? "50%" : share(part)), 1,
    `${share(succeeded / ended)} in the last hour`);
  plot(byId("plot-latency"), "Latency", [{ name: "p95", values: rate.p95, look: "light" }, { name: "p50", values: rate.p50, look: "" }],
    (ms) => (ms ? span(ms) : "0"), null, `half of the jobs within ${known(p50, span)}, 95 of 100 within ${known(p95, span)}`);
}

function spark(values, look) {
  const [width, height, highest] = [72, 22, Math.max(...values, 1e-9)];
  const x = (i) => (i / MINUTES) * width;
  const y = (value) => 2 + (1 - value / highest) * (height - 3);
  return svg("svg", { width, height, "aria-hidden": "true" }, svg("path", { class: `fill ${look}`, d: bars(values, x, y, width / MINUTES) }));
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
      el("td", { class: "number" }, known(p50, span)), drawn(known(p95, span), rate.p95, ""));
  }));
  if (focused) byId("types").querySelector(`[data-type="${focused}"]`)?.focus();
}

// Have the list of deliveries show those that `by` tells, and go there.
function findDeliveries(by) {
  deliveryFilters.reset();
  for (const [name, value] of Object.entries(by)) deliveryFilters.elements[name].value = value;
  refilterDeliveries();
  byId("found-title").scrollIntoView();
}

// Have the list of jobs show those that `by` tells, and go there.
function showJobs(by) {
  filters.reset();
  for (const [name, value] of Object.entries(by)) filters.elements[name].value = value;
  refilter();
  byId("jobs").scrollIntoView();
  byId("jobs").focus({ preventScroll: true });
}

const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

function codes(counts, press, title = "Show these jobs") {
  const sum = total(counts);
  return ([code, count]) =>
    el("li", {}, el("span", {}, press ? el("button", { class: "plain mono", "data-key": code, title, onclick: () => press(code) }, code) : el("span", { class: "mono" }, code),
      el("span", { class: "soft" }, ` ${WORDS[code] ?? ""}`)), el("span", { class: "number" }, whole(count)), bar(count / sum));
}

function showFaults(faults) {
  showList("faults", Object.entries(faults), codes(faults, (fault) => showJobs({ fault })), "No job has failed in the last hour.");
}

function showFailing({ accounts, count, others }, refused) {
  byId("failing").hidden = !count && !others && !total(refused);
  byId("account-names").replaceChildren(...accounts.map((each) => el("option", { value: each.account })));
  const sum = (each) => total(each.failed) + total(each.refused) + total(each.undelivered);
  const most = Math.max(1, ...accounts.map(sum));
  const why = (counts) => Object.entries(counts).sort((one, other) => other[1] - one[1]).slice(0, 3).map(([code, n]) => `${WORDS[code] ?? code} ${whole(n)}`).join(", ");
  const item = (each) => {
    const { account, failed, refused: early, undelivered } = each;
    const said = [total(failed) ? `${whole(total(failed))} failed` : "", total(early) ? `${whole(total(early))} refused` : ""].filter(Boolean).join(", ");
    const lost = total(undelivered) === 1 ? "1 delivery failed" : `${whole(total(undelivered))} deliveries failed`;
    return el("li", {}, el("button", { class: "plain", "data-key": account, title: "Show its jobs", onclick: () => showJobs(total(failed) ? { account, state: "failed" } : { account }) }, account), el("span", { class: "number" }, said),
      said ? el("span", { class: "soft whole" }, why({ ...failed, ...early })) : "",
      total(undelivered) ? el("span", { class: "soft whole" }, el("button", { class: "plain", "data-key": `deliveries ${account}`, title: "Show these deliveries", onclick: () => findDeliveries({ account }) }, lost), `: ${why(undelivered)}`) : "",
      bar(sum(each) / most));
  };
  showList("accounts", accounts, item, "No account has failed in the last hour.", count, poll);
  if (others) byId("accounts").append(el("li", { class: "soft" }, `${whole(others)} more of accounts that are not counted one by one: see the jobs that failed.`));
  showList("refused", Object.entries(refused), codes(refused), "Nothing was refused before it came to a job.");
}

function showDestinations(found) {
  if (!found) return; // The database does not answer: what it said last stays.
  const { destinations, count } = found;
  byId("destinations").hidden = !count;
  byId("destinations-count").textContent = `${whole(count)} now`;
  const item = (each) =>
    el("li", {}, el("button", { class: "plain", "data-key": `open ${each.id}`, onclick: () => openDestination(each.id) }, each.name), el("span", { class: "soft number" }, "began ", when(each.failing_since)),
      each.failing ? el("span", { class: "said" }, reason(each.failing.code), el("span", {}, each.failing.message)) : "", el("span", { class: "soft whole" }, [each.account_name, each.type, each.id].join(" · ")));
  showList("destinations-list", destinations, item, "", count, poll);
  if (expanded.has("destinations-list") && count > destinations.length) byId("destinations-list").append(el("li", { class: "soft" }, `The ${whole(destinations.length)} that began last; dropoff destinations list --failing prints all.`));
}

function showWorkers(workers) {
  byId("workers").replaceChildren(...workers.map((each) =>
    el("li", {}, el("span", { class: "mono" }, each.worker), el("span", { class: "number" }, `${each.running} of ${each.jobs} ${each.deliveries ? "deliveries" : "jobs"}`), bar(each.running / each.jobs),
      ...warnings(each).map((text) => el("span", { class: "warn" }, text)),
      el("span", { class: "soft" }, "heard of ", when(new Date(each.at * 1000).toISOString())), el("span", { class: "soft number" }, `up ${span(Math.max(0, now() - each.since * 1000))}`))));
  if (!workers.some((each) => !each.deliveries)) byId("workers").prepend(el("li", { class: "empty" }, "No worker was heard of for 15 seconds: start one with dropoff worker."));
}

function warnings(worker) {
  const off = Math.abs(worker.clock_offset) > 1 ? [`its clock is ${worker.clock_offset > 0 ? "+" : ""}${few(worker.clock_offset)} s off: mend NTP there`] : [];
  return worker.reading ? off : ["does not read the queue", ...off];
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
  const text = [job.id, job.destination, job.host, job.account_name].map((each) => each ?? "").join("\n").toLowerCase();
  const account = by.get("account");
  if (account && account !== job.account_name && account !== String(job.account)) return false;
  return ["state", "type", "fault"].every((name) => !by.get(name) || by.get(name) === job[name]) && text.includes((by.get("search") ?? "").toLowerCase());
}

function cells(job) {
  const took = UNDER_WAY.includes(job.state) ? "" : span(Date.parse(job.changed_at) - Date.parse(job.submitted_at));
  const label = `Job ${job.id}, ${job.type}, ${job.state}${job.fault ? `, ${job.fault}` : ""}: open its timeline`;
  const cell = (look, ...content) => el("td", { role: "cell", class: look }, ...content);
  return [
    cell("of-state", badge(job.state), job.fault ? reason(job.fault) : ""),
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
  byId("empty").textContent = refusedFilter || ([...filtered()].length
    ? "No job matches: change the filters, or clear them."
    : "No job yet. Each create, update and verification of a destination shows here as it happens.");
}

let loading = false;
let refusedFilter = ""; // Why the filters ask for nothing, as the server says it.
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
    refusedFilter = "";
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
    if (error.status === 400 && mine === asked) {
      refusedFilter = error.message;
      byId("rows").replaceChildren();
      jobs.clear();
      byId("older").hidden = true;
    } else if (error.answered) notice(error.message);
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
let announcedAt = 0;
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
  if (failures.length && Date.now() - announcedAt > ANNOUNCE_EVERY_MS) {
    const { fault, host, type } = failures.at(-1);
    byId("announcement").textContent = `${failures.length === 1 ? "A job" : `${failures.length} jobs`} failed: ${fault} at ${host ?? type}`;
    [failures, announcedAt] = [[], Date.now()];
  }
}

/* The deliveries: what was moved, what is under way, and those that are looked for: what failed, if nobody chose. */

const deliveryFilters = byId("delivery-filters");
const underway = new Map(); // Delivery id -> {item, sent, at, speed}
let moving = null; // The delivery in the panel, while it is not over.
let foundPages = 1; // How many pages of what the filters ask for are shown.

async function showDeliveries() {
  const { counts, bytes: moved, ok, faults } = overview.deliveries;
  const there = (counts && total(counts) > 0) || total(moved) + total(ok) + total(faults) > 0 || overview.workers.some((each) => each.deliveries);
  byId("deliveries").hidden = !there;
  if (!there) return;
  const most = (n) => (n >= 10000 ? "10,000 or more" : whole(n));
  showCounts(counts ? { uploading: `${most(counts.uploading)} under way`, pending: `${most(counts.pending)} wait`, failed: `${most(counts.failed)} failed` } : null);
  showTraffic(moved, ok, faults);
  const [busy, found] = await Promise.all([get("/deliveries?state=uploading&limit=100"), findings()]);
  showUnderway(busy.deliveries, counts ? counts.uploading : 0);
  showFound(found);
  if (moving && shown === moving) await openDelivery(shown);
}

// How many are in each state, each a button that leads to them.
function showCounts(said) {
  const place = byId("deliveries-count");
  if (place.textContent === (said ? `now: ${Object.values(said).join(", ")}` : "The database does not answer.")) return;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const buttons = Object.entries(said ?? {}).flatMap(([state, text], i) => [i ? ", " : "now: ", el("button", { class: "plain", "data-key": state, title: "Show these deliveries", onclick: () => findDeliveries({ state }) }, text)]);
  place.replaceChildren(...(said ? buttons : ["The database does not answer."]));
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function showTraffic(moved, ok, faults) {
  const passed = Math.min(60, Math.max(5, now() / 1000 - overview.minutes.at(-1)));
  const speeds = moved.map((sum, i) => sum / (i === MINUTES - 1 ? passed : 60));
  plot(byId("plot-bytes"), "Bytes a second", [{ name: "", values: speeds, look: "" }], (n) => (n ? bytes(n) : "0"), null,
    `${bytes(speeds.at(-1))} a second this minute, ${bytes(moved.reduce((sum, n) => sum + n, 0))} in the last hour`);
  plot(byId("plot-files"), "Files a minute", [{ name: "", values: ok, look: "good" }], few, null, `${whole(total(ok))} delivered in the last hour`);
  showList("delivery-faults", Object.entries(faults), codes(faults, (fault) => findDeliveries({ state: "", fault }), "Show the deliveries that have it now"), "No attempt has failed in the last hour.");
}

const whose = (each) => [each.account_name ?? String(each.account), `destination ${each.destination}`, `${each.collection_id} / ${each.result_set_id}`].join(" · ");

function transfer() {
  const [name, size, speed, where] = [el("button", { class: "plain mono" }), el("span", { class: "number" }), el("span", { class: "soft number" }), el("span", { class: "soft" })];
  const progress = el("span", { class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, el("i"));
  return { name, size, speed, where, progress, item: el("li", {}, name, size, progress, where, speed) };
}

function showUnderway(deliveries, count) {
  const there = new Set(deliveries.map((each) => each.id));
  for (const [id, { item }] of underway) {
    if (there.has(id)) continue;
    item.remove();
    underway.delete(id);
  }
  byId("underway").querySelector(".empty")?.remove();
  for (const each of deliveries) {
    const before = underway.get(each.id);
    const row = before ?? { ...transfer(), sent: each.sent, at: Date.parse(each.began_at ?? each.changed_at), rate: null };
    if (!before) {
      row.name.addEventListener("click", () => openDelivery(each.id));
      byId("underway").append(row.item);
      underway.set(each.id, row);
    }
    const at = Date.parse(each.changed_at);
    if (each.sent > row.sent && at > row.at) [row.rate, row.sent, row.at] = [((each.sent - row.sent) / (at - row.at)) * 1000, each.sent, at];
    else if (each.sent < row.sent) [row.rate, row.sent, row.at] = [null, each.sent, at];
    const part = each.bytes ? each.sent / each.bytes : 0;
    row.name.textContent = each.name;
    row.size.textContent = `${bytes(each.sent)} of ${bytes(each.bytes)}`;
    row.speed.textContent = row.rate ? `${bytes(row.rate)}/s` : each.attempts > 1 ? `attempt ${each.attempts}` : "begun";
    row.where.textContent = whose(each);
    fill(row.progress, { "aria-label": each.name, "aria-valuenow": Math.round(part * 100) }, []);
    row.progress.firstElementChild.style.width = `${part * 100}%`;
  }
  if (!deliveries.length) byId("underway").append(el("li", { class: "empty" }, "Nothing is being delivered."));
  if (count > deliveries.length && deliveries.length) byId("underway").append(el("li", { class: "empty" }, `and ${whole(count - deliveries.length)} more`));
}

function deliveriesFiltered() {
  return new URLSearchParams([...new FormData(deliveryFilters)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));
}

// What the filters ask for, newest first: as many pages as were asked for. `refused` says why they ask for nothing.
async function findings() {
  const found = { deliveries: [], next: null, refused: "" };
  try {
    for (let page = 0; page < foundPages && (page === 0 || found.next); page++) {
      const by = deliveriesFiltered();
      by.set("limit", FOUND_PAGE);
      if (found.next) by.set("cursor", found.next);
      const content = await get(`/deliveries?${by}`);
      found.deliveries.push(...content.deliveries);
      found.next = content.next_cursor;
    }
  } catch (error) {
    if (error.status !== 400) throw error;
    found.refused = error.message;
  }
  return found;
}

function showFound({ deliveries, next, refused }) {
  byId("older-deliveries").hidden = !next;
  const list = byId("found");
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const later = (each) => (each.status === "pending" && each.attempts && each.due_at ? el("span", { class: "soft" }, `attempt ${each.attempts} failed, the next one is at ${clock(Date.parse(each.due_at))}`) : "");
  list.replaceChildren(...deliveries.map((each) =>
    el("li", {}, el("button", { class: "plain mono", "data-key": `open ${each.id}`, onclick: () => openDelivery(each.id) }, each.name), el("span", { class: "soft number" }, when(each.ended_at ?? each.changed_at)),
      el("span", { class: "said" }, el("span", {}, badge(each.status)), each.fault ? reason(each.fault) : "", el("span", {}, each.message ?? ""), later(each)), each.status === "failed" ? redeliverButton(each) : "",
      el("span", { class: "soft whole" }, whose(each)))));
  const onlyFailed = deliveriesFiltered().toString() === "state=failed";
  if (!deliveries.length) list.append(el("li", { class: "empty" }, refused || (onlyFailed ? "Nothing has failed." : "No delivery matches: change the filters, or clear them.")));
  if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function redeliverButton(each) {
  const path = `/collections/${encodeURIComponent(each.collection_id)}/results/${each.result_set_id}/redeliver`;
  return actButton("Redeliver", `again ${each.id}`, `Deliver to ${each.destination} again what failed of result set ${each.result_set_id}`, async () => {
    const answered = await post(`${path}?account=${encodeURIComponent(each.account_name)}`, { destination_ids: [each.destination], only_failed: true });
    return filesAgain(answered);
  });
}

const redeliverAllButton = (id, account) =>
  actButton("Redeliver all that failed there", "all", "", async () => filesAgain(await post(`/destinations/${id}/redeliver?account=${encodeURIComponent(account)}`, { only_failed: true })));

function filesAgain({ redelivered, request_info: { message } }) {
  if (!redelivered) return message;
  return redelivered === 1 ? "1 file is delivered again." : `${whole(redelivered)} files are delivered again.`;
}

// A button that has something done, and says what came of it; the figures are asked for anew then. Who only looks has none.
function actButton(text, key, title, act) {
  if (!PAGE_TOKEN) return "";
  const button = el("button", { "data-key": key, title, onclick: async () => {
    button.disabled = true;
    button.textContent = "Asked for…";
    try {
      announce(await act());
      if (shown && kindOf(shown) !== "job") await openers[kindOf(shown)](shown);
      await poll();
    } catch (error) {
      announce(error.answered ? error.message : "The connection was lost: whether it was done is not known.", "bad");
    }
    [button.disabled, button.textContent] = [false, text];
  } }, text);
  return button;
}

function announce(text, look = "") {
  byId("announcement").textContent = text;
  const said = dialog.open ? dialog.querySelector(".outcome") : null;
  if (said) Object.assign(said, { textContent: text, hidden: false, className: `outcome sentence ${look}` });
  else if (look) notice(text);
}

function refilterDeliveries() {
  foundPages = 1;
  poll();
}

// A line of a panel; none where there is no `value`, which may be a list of several.
const fact = (name, value, look = "") => (value || value === 0 ? el("div", { class: look }, el("dt", {}, name), el("dd", {}, ...[value].flat())) : null);
const inFull = (time) => time && new Date(time).toLocaleString("en-GB");

async function openDelivery(id) {
  await showInDialog(id, "Delivery", async () => {
    const { delivery } = await get(`/deliveries/${encodeURIComponent(id)}`);
    const there = await destinationOf(delivery);
    moving = ["pending", "uploading"].includes(delivery.status) ? id : null;
    const code = (value) => value && el("code", {}, String(value));
    const refusal = delivery.refusal;
    const words = { pending: "It waits for its turn, or for its next attempt.", uploading: "A worker is sending it.", ok: "It was delivered.", skipped: "It was not delivered, since its destination was disabled or deleted.", failed: "It could not be delivered." };
    const look = { failed: "bad", ok: "", skipped: "warn" }[delivery.status] ?? "warn";
    const lately = delivery.message ?? words[delivery.status];
    return [el("div", { class: "id" }, badge(delivery.status), delivery.fault ? reason(delivery.fault) : ""), el("p", { class: `sentence ${look}` }, lately),
      delivery.status === "failed" ? el("p", { class: "buttons" }, redeliverButton(delivery), redeliverAllButton(delivery.destination, delivery.account_name)) : null,
      el("dl", { class: "facts" }, fact("File", code(delivery.name), "whole"), fact("Account", delivery.account_name), fact("Destination", [there ? `${there.name} ` : "", there ? destinationLink(delivery.destination) : code(delivery.destination)]),
        fact("Type", there?.type), fact("Bucket", code(there?.bucket)), fact("Host, as last verified", there?.host, "whole"), fact("The destination fails since", inFull(there?.failing_since)), fact("Code", code(delivery.fault)),
        refusal && [fact("Step that failed", refusal.step), fact("Provider’s code", code(refusal.provider_code)), fact("HTTP status", code(refusal.status)), fact("Provider’s request id", code(refusal.request_id))],
        fact("Collection", code(delivery.collection_id)), fact("Result set", String(delivery.result_set_id)), fact("Sent", `${bytes(delivery.sent)} of ${bytes(delivery.bytes)}`), fact("Attempts", String(delivery.attempts)),
        fact("Announced", inFull(delivery.created_at)), fact("Begun", inFull(delivery.began_at)), fact("Ended", inFull(delivery.ended_at)), fact("Next attempt", inFull(delivery.due_at)), fact("Worker", code(delivery.worker)),
        fact("Key", code(delivery.key), "whole"), fact("SHA-256", code(delivery.sha256), "whole"), fact("ETag", code(delivery.etag)), fact("Version", code(delivery.version_id)), fact("Request id of the copy that arrived", code(delivery.request_id)))];
  });
}

async function openDestination(id) {
  await showInDialog(id, "Destination", async () => {
    const { destination } = await get(`/destinations/${encodeURIComponent(id)}`);
    const { failing, failing_since: since, verification, account_name: account } = destination;
    const own = Object.entries(destination).filter(([name]) => /^(s3|gcs|azure|oss)_/.test(name)).map(([name, value]) => fact(name, el("code", {}, String(value))));
    const lead = (text, go) => el("button", { onclick: () => {
      dialog.addEventListener("close", go, { once: true });
      dialog.close();
    } }, text);
    const state = since ? "Failing" : destination.enabled ? "Enabled" : "Disabled";
    const said = failing?.message ?? (since ? "Deliveries there fail." : destination.enabled ? "It does not fail." : "It is disabled: nothing is sent there.");
    return [el("div", { class: "id" }, el("span", { class: `badge is-${since ? "failed" : destination.enabled ? "ok" : "skipped"}` }, icon(since ? "failed" : destination.enabled ? "ok" : "skipped"), state), failing ? reason(failing.code) : ""),
      el("p", { class: `sentence ${since ? "bad" : destination.enabled ? "" : "warn"}` }, said),
      el("p", { class: "buttons" }, verifyButton({ destination: id, account_name: account }), since ? redeliverAllButton(id, account) : "", lead("Show its deliveries", () => findDeliveries({ state: "", destination: id })), lead("Show its jobs", () => showJobs({ search: id }))),
      el("dl", { class: "facts" }, fact("Name", destination.name, "whole"), fact("Account", account), fact("Type", destination.type), own, fact("Host, as last verified", verification?.host, "whole"), fact("Fails since", inFull(since)), fact("Enabled", destination.enabled ? "yes" : "no"),
        fact("Collections that use it", String(destination.used_by)), fact("Created", inFull(destination.created_at)), fact("Changed", inFull(destination.updated_at)), fact("Last passed a verification", inFull(destination.verified_at) ?? "never"),
        verification?.job && fact("Last verification", el("button", { class: "plain mono", onclick: () => open(verification.job) }, verification.job.slice(0, 8))))];
  });
}

// Leads from a job's or a delivery's panel to that of its destination.
const destinationLink = (id) => el("button", { class: "plain mono", title: "Show this destination", onclick: () => openDestination(id) }, id);

/* One job, one delivery, or one destination. */

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

function facts(job, report, there) {
  const file = report ? el("code", {}, report.object) : null;
  return el("dl", { class: "facts" }, fact("Host", job.host, "whole"), fact("Bucket", job.bucket && el("code", {}, job.bucket)), fact("Type", job.type), fact("Account", job.account_name ?? String(job.account)),
    fact("Destination", there ? destinationLink(job.destination) : job.destination && el("code", {}, job.destination)), fact("Region", report?.region), fact("Worker", job.worker && el("span", { class: "mono" }, job.worker)),
    fact("Attempt", job.attempt > 1 ? String(job.attempt) : ""), fact("Submitted", inFull(job.submitted_at)),
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
    const details = { code: step.code, "provider’s code": step.provider_code, HTTP: step.status, "request id": step.request_id };
    const why = Object.entries(details).filter(([, value]) => value !== undefined).map(([name, value]) => el("div", {}, el("span", { class: "soft" }, `${name} `), el("code", {}, String(value))));
    return el("tr", { class: step.outcome }, el("th", { scope: "row" }, step.step), el("td", {}, badge(step.outcome)), el("td", { class: "number" }, step.ms === undefined ? "" : span(ms), drawn),
      el("td", { class: "why" }, step.reason ? el("div", {}, step.reason) : "", why));
  });
  const head = ["Step", "Outcome", "Took", "What the provider said"].map((name, i) => el("th", { scope: "col", class: i === 2 ? "number" : "" }, name));
  return el("table", { class: "steps" }, el("caption", {}, `Steps of the verification, ${span(report.duration_ms)} in all`), el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows));
}

async function open(id) {
  await showInDialog(id, "Job", async () => {
    const { job } = await get(`/jobs/${encodeURIComponent(id)}`);
    const there = !UNDER_WAY.includes(job.state) && (await destinationOf(job));
    const state = job.report?.left_behind ? el("span", { class: "badge is-lost" }, "File left behind") : "";
    return [el("div", { class: "id" }, badge(job.state), job.fault ? reason(job.fault) : "", state), sentence(job.report, job.state), there ? el("p", { class: "buttons" }, verifyButton(job)) : null,
      el("section", { "aria-label": "Timeline" }, el("h3", {}, "Timeline"), timeline(job)), job.report ? steps(job.report) : null, facts(job, job.report, there)];
  });
}

// What is known of the destination of a job or a delivery; null where there is none, or the database does not answer.
async function destinationOf(each) {
  if (!each.destination) return null;
  try {
    return (await get(`/dashboard/destinations/${each.destination}`)).destination;
  } catch (error) {
    if (error.answered) return null;
    throw error;
  }
}

// What there is to verify again is a destination, as it is now.
function verifyButton(job) {
  if (!job.account_name) return "";
  const path = `/destinations/${job.destination}/verify?account=${encodeURIComponent(job.account_name)}`;
  return actButton("Verify again", "verify", "Verify the destination as it is now", async () => {
    try {
      const { verification } = await post(path, {});
      await open(verification.job);
      return verification.message;
    } catch (error) {
      if (error.status === 404) error.message = "The destination was deleted meanwhile.";
      throw error;
    }
  });
}

// Open the panel for the job, delivery or destination `id`, or show it anew; `content` gives what is in it.
async function showInDialog(id, name, content) {
  const first = shown !== id || !dialog.open;
  shown = id;
  keepInAddress();
  let parts;
  try {
    parts = await content();
  } catch (error) {
    parts = [el("p", { class: "sentence warn" }, error.answered ? error.message : "The connection was lost: it is shown when it is back.")];
  }
  if (shown !== id) return;
  const copy = el("button", { onclick: async () => {
    await navigator.clipboard.writeText(id);
    copy.textContent = "Copied";
  } }, "Copy id");
  const top = el("div", { class: "top" }, el("div", {}, el("h2", { id: "job-title" }, name), el("code", { class: "soft" }, id)), copy,
    el("button", { autofocus: true, onclick: () => dialog.close() }, "Close"));
  const said = el("p", { class: "outcome", hidden: true });
  if (first) {
    dialog.replaceChildren(el("div", { class: "job" }, top, said, ...parts.filter(Boolean)));
    if (dialog.open) dialog.querySelector("[autofocus]").focus();
  } else {
    const focused = dialog.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    dialog.firstElementChild.replaceChildren(dialog.querySelector(".top"), dialog.querySelector(".outcome"), ...parts.filter(Boolean));
    if (focused) dialog.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }
  if (!dialog.open) dialog.showModal();
}

dialog.addEventListener("close", () => {
  const opener = jobs.get(shown)?.row.querySelector("button") ?? underway.get(shown)?.name ?? document.querySelector(`[data-key="open ${CSS.escape(shown ?? "")}"]`);
  shown = null;
  keepInAddress();
  opener?.focus();
});
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

/* The address has the filters and the open job, so that a view can be handed on. */

const kindOf = (id) => ({ 16: "delivery", 12: "destination" }[/^[0-9A-F]+$/.test(id) ? id.length : 0] ?? "job");
const openers = { job: open, delivery: openDelivery, destination: openDestination };

function keepInAddress() {
  const view = filtered();
  if (shown) view.set(kindOf(shown), shown);
  history.replaceState(null, "", `${location.pathname}${[...view].length ? `?${view}` : ""}`);
}

function readAddress() {
  const view = new URLSearchParams(location.search);
  for (const field of filters.elements) if (field.name && view.has(field.name)) field.value = view.get(field.name);
  const kind = Object.keys(openers).find((each) => view.get(each));
  if (kind) openers[kind](view.get(kind));
}

// While an account's name is typed it is none yet, unless it was taken from the list.
const isWhole = ({ target }) => !["account", "destination"].includes(target.name) || !target.value || [...byId("account-names").options].some((option) => option.value === target.value);

for (const [form, change] of [[filters, refilter], [deliveryFilters, refilterDeliveries]]) {
  let typing = null;
  form.addEventListener("input", (event) => {
    clearTimeout(typing);
    if (isWhole(event)) typing = setTimeout(change, 250);
  });
  form.addEventListener("change", (event) => isWhole(event) || change());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(change));
}
byId("older-deliveries").addEventListener("click", () => {
  foundPages += 1;
  poll();
});
byId("older").addEventListener("click", () => load(cursor));
document.addEventListener("visibilitychange", poll);
new ResizeObserver(() => overview && showFigures()).observe(byId("plot-rate"));

readAddress();
follow();
poll();
pollLeftovers();
setInterval(poll, POLL_MS);
setInterval(pollLeftovers, POLL_MS);
