// The page of a training. It is told what happens by server-sent events, keeps it, and draws it at most
// once a second; while the tab is hidden it does nothing. What comes from the network is only ever set
// as text.
"use strict";

// ---- colours

const THEME = "dcgan-theme";

// Storage may be forbidden: then the choice lasts as long as the page.
function keptTheme() {
  try { return localStorage.getItem(THEME) ?? ""; } catch { return ""; }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem(THEME, theme); } catch { /* as above */ }
}

// Before the first paint, so that nothing flashes.
document.documentElement.classList.add("scripted", "starting");
setTheme(keptTheme());

// ---- small helpers

const byId = id => document.getElementById(id);
const part = (node, selector) => node.querySelector(selector);

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function drawing(name, attributes = {}) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  setAttributes(node, attributes);
  return node;
}

function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
}

// Nothing is written that is there already: the browser then has nothing to do.
function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function setText(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

const setClass = (node, name) => setAttribute(node, "class", name);

function setIcon(node, name) {
  setAttribute(part(node, "use"), "href", "#icon-" + name);
}

// Makes the children of `parent` show `items`, and keeps the nodes that are there.
function fill(parent, items, create, update) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, i) => update(parent.children[i] ?? parent.appendChild(create(item)), item, i));
}

function fillTable(table, head, rows) {
  if (!table.tHead) table.append(element("thead", {}, element("tr")), element("tbody"));
  fill(table.tHead.rows[0], head, () => element("th", { scope: "col" }), setText);
  fill(table.tBodies[0], rows, () => element("tr"), (line, row) => {
    setClass(line, row.class ?? "");
    fill(line, row.cells, () => element("td"), setText);
  });
}

const isNumber = value => typeof value === "number" && Number.isFinite(value);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const last = list => list[list.length - 1];

const whole = value => isNumber(value) ? Math.round(value).toLocaleString("en") : "–";
const fixed = (value, digits) => isNumber(value) ? value.toFixed(digits) : "–";
const percent = (value, digits = 0) => isNumber(value) ? fixed(100 * value, digits) + "%" : "–";
const significant = value => isNumber(value) ? String(Number(value.toPrecision(3))) : "–";
const distance = value => fixed(value, value < 100 ? 2 : 0);
const counted = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
const clock = date => date?.toLocaleTimeString("en-GB");

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 100) return `${s} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.round(s % 3600 / 60)} min`;
  return `${Math.round(s / 86400)} days`;
}

// The index of the first item whose step is `step` or more.
function firstFrom(items, step, stepOf = item => item.step) {
  let low = 0, high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (stepOf(items[middle]) < step) low = middle + 1; else high = middle;
  }
  return low;
}

// The newest item that is not of a later step; the first one if all are.
function at(items, step, stepOf) {
  return items[clamp(firstFrom(items, step + 0.5, stepOf) - 1, 0, items.length - 1)];
}

// Puts an item in its place by its step, instead of one of the same step.
function insert(items, item, stepOf = other => other.step) {
  const i = firstFrom(items, stepOf(item), stepOf);
  items.splice(i, i < items.length && stepOf(items[i]) === stepOf(item) ? 1 : 0, item);
}

const itself = step => step;

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Away from localhost and without https there is no clipboard to write to.
    const area = document.body.appendChild(element("textarea", { value: text, className: "unseen" }));
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  setText(button, "Copied");
  setTimeout(() => setText(button, "Copy"), 1500);
}

async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.text()).trim() || `status ${answer.status}`);
  return answer;
}

// ---- a run, and the link to its server

// Columns of a row that are no metrics: docs/run-directory.md.
const FIXED = new Set(["step", "epoch", "learning_rate", "images_per_second", "step_ms", "allreduce_ms",
  "world_size", "generation", "state_digest"]);
const ROWS_KEPT = 8000;
const ROWS_ANSWERED = 2000;
const ENDED = new Set(["stopped", "finished", "failed", "killed"]);

class Run {
  constructor(index, name, status, grids) {
    this.forget();
    Object.assign(this, { index, name, status, grids });
    this.link = new Link(this);
  }

  forget() {
    Object.assign(this, { rows: [], evaluations: [], grids: [], isThinned: false });
  }

  path(what) { return `runs/${this.index}/${what}`; }

  // The run is named so that a browser does not show a kept picture of another one.
  gridPath(step) { return this.path(`grids/${step}.png?run=${encodeURIComponent(this.status.run)}`); }

  get hasEnded() { return ENDED.has(this.status.state); }

  // Tells whether it is the status of another run, at the same address.
  setStatus(status) {
    const isOther = status.run !== this.status.run;
    if (isOther) this.forget();
    if (status.state !== this.status.state) this.stateSince = new Date();
    this.status = status;
    this.name = status.name ?? this.name;
    return isOther;
  }

  addRows(rows) {
    for (const row of rows) {
      if (!this.rows.length || row.step > last(this.rows).step) this.rows.push(row);
      else insert(this.rows, row);
    }
    if (this.rows.length > ROWS_KEPT) this.thin();
    chartsAreOld = true;
  }

  addEvaluations(rows) {
    rows.forEach(row => insert(this.evaluations, row));
    chartsAreOld = evaluationsAreOld = true;
  }

  // Every second row goes, but not one after which the workers are others.
  thin() {
    this.isThinned = true;
    this.rows = this.rows.filter((row, i, all) =>
      i % 2 === 0 || i === all.length - 1 || row.generation !== all[i + 1].generation || row.generation !== all[i - 1].generation);
  }

  // Asks for all that may have been missed.
  async catchUp() {
    const after = this.rows.length ? last(this.rows).step : 0;
    const paths = ["status", `rows?after=${after}`, "evaluations", "grids"];
    const [status, rows, evaluations, grids] =
      await Promise.all(paths.map(async path => (await ask(this.path(path))).json()));
    if (this.setStatus(status) && after > 0) return this.catchUp();
    this.isThinned ||= rows.length >= ROWS_ANSWERED;
    this.addRows(rows);
    this.addEvaluations(evaluations);
    grids.forEach(step => insert(this.grids, step, itself));
    changed();
  }

  // A long run's rows come thinned; this asks for those between two steps.
  async refine(from, to) {
    const known = firstFrom(this.rows, to) - firstFrom(this.rows, from);
    if (!this.isThinned || known >= ROWS_ANSWERED / 2) return;
    const answer = await ask(this.path(`rows?after=${Math.floor(from)}&until=${Math.ceil(to)}`));
    this.addRows(await answer.json());
    changed();
  }

  metricNames() {
    const row = last(this.rows);
    return row ? Object.keys(row).filter(name => !FIXED.has(name) && isNumber(row[name])) : [];
  }

  // How many steps an epoch has. A server that does not say it leaves it to be inferred from the rows.
  stepsPerEpoch() {
    if (this.status.steps_per_epoch) return this.status.steps_per_epoch;
    return this.rows.reduce((most, row) => Math.max(most, Math.ceil(row.step / row.epoch)), 1);
  }

  epochOf(step) { return Math.max(1, Math.ceil(step / this.stepsPerEpoch())); }

  newestStep() {
    return Math.max(this.status.step ?? 0, this.rows.length ? last(this.rows).step : 0);
  }

  // Where workers came, went or were interrupted.
  marks() {
    const marks = [];
    for (let i = 1; i < this.rows.length; i++) {
      const [before, row] = [this.rows[i - 1], this.rows[i]];
      if (before.generation === row.generation && before.world_size === row.world_size) continue;
      const by = row.world_size - before.world_size;
      const kind = by > 0 ? "came" : by < 0 ? "went" : "interrupted";
      marks.push({ step: row.step, kind, text: markText(kind, Math.abs(by), row.world_size) });
    }
    return marks;
  }
}

function markText(kind, by, size) {
  if (kind === "interrupted") return `interrupted, ${counted(size, "worker")} as before`;
  return `${counted(by, "worker")} ${kind}: now ${size}`;
}

// The server says something every 15 s at least; a link that is silent for longer is dead, though the
// system has not noticed.
const SILENCE_MS = 45000;
const LONGEST_PAUSE_S = 30;

class Link {
  constructor(run) {
    Object.assign(this, { run, source: null, lostSince: null, attempts: 0, timer: null });
  }

  open() {
    this.close();
    const source = this.source = new EventSource(this.run.path("events"));
    source.onopen = () => this.answered(true);
    source.onerror = () => this.failed();
    const on = (kind, take) => source.addEventListener(kind, event => {
      take(JSON.parse(event.data));
      this.answered(false);
      changed();
    });
    on("status", status => {
      if (this.run.setStatus(status)) this.run.catchUp().catch(() => this.failed());
    });
    on("rows", rows => this.run.addRows(rows));
    on("evaluation", row => this.run.addEvaluations([row]));
    on("grid", grid => insert(this.run.grids, grid.step, itself));
    // The server ends each stream after a while, in order.
    source.addEventListener("again", () => this.open());
    this.later(SILENCE_MS, () => this.failed());
  }

  async answered(isNew) {
    this.later(SILENCE_MS, () => this.failed());
    if (!isNew) return;
    try {
      await this.run.catchUp();
      Object.assign(this, { lostSince: null, attempts: 0 });
    } catch {
      this.failed();
    }
    changed();
  }

  failed() {
    this.close();
    this.lostSince ??= new Date();
    const pause = Math.min(LONGEST_PAUSE_S, 2 ** this.attempts++) * (0.75 + Math.random() / 2);
    if (!document.hidden) this.later(1000 * pause, () => this.open());
    changed();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  later(ms, what) {
    clearTimeout(this.timer);
    this.timer = setTimeout(what, ms);
  }
}

// ---- what a status means, in words

const WORDS = {
  unreachable: ["Coordinator unreachable", "bad", "bad"],
  stopped: ["Stopped", "stopped", "idle"],
  finished: ["Finished", "good", "good"],
  failed: ["Failed", "bad", "bad"],
  killed: ["Killed", "bad", "bad"],
};
const STOPPING = ["Stopping", "stopped", "idle"];
const RUNNING = {
  training: ["Training", "training", "good"],
  evaluating: ["Evaluating", "training", "good"],
  finishing: ["Finishing", "training", "good"],
  stopping: STOPPING, returning: STOPPING, releasing: STOPPING,
};

// The word for a run's state, its sign and its colour.
function stateOf(run) {
  if (run.link.lostSince) return ["No answer", "bad", "bad"];
  const { state, reason_code: reason } = run.status;
  if (state !== "running") return WORDS[state] ?? [state, "warning", "warning"];
  return RUNNING[reason] ?? ["Waiting", "waiting", "warning"];
}

function sentenceOf(run) {
  if (run.link.lostSince) return `Last heard of: ${run.status.sentence}`;
  return run.status.sentence;
}

// Distances of another evaluator have another scale: then a word would be wrong.
function isKnownScale(run) {
  const settings = run.status.settings ?? {};
  return !settings["evaluator-digest"] && !settings.evaluator;
}

function qualityWord(value) {
  if (value <= 1) return "as good as real";
  if (value <= 2.5) return "excellent";
  if (value <= 5) return "very good";
  if (value <= 12) return "good";
  if (value <= 40) return "fair";
  if (value <= 130) return "rough";
  return "not digits yet";
}

const withRole = (run, ...roles) => run.status.workers.filter(worker => roles.includes(worker.role));

function outsideText(away) {
  const names = away.slice(0, 2).map(worker => worker.name).join(", ");
  const more = away.length > 2 ? ` and ${away.length - 2} more` : "";
  return `${counted(away.length, "worker")} outside or away: ${names}${more}`;
}

// All that is wrong, the gravest first: pairs of a level and a text.
function troublesOf(run) {
  const { status: { state, alarms }, link: { lostSince }, stateSince } = run;
  const away = withRole(run, "outside", "disconnected");
  const found = [];
  const add = (isSo, level, text) => { if (isSo) found.push([level, text]); };
  add(lostSince, "bad", `The sampler does not answer, since ${clock(lostSince)}. It is asked again by itself.`);
  add(state === "failed", "bad", "The training has failed.");
  add(state === "killed", "bad", "The training was killed: its last steps may be lost.");
  add(state === "unreachable", "bad", `The coordinator is unreachable${stateSince ? `, since ${clock(stateSince)}` : ""}. What is shown was known before.`);
  for (const alarm of alarms) add(true, "warning", `${alarm.text} (since step ${whole(alarm.since)})`);
  add(stateOf(run)[0] === "Waiting", "warning", "The training waits, and goes on when it can.");
  add(away.length, "warning", outsideText(away));
  return found;
}

// ---- the header

function createRunHeader(run) {
  const node = byId("run-template").content.firstElementChild.cloneNode(true);
  const button = part(node, ".command button");
  button.onclick = () => copy(run.status.go_on_with, button);
  part(node, ".retry").onclick = () => run.link.open();
  return node;
}

function drawRunHeader(run, node) {
  setText(part(node, ".run-name"), run.name);
  node.classList.toggle("stale", isStale(run));
  node.classList.toggle("ended", run.hasEnded);
  drawState(run, node);
  drawFar(run, part(node, ".fact-far"));
  drawGood(run, part(node, ".fact-good"));
  drawLosses(run, part(node, "dl"));
  drawSpeed(run, part(node, ".fact-speed"));
  drawWrong(run, part(node, ".fact-wrong"));
}

const isStale = run => Boolean(run.link.lostSince) || run.status.state === "unreachable";

// A big word with its sign and its colour.
function drawVerdict(node, word, sign, colour) {
  node.dataset.level = colour;
  setIcon(node, sign);
  setText(part(node, "span"), word);
}

function drawState(run, node) {
  const [word, sign, colour] = stateOf(run);
  drawVerdict(part(node, ".state"), word, sign, colour);
  const sentence = sentenceOf(run), line = part(node, ".sentence");
  setText(line, sentence.toLowerCase() === word.toLowerCase() ? "" : sentence);
  setAttribute(line, "title", sentence);
  const command = run.hasEnded && run.status.go_on_with;
  part(node, ".command").hidden = !command;
  setText(part(node, ".command code"), command || "");
}

function drawFar(run, node) {
  const { step, last_step: end, epoch, epochs, newest_row: row } = run.status;
  const share = end ? clamp(step / end, 0, 1) : 0;
  setText(part(node, ".big"), `Epoch ${whole(epoch)} of ${whole(epochs)}`);
  const bar = part(node, ".bar");
  setAttributes(bar, { "aria-valuemax": end, "aria-valuenow": step, "aria-valuetext": `step ${step} of ${end}` });
  bar.style.setProperty("--done", share);
  bar.style.setProperty("--epochs", epochs <= 60 && end ? end / run.stepsPerEpoch() : 1);
  const isTimed = !isStale(run) && run.status.state === "running" && isNumber(row?.seconds_left) && step < end;
  const left = isTimed ? ` · ${duration(row.seconds_left)} left` : "";
  const [steps, time] = part(node, ".note").children;
  setText(steps, `Step ${whole(step)} of ${whole(end)}`);
  setText(time, Math.floor(100 * share) + "%" + left);
}

// Where a distance is between 200 (0) and 0.5 (1), by its logarithm.
const rulerPlace = value => clamp(Math.log(200 / value) / Math.log(400), 0, 1);

function drawGood(run, node) {
  const { best } = run.status;
  const [value, word] = part(node, ".big").children;
  const isKnown = isKnownScale(run);
  const ruler = part(node, ".ruler");
  ruler.classList.toggle("without-words", !isKnown);
  ruler.classList.toggle("empty", !best);
  if (best) ruler.style.setProperty("--at", rulerPlace(best.value));
  setText(value, best ? distance(best.value) : "–");
  setText(word, best ? (isKnown ? wordOf(run) : "") : "not judged yet");
  setText(part(node, ".note"), goodNote(run));
}

function goodNote(run) {
  const { best } = run.status;
  if (!best) return run.hasEnded ? "The run has no evaluation." : "Samples are judged after each epoch.";
  const newest = last(run.evaluations);
  return `Best: epoch ${run.epochOf(best.step)}${newest && newest.step > best.step ? `. Newest: ${distance(newest.frechet_distance)}` : ", the newest"}.`;
}

// The best value says little about a run that has become worse since.
function wordOf(run) {
  const best = run.status.best.value, newest = last(run.evaluations);
  return (newest && newest.frechet_distance > 1.5 * best + 1 ? "was " : "") + qualityWord(best);
}

// Names of metrics for people. Others are shown as they are called.
const LOSSES = { d_loss_real: "D on real", d_loss_fake: "D on fakes", g_loss: "generator" };
const NAMES = { ...LOSSES, real_dacc: "real, told right", fake_dacc: "fakes, told right", gacc: "fakes, taken for real" };

const isAccuracy = name => name.includes("acc");
const isLoss = name => !isAccuracy(name);  // another objective's metrics go there, too

function drawLosses(run, list) {
  const metrics = (run.status.newest_row?.metrics ?? []).filter(metric => isLoss(metric.name));
  const shown = metrics.length ? metrics : Object.keys(LOSSES).map(name => ({ name, value: null }));
  fill(list, shown.slice(0, 4), () => element("div", {}, element("dt"), element("dd")), (node, metric, i) => {
    setClass(node, "series-" + i);
    setText(node.firstChild, NAMES[metric.name] ?? metric.name);
    setText(node.lastChild, fixed(metric.value, 3));
  });
}

function drawSpeed(run, node) {
  const { newest_row: row } = run.status;
  const members = withRole(run, "member").length;
  const rests = run.hasEnded || run.status.reason_code !== "training" && run.status.state === "running";
  const speed = row ? whole(row.images_per_second) : "–";
  const [value, unit] = part(node, ".big").children;
  setText(value, rests ? "at rest" : speed);
  setText(unit, rests ? "" : "images/s");
  setText(part(node, ".note"), counted(members, "worker") + (rests && row ? `; ${speed} images/s before` : ""));
}

function drawWrong(run, node) {
  const troubles = troublesOf(run), n = troubles.length;
  const level = troubles.some(([level]) => level === "bad") ? "bad" : n ? "warning" : "good";
  drawVerdict(part(node, ".health"), !n ? "No" : n === 1 ? "Yes" : `Yes, ${n} things`, level, level);
  const texts = n ? troubles.map(trouble => trouble[1]) : [wellText(run)];
  fill(part(node, "ul"), texts, () => element("li"), setText);
  part(node, ".retry").hidden = !run.link.lostSince;
}

function wellText(run) {
  if (run.hasEnded) return "No alarm at the end.";
  const members = withRole(run, "member").length;
  return members ? `No alarms. All ${counted(members, "worker")} answer.` : "No alarms.";
}

// ---- the grids

const player = { step: null, timer: null };  // the step is null while the newest is followed

// All steps that have a grid in one of the runs.
function gridSteps() {
  if (runs.length === 1) return runs[0].grids;
  return [...new Set(runs.flatMap(run => run.grids))].sort((a, b) => a - b);
}

function createPlate(run) {
  const image = element("img", { width: 280, height: 280, alt: "", hidden: true, decoding: "async" });
  const empty = element("p", { className: "plate-empty" });
  const caption = element("figcaption");
  const node = element("figure", { className: "plate" }, element("div", { className: "plate-picture" }, image, empty), caption);
  return { node, image, empty, caption, shown: null, wanted: null, isLoading: false, run };
}

function drawGallery() {
  const steps = gridSteps();
  const slider = byId("grid-slider");
  const shown = player.step === null ? last(steps) : at(steps, player.step, itself);
  setAttribute(slider, "max", Math.max(0, steps.length - 1));
  const place = steps.length ? firstFrom(steps, shown, itself) : 0;
  if (Number(slider.value) !== place) slider.value = place;
  slider.disabled = steps.length < 2;
  byId("play").disabled = steps.length < 2;
  if (steps.length) setAttribute(slider, "aria-valuetext", `step ${shown}, epoch ${runs[0].epochOf(shown)}`);
  setAttribute(byId("newest"), "aria-pressed", player.step === null);
  plates.forEach(plate => drawPlate(plate, shown));
  drawDownloads();
}

function drawPlate(plate, shownStep) {
  const { run } = plate;
  const step = run.grids.length ? (player.step === null ? last(run.grids) : at(run.grids, shownStep, itself)) : null;
  plate.wanted = step;
  plate.empty.hidden = step !== null;
  setText(plate.empty, run.hasEnded ? "This run has no grid." : "There is no grid yet. One is drawn every few steps of the training.");
  const name = runs.length > 1 ? `${run.name} · ` : "";
  const newest = step !== null && step === last(run.grids) ? " · newest" : "";
  setText(plate.caption, step === null ? name || " " : `${name}Step ${whole(step)} · epoch ${run.epochOf(step)}${newest}`);
  if (step === null) { plate.image.hidden = true; plate.shown = null; }
  else loadGrid(plate);
}

// Loads the grid that is wanted now; whoever is faster than the server skips grids.
async function loadGrid(plate) {
  if (plate.isLoading) return;
  plate.isLoading = true;
  while (plate.wanted !== null && plate.run.gridPath(plate.wanted) !== plate.shown) {
    const step = plate.wanted, path = plate.run.gridPath(step);
    try {
      await element("img", { src: path }).decode();
      setAttributes(plate.image, { src: path, alt: `100 digits that the generator drew after step ${step}` });
      plate.image.hidden = false;
    } catch {
      setText(plate.caption, `The grid of step ${whole(step)} cannot be loaded`);
    }
    plate.shown = path;
  }
  plate.isLoading = false;
}

function showGridAt(place) {
  const steps = gridSteps();
  player.step = place >= steps.length - 1 ? null : steps[place];
  drawGallery();
}

function play() {
  const steps = gridSteps();
  if (player.step === null) player.step = steps[0];
  setPlaying(true);
  drawGallery();
  player.timer = setTimeout(playOn, 1000 / 3);
}

function playOn() {
  const steps = gridSteps();
  const speed = byId("speed").value;
  const perSecond = speed === "all" ? Math.min(20, Math.max(1, steps.length / 20)) : Number(speed);
  const stride = speed === "all" ? Math.max(1, Math.round(steps.length / 400)) : 1;
  showGridAt(firstFrom(steps, player.step ?? Infinity, itself) + stride);
  if (player.step === null) setPlaying(false);
  else player.timer = setTimeout(playOn, 1000 / perSecond);
}

function setPlaying(isPlaying) {
  clearTimeout(player.timer);
  if (!isPlaying) player.timer = null;
  const button = byId("play");
  setIcon(button, isPlaying ? "waiting" : "training");
  setAttribute(button, "aria-label", isPlaying ? "Pause the history" : "Play the history");
}

function drawDownloads() {
  fill(byId("downloads"), plates, createDownloads, (node, plate) => {
    const { run } = plate;
    const [name, png, gif, weights, csv] = node.children;
    setText(name, runs.length > 1 ? run.name : "Download");
    const folder = run.name.split("/").pop() || "run";
    const set = (link, path, file) => setAttributes(link, { href: path, download: file });
    png.hidden = gif.hidden = plate.wanted === null;
    weights.hidden = !run.status.checkpoint && !run.status.shown;
    set(png, plate.wanted === null ? "" : run.gridPath(plate.wanted), `${folder}-step-${plate.wanted}.png`);
    set(gif, run.path("history.gif"), `${folder}.gif`);
    set(weights, run.path("generator.safetensors"), `${folder}-generator.safetensors`);
    set(csv, run.path("metrics.csv"), `${folder}-metrics.csv`);
  });
}

function createDownloads() {
  const link = text => element("a", {}, text);
  return element("p", {}, element("span"), link("these digits (PNG)"), link("history (GIF)"), link("weights (safetensors)"), link("metrics (CSV)"));
}

function startGallery() {
  byId("plates").replaceChildren(...plates.map(plate => plate.node));
  const slider = byId("grid-slider");
  slider.oninput = () => { setPlaying(false); showGridAt(Number(slider.value)); };
  byId("newest").onclick = () => { setPlaying(false); player.step = null; drawGallery(); };
  byId("play").onclick = () => player.timer ? setPlaying(false) : play();
}

// ---- charts: what they show

let chartsAreOld = true, evaluationsAreOld = true;
const view = { from: null, to: null };  // null: the whole run
let readingStep = null;

const rowSeries = (key, name) => ({ name, points: run => run.rows, value: row => row[key] });
const oneSeries = (key, name) => () => [{ ...rowSeries(key, name), colour: "one" }];
const metricSeries = test => () => metricNames().filter(test).map(name => rowSeries(name, NAMES[name] ?? name));

function metricNames() {
  return [...new Set(runs.flatMap(run => run.metricNames()))];
}

// `series` is a function because an objective's metrics are known only when there are rows.
const CHARTS = [
  { title: "Losses", series: metricSeries(isLoss), format: v => fixed(v, 3) },
  { title: "Fréchet distance", note: "lower is better", isLog: true, hasDots: true, format: distance, reference: [0.75, "real digits 0.75"],
    series: () => [{ name: "at each evaluation", colour: "one", points: run => run.evaluations, value: row => row.frechet_distance }] },
  { title: "Accuracy of the discriminator", series: metricSeries(isAccuracy), format: v => percent(v), top: 1 },
  { title: "Images per second", series: oneSeries("images_per_second", "of all workers"), format: whole },
  { title: "Learning rate", series: oneSeries("learning_rate", "Adam's step size"), format: significant },
  { title: "Workers", series: oneSeries("world_size", "world size"), format: whole, isStairs: true, hasMarks: true, note: "▲ came ▼ went ◆ interrupted" },
];
// The first and the last step that the charts show.
function range() {
  const steps = runs.flatMap(run => run.rows.length ? [run.rows[0].step, run.newestStep()] : []);
  const all = steps.length ? [Math.min(...steps), Math.max(...steps)] : [0, 1];
  if (all[0] === all[1]) all[0] -= 1;
  return { from: view.from ?? all[0], to: view.to ?? all[1], all };
}

function setView(from, to) {
  const { all: [low, high] } = range();
  const width = Math.max(2, to - from);
  from = clamp(from, low, Math.max(low, high - width));
  const isWhole = from <= low && from + width >= high;
  Object.assign(view, isWhole ? { from: null, to: null } : { from, to: from + width });
  document.querySelector("[data-view=whole]").disabled = isWhole;
  if (!isWhole) refineSoon();
  drawCharts();
}

let refineTimer = null;
function refineSoon() {
  clearTimeout(refineTimer);
  const { from, to } = range();
  refineTimer = setTimeout(() => runs.forEach(run => run.refine(from, to).catch(() => {})), 400);
}

const VIEWS = {
  left: (from, to) => setView(from - (to - from) / 4, to - (to - from) / 4),
  right: (from, to) => setView(from + (to - from) / 4, to + (to - from) / 4),
  in: (from, to) => zoom(from, to, 0.5),
  out: (from, to) => zoom(from, to, 2),
  whole: () => setView(-Infinity, Infinity),
};

function changeView(how) {
  const { from, to } = range();
  VIEWS[how](from, to);
}

function zoom(from, to, factor) {
  const { all } = range();
  if (factor > 1 && (to - from) * factor >= all[1] - all[0]) return setView(-Infinity, Infinity);
  const middle = readingStep ?? (from + to) / 2;
  setView(middle - (middle - from) * factor, middle + (to - middle) * factor);
}

// ---- charts: scales

// Round numbers between `low` and `high`, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find(times => times * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const found = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    found.push(...[1, 2, 5].map(times => times * power).filter(tick => tick >= low && tick <= high));
  }
  return found.map(tick => Number(tick.toPrecision(3)));
}

// The values that a chart shows, smallest and greatest.
function extent(series, from, to) {
  let low = Infinity, high = -Infinity;
  for (const { points, value } of series) {
    for (let i = Math.max(0, firstFrom(points, from) - 1); i < points.length && points[i].step <= to; i++) {
      const v = value(points[i]);
      if (!isNumber(v)) continue;
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
  }
  return low <= high ? [low, high] : null;
}

function scaleOf(chart, series, from, to) {
  const known = extent(series, from, to), seen = known ?? (chart.isLog ? [1, 200] : [0, 1]);
  if (chart.isLog) return logScale(Math.max(1e-6, Math.min(seen[0], chart.reference[0]) * 0.85), Math.max(seen[1], 2) * 1.1);
  const top = chart.top ?? (seen[1] > 0 ? seen[1] * 1.05 : 1);
  const low = Math.min(0, seen[0]);
  const marks = known ? ticks(low, top, chart.height < 110 ? 3 : 4).filter(tick => !chart.isStairs || Number.isInteger(tick)) : [];
  return { marks, place: v => (v - low) / (top - low) };
}

function logScale(low, high) {
  const span = Math.log(high / low);
  const all = logTicks(low, high);
  const marks = all.length > 6 ? all.filter(tick => /^[0.]*1/.test(String(tick))) : all;
  return { marks, place: v => Math.log(v / low) / span };
}

// ---- charts: drawing

const MARGIN = { left: 44, right: 10, top: 8, bottom: 20 };

function createChart(chart) {
  const svg = drawing("svg", { role: "img" });
  const layer = name => svg.appendChild(drawing("g", { class: name }));
  const made = {
    ...chart, svg, grid: layer("grid"), epochs: layer("epochs"), marks: layer("marks"), lines: layer("lines"), reading: layer("reading"),
    legend: element("p", { className: "legend" }), width: 300, height: 120, shown: [],
  };
  made.selection = svg.appendChild(drawing("rect", { class: "selection", visibility: "hidden" }));
  const title = element("h3", {}, chart.title);
  if (chart.note) title.append(" ", element("small", {}, chart.note));
  made.node = element("div", { className: "chart" }, title, made.legend, element("div", { className: "chart-picture" }, svg));
  listenToPointer(made);
  return made;
}

function drawCharts() {
  chartsAreOld = false;
  const marks = runs.map(run => run.marks());
  charts.forEach(chart => drawChart(chart, marks));
  drawReading();
}

function drawChart(chart, marksOfRuns) {
  const { from, to } = range();
  const { svg, width, height } = chart;
  setAttribute(svg, "viewBox", `0 0 ${width} ${height}`);
  const shown = runs.flatMap((run, r) => chart.series().map((series, s) =>
    ({ ...series, run: r, index: series.colour ?? s, points: series.points(run) })));
  const scale = scaleOf(chart, shown, from, to);
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const x = step => MARGIN.left + inner.width * (step - from) / (to - from);
  const y = value => MARGIN.top + inner.height * (1 - clamp(scale.place(value), 0, 1));
  Object.assign(chart, { x, y, from, to, shown, inner });
  drawAxes(chart, scale.marks);
  drawMarks(chart, marksOfRuns);
  fill(chart.lines, shown, () => drawing("path"), (path, series) => {
    const isDense = series.points.length > width;
    setClass(path, `line series-${series.index} run-${series.run}${isDense ? " dense" : ""}`);
    setAttribute(path, "d", linePath(chart, series) || "M0 0");
  });
  drawDots(chart);
  describeChart(chart);
}

function drawAxes(chart, yTicks) {
  const { grid, epochs, x, y, from, to, inner, width, height } = chart;
  const right = width - MARGIN.right, base = height - MARGIN.bottom;
  const steps = longestRows().length ? ticks(from, to, Math.max(2, Math.floor(inner.width / 55))).filter(Number.isInteger) : [];
  const lines = yTicks.map(tick => ["line", { x1: MARGIN.left, x2: right, y1: round(y(tick)), y2: round(y(tick)) }]);
  const yTexts = yTicks.map(tick => ["text", { x: MARGIN.left - 6, y: round(y(tick)) + 4, class: "y" }, chart.isLog ? significant(tick) : axisText(chart, tick)]);
  const xTexts = steps.map(step => ["text", { x: round(x(step)), y: height - 4, class: x(step) > right - 14 ? "x end" : x(step) < MARGIN.left + 10 ? "x start" : "x" }, whole(step)]);
  const reference = referenceParts(chart, right);
  replaceParts(grid, [...lines, ...reference, ["line", { class: "base", x1: MARGIN.left, x2: right, y1: base, y2: base }], ...yTexts, ...xTexts]);
  replaceParts(epochs, epochParts(chart, base));
}

function axisText(chart, tick) {
  if (chart.top === 1) return percent(tick);
  return Math.abs(tick) >= 10000 ? `${tick / 1000}k` : String(tick);
}

function referenceParts(chart, right) {
  if (!chart.reference || !isKnownScale(runs[0])) return [];
  const [value, text] = chart.reference, place = round(chart.y(value));
  return [["line", { class: "reference", x1: MARGIN.left, x2: right, y1: place, y2: place }],
    ["text", { class: "reference-text", x: right, y: place - 4 }, text]];
}

// Where epochs end: fine lines, as many as can be told apart.
function epochParts(chart, base) {
  const { x, from, to, inner } = chart;
  const steps = runs[0].stepsPerEpoch();
  const apart = inner.width * steps / (to - from);
  const stride = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find(n => n * apart >= 16) ?? 10000;
  const parts = [];
  for (let epoch = Math.ceil(from / steps / stride) * stride; epoch * steps <= to; epoch += stride) {
    if (epoch > 0) parts.push(["line", { x1: round(x(epoch * steps)), x2: round(x(epoch * steps)), y1: MARGIN.top, y2: base }]);
  }
  return parts;
}

const round = value => Math.round(value * 10) / 10;

function replaceParts(group, parts) {
  fill(group, parts, ([name]) => drawing(name), (node, [name, attributes, text = ""]) => {
    if (node.nodeName !== name) {
      const other = drawing(name);
      node.replaceWith(other);
      node = other;
    }
    for (const old of node.getAttributeNames()) if (!(old in attributes)) node.removeAttribute(old);
    setAttributes(node, attributes);
    setText(node, text);
  });
}

// One path for each kind of mark, so that thousands of marks cost no more than three nodes.
function drawMarks(chart, marksOfRuns) {
  const { x, from, to, height } = chart;
  const visible = marksOfRuns.flat().filter(mark => mark.step >= from && mark.step <= to);
  const base = height - MARGIN.bottom;
  const hasLines = visible.length < 30;  // more would hide the curves
  const kinds = ["came", "went", "interrupted"];
  fill(chart.marks, kinds, () => drawing("path"), (path, kind) => {
    const places = [...new Set(visible.filter(mark => mark.kind === kind).map(mark => Math.round(x(mark.step))))];
    const line = place => hasLines ? `M${place} ${MARGIN.top}V${base}` : "";
    setClass(path, "mark " + kind);
    setAttribute(path, "d", places.map(place => line(place) + (chart.hasMarks ? glyph(kind, place) : "")).join("") || "M0 0");
  });
}

function glyph(kind, x) {
  const y = MARGIN.top;
  if (kind === "came") return `M${x - 4} ${y + 3}L${x} ${y - 4}L${x + 4} ${y + 3}Z`;
  if (kind === "went") return `M${x - 4} ${y - 4}L${x} ${y + 3}L${x + 4} ${y - 4}Z`;
  return `M${x - 4} ${y}L${x} ${y - 4}L${x + 4} ${y}L${x} ${y + 4}Z`;
}

function linePath(chart, series) {
  const { from, to, x, y, width } = chart;
  const { points, value } = series;
  const first = Math.max(0, firstFrom(points, from) - 1);
  const end = Math.min(points.length, firstFrom(points, to + 1) + 1);
  const pieces = [];
  let isPen = false, before = 0;
  const add = point => {
    const v = value(point);
    if (!isNumber(v)) { isPen = false; return; }
    const px = round(clamp(x(point.step), -1e4, 1e5)), py = round(y(v));
    pieces.push(isPen ? (chart.isStairs ? `H${px}V${py}` : `L${px} ${py}`) : `M${px} ${py}`);
    isPen = true;
    before = v;
  };
  if (end - first <= 2 * width) for (let i = first; i < end; i++) add(points[i]);
  else outline(points, value, first, end, x, add);
  return pieces.join("");
}

// Where there are more points than pixels: of each pixel's points the lowest and the highest.
function outline(points, value, first, end, x, add) {
  for (let i = first; i < end;) {
    const pixel = Math.floor(x(points[i].step));
    let low = i, high = i;
    for (; i < end && Math.floor(x(points[i].step)) === pixel; i++) {
      if (value(points[i]) < value(points[low])) low = i;
      if (value(points[i]) > value(points[high])) high = i;
    }
    add(points[Math.min(low, high)]);
    if (low !== high) add(points[Math.max(low, high)]);
  }
}

// Single points would be invisible as lines.
function drawDots(chart) {
  const dots = chart.shown.flatMap(series => {
    const { points, value } = series;
    const visible = points.slice(firstFrom(points, chart.from), firstFrom(points, chart.to + 1));
    const wanted = visible.length === 1 || chart.hasDots && visible.length <= 60 ? visible : [];
    return wanted.filter(point => isNumber(value(point))).map(point => ({ series, point }));
  });
  chart.dots ??= chart.svg.insertBefore(drawing("g", { class: "dots" }), chart.reading);
  fill(chart.dots, dots, () => drawing("circle"), (dot, { series, point }) => {
    setClass(dot, `dot series-${series.index} run-${series.run}`);
    setAttributes(dot, { cx: round(chart.x(point.step)), cy: round(chart.y(series.value(point))), r: 2.5 });
  });
}

// The curves in words, for those who do not see them.
function describeChart(chart) {
  const { format, from, to } = chart;
  const values = chart.shown.map(series => {
    const points = series.points.slice(firstFrom(series.points, from), firstFrom(series.points, to + 1));
    const between = extent([{ ...series, points }], from, to);
    if (!between) return "";
    const name = (runs.length > 1 ? runs[series.run].name + ", " : "") + series.name;
    const [first, newest] = [points[0], last(points)].map(point => `${format(series.value(point))} at step ${point.step}`);
    return `${name}: from ${first} to ${newest}, all between ${between.map(format).join(" and ")}.`;
  });
  setAttribute(chart.svg, "aria-label", `${chart.title}. ${values.join(" ").trim() || "No values yet."}`);
}

// ---- charts: reading values

function drawReading() {
  charts.forEach(chart => {
    const isShown = readingStep !== null && readingStep >= chart.from && readingStep <= chart.to;
    drawLegend(chart, isShown);
    const x = isShown ? round(chart.x(readingStep)) : 0;
    const line = isShown ? [["line", { x1: x, x2: x, y1: MARGIN.top, y2: chart.height - MARGIN.bottom }]] : [];
    replaceParts(chart.reading, line.concat(isShown ? chart.shown.flatMap(series => readingDot(chart, series)) : []));
  });
  setText(byId("readout"), readoutText());
}

// The point under the reading line; none beyond the end of a run that is behind the other.
function readPoint(series) {
  return readingStep <= runs[series.run].newestStep() ? at(series.points, readingStep) : undefined;
}

function readingDot(chart, series) {
  const point = readPoint(series);
  const value = point && series.value(point);
  if (!isNumber(value) || point.step < chart.from) return [];
  const cx = chart.isStairs ? chart.x(readingStep) : chart.x(point.step);
  return [["circle", { class: `series-${series.index}`, cx: round(cx), cy: round(chart.y(value)), r: 3.5 }]];
}

// The legend tells the newest values, or those under the reading line.
function drawLegend(chart, isReading) {
  const names = chart.shown.filter(series => series.run === 0);
  fill(chart.legend, names, () => element("span", {}, element("i"), element("span"), element("b")), (node, { name, index }) => {
    setClass(node, `series-${index}`);
    setText(node.children[1], name);
    const values = chart.shown.filter(series => series.index === index).map(series => {
      const point = isReading ? readPoint(series) : last(series.points);
      return point ? chart.format(series.value(point)) : "–";
    });
    setText(node.children[2], values.join(" | "));
  });
}

function readoutText() {
  if (!longestRows().length) return "There are no values yet.";
  if (readingStep === null) {
    const { from, to } = range();
    if (document.activeElement === byId("charts")) return "Arrows read values, + − zoom, 0 shows all.";
    return view.from === null ? "Fine lines: epochs. Drag to zoom." : `Steps ${whole(from)} to ${whole(to)}`;
  }
  const text = `Step ${whole(readingStep)} · epoch ${runs[0].epochOf(readingStep)}`;
  const near = nearestMark();
  return near ? `${text} · ${near.text}` : text;
}

function nearestMark() {
  const { x } = charts[0];
  const marks = runs.flatMap(run => run.marks());
  const gap = mark => Math.abs(x(mark.step) - x(readingStep));
  const nearest = marks.reduce((best, mark) => !best || gap(mark) < gap(best) ? mark : best, null);
  return nearest && gap(nearest) < 7 ? nearest : null;
}

const stepOfPlace = (chart, place) => chart.from + (chart.to - chart.from) * (place - MARGIN.left) / chart.inner.width;

// The step of the row that is nearest to a place in a chart.
function stepAt(chart, place) {
  const step = stepOfPlace(chart, place), rows = longestRows();
  const i = clamp(firstFrom(rows, step), 0, rows.length - 1);
  if (i > 0 && step - rows[i - 1].step < rows[i].step - step) return rows[i - 1].step;
  return rows[i].step;
}

// The rows of the run that has come farthest.
function longestRows() {
  const end = run => last(run.rows)?.step ?? 0;
  return runs.reduce((first, run) => end(run) > end(first) ? run : first).rows;
}

let isReadingDue = false;
function readSoon(step) {
  readingStep = step;
  if (isReadingDue) return;
  isReadingDue = true;
  requestAnimationFrame(() => { isReadingDue = false; drawReading(); });
}

function listenToPointer(chart) {
  const { svg, selection } = chart;
  const place = event => {
    const box = svg.getBoundingClientRect();
    return clamp((event.clientX - box.left) * chart.width / box.width, MARGIN.left, chart.width - MARGIN.right);
  };
  let begin = null;
  const forget = () => { begin = null; setAttribute(selection, "visibility", "hidden"); };
  svg.onpointerdown = event => {
    if (event.button !== 0 || !longestRows().length) return;
    begin = place(event);
    svg.setPointerCapture(event.pointerId);
    readSoon(stepAt(chart, begin));
  };
  svg.onpointermove = event => {
    if (!longestRows().length) return;
    const now = place(event);
    readSoon(stepAt(chart, now));
    if (begin === null) return;
    setAttributes(selection, { x: Math.min(begin, now), width: Math.abs(now - begin), y: MARGIN.top, height: chart.inner.height, visibility: "visible" });
  };
  svg.onpointerup = event => {
    if (begin === null) return;
    const [low, high] = [begin, place(event)].sort((a, b) => a - b);
    forget();
    if (high - low > 6) setView(stepOfPlace(chart, low), stepOfPlace(chart, high));
  };
  svg.onpointercancel = forget;
  // A finger leaves when it is lifted, and its reading is to stay.
  svg.onpointerleave = event => { if (event.pointerType === "mouse") readSoon(null); };
  svg.ondblclick = () => changeView("whole");
}

function moveReading(by) {
  const rows = longestRows();
  if (!rows.length) return;
  const { from, to } = range();
  const low = firstFrom(rows, from), high = firstFrom(rows, to + 1) - 1;
  const stride = Math.max(1, Math.round((high - low) / 100));
  const now = readingStep === null ? (by > 0 ? low - stride : high + stride) : firstFrom(rows, readingStep);
  readSoon(rows[clamp(now + by * stride, low, high)].step);
}

const CHART_KEYS = {
  ArrowLeft: event => event.shiftKey ? changeView("left") : moveReading(-1),
  ArrowRight: event => event.shiftKey ? changeView("right") : moveReading(1),
  "+": () => changeView("in"),
  "-": () => changeView("out"),
  0: () => changeView("whole"),
  Escape: () => readSoon(null),
};

function startCharts() {
  const box = byId("charts");
  box.append(...charts.map(chart => chart.node));
  box.addEventListener("keydown", event => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : CHART_KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act(event);
  });
  box.onfocus = box.onblur = () => readSoon(null);
  document.querySelectorAll("[data-view]").forEach(button => { button.onclick = () => changeView(button.dataset.view); });
  const sizes = new ResizeObserver(entries => {
    for (const { target, contentRect } of entries) {
      const chart = charts.find(one => one.svg.parentNode === target);
      Object.assign(chart, { width: Math.max(160, contentRect.width), height: Math.max(60, contentRect.height) });
    }
    requestAnimationFrame(drawCharts);
  });
  charts.forEach(chart => sizes.observe(chart.svg.parentNode));
}

// ---- evaluations

// The values, their names and how they are written: docs/evaluation.md.
const VALUES = [
  ["frechet_distance", "Fréchet distance, lower is better", distance],
  ["kernel_distance", "kernel distance, lower is better", significant],
  ["classifier_score", "classifier score, to 10", v => fixed(v, 2)],
  ["class_share_min", "rarest digit, best is 10%", v => percent(v, 1)],
  ["class_share_max", "most frequent digit, best is 10%", v => percent(v, 1)],
];

function bestOf(run) {
  return run.evaluations.reduce((best, row) => !best || row.frechet_distance < best.frechet_distance ? row : best, null);
}

function drawEvaluations() {
  evaluationsAreOld = false;
  if (runs.length > 1) return drawComparison();
  const [run] = runs;
  const best = bestOf(run);
  const head = ["epoch", "step", ...VALUES.map(([, name]) => name)];
  const rows = run.evaluations.slice(-200).reverse().map(row => ({
    class: row === best ? "best" : "",
    cells: [run.epochOf(row.step) + (row === best ? " ★ best" : ""), whole(row.step), ...VALUES.map(([key, , format]) => format(row[key]))],
  }));
  fillTable(byId("evaluations-table"), head, rows.length ? rows : [{ cells: ["none yet"] }]);
}

function drawComparison() {
  const head = ["", ...runs.flatMap(run => [`${run.name}, best`, `${run.name}, newest`])];
  const rows = runs.map(run => [bestOf(run), last(run.evaluations)]).flat();
  const line = (name, text) => ({ cells: [name, ...rows.map(row => row ? text(row) : "–")] });
  fillTable(byId("evaluations-table"), head, [
    line("step", row => whole(row.step)),
    ...VALUES.map(([key, name, format]) => line(name, row => format(row[key]))),
  ]);
}

// ---- workers

// What the roles are called, with their sign and colour; those that need attention come first.
const ROLES = {
  outside: ["waiting outside", "▲", "warning"],
  disconnected: ["away", "✕", "bad"],
  starting: ["starting", "◌", "idle"],
  trial: ["on trial", "◌", "idle"],
  member: ["training", "●", "good"],
  ready: ["ready", "○", "idle"],
  spare: ["spare", "○", "idle"],
};
const ROLE_ORDER = Object.keys(ROLES);
const MEMBER_HEAD = ["worker", "state", "shards", "ms per shard", "heartbeat", "up for"];

function createMembers() {
  const table = element("table", { className: "members" });
  return element("div", {}, element("h3"), element("p", { className: "summary" }),
    element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Workers" }, table), element("ul", { className: "gone" }));
}

function drawMembers() {
  fill(byId("members-of-runs"), runs, createMembers, (node, run) => {
    const [name, summary, scroll, gone] = node.children;
    setText(name, run.name);
    name.hidden = runs.length === 1;
    setText(summary, membersSummary(run));
    const workers = [...run.status.workers].sort((a, b) => ROLE_ORDER.indexOf(a.role) - ROLE_ORDER.indexOf(b.role) || (a.rank ?? 1e9) - (b.rank ?? 1e9));
    scroll.hidden = !workers.length;
    fillTable(scroll.firstChild, MEMBER_HEAD, workers.map(memberRow));
    drawGone(run, gone);
  });
}

function membersSummary(run) {
  if (!run.status.workers.length) return run.hasEnded ? "The run has ended, and its workers with it." : "There are no workers now.";
  const counts = ROLE_ORDER.map(role => [role, withRole(run, role).length]);
  return counts.filter(([, n]) => n).map(([role, n]) => `${n} ${ROLES[role][0]}`).join(", ");
}

function memberRow(worker) {
  const [word, sign, colour] = ROLES[worker.role] ?? [worker.role, "?", "idle"];
  const why = worker.outside ? `: ${worker.outside}` : "";
  return { class: colour, cells: [
    worker.name, `${sign} ${word}${why}`, (worker.shards ?? []).join(" "), fixed(worker.shard_ms, 1),
    isNumber(worker.heartbeat_ms) ? `${fixed(worker.heartbeat_ms / 1000, 1)} s ago` : "–",
    worker.incarnation ? duration(Date.now() / 1000 - worker.incarnation / 1e6) : "–"] };
}

function drawGone(run, list) {
  const gone = run.status.gone.map(one => `${one.name} went at step ${whole(one.step)}, ${duration(one.seconds_ago)} ago: ${one.reason}`);
  const recoveries = run.status.recoveries.map(one =>
    `${one.cause}: ${isNumber(one.took_ms) ? `the next step was done ${fixed(one.took_ms / 1000, 2)} s later` : "not yet recovered"}, ${duration(one.seconds_ago)} ago`);
  fill(list, [...gone.slice(-8), ...recoveries.slice(-8)], () => element("li"), setText);
}

// ---- about the run

function createAbout() {
  return element("div", {}, element("h3"), element("dl"), element("details", {}, element("summary", {}, "Settings"), element("dl")));
}

function drawAbout() {
  fill(byId("about-runs"), runs, createAbout, (node, run) => {
    const [name, facts, details] = node.children;
    setText(name, run.name);
    name.hidden = runs.length === 1;
    const { status } = run;
    drawPairs(facts, [["folder", status.directory], ["run", status.run], ["digest of the newest step", status.digest],
      ["plan", status.generation === null ? "none, the run has ended" : `generation ${status.generation}`],
      ["newest checkpoint", status.checkpoint ? `step ${whole(status.checkpoint)}` : "none yet"],
      ["digits are drawn with", status.shown ? `step ${whole(status.shown.step)}` : "nothing yet"]]);
    drawPairs(details.lastChild, Object.entries(status.settings ?? {}));
  });
}

function drawPairs(list, pairs) {
  fill(list, pairs, () => element("div", {}, element("dt"), element("dd")), (node, [key, value]) => {
    setText(node.firstChild, key);
    setText(node.lastChild, value ?? "–");
  });
}

// ---- the playground

const SIDE = 28;  // of a digit, in pixels
const playground = { isSeen: false, panels: [], chosen: 0, drawing: null };

function wishes() {
  const value = id => byId(id).value.trim();
  return { seed: value("seed"), rows: Number(value("rows")), columns: Number(value("columns")), truncation: value("truncation"), checkpoint: value("checkpoint"), weights: value("weights") };
}

// Every picture that is wanted side by side: each run, and each kind of weights.
function wantedPanels(weights) {
  return runs.flatMap(run => {
    const there = run.status.shown?.weights ?? ["ema", "raw"];
    const kinds = weights === "both" ? there : [there.includes(weights) ? weights : there[0]];
    return kinds.map(kind => ({ run, kind }));
  });
}

const KINDS = { ema: "moving average", raw: "as trained" };

function panelTitle({ run, kind }) {
  return runs.length > 1 ? `${run.name}, ${KINDS[kind]}` : KINDS[kind];
}

const panelCaption = panel => `${panelTitle(panel)}, after step ${whole(Number(panel.step))}`;

// A bitmap is drawn on a canvas: no address of a picture is needed that a strict policy would forbid.
async function picture(path) {
  const answer = await ask(path);
  return { bitmap: await createImageBitmap(await answer.blob()), step: answer.headers.get("x-step") };
}

// The pictures of all wanted panels. An error is said at its place, and gives none.
async function pictures(what, wish, values, errorId) {
  const common = { truncation: wish.truncation, checkpoint: wish.checkpoint, ...values };
  const wanted = wantedPanels(wish.weights);
  try {
    const got = await Promise.all(wanted.map(({ run, kind }) =>
      picture(run.path(`${what}?${new URLSearchParams({ ...common, weights: kind })}`))));
    setText(byId(errorId), "");
    return wanted.map((panel, i) => ({ ...panel, ...got[i] }));
  } catch (error) {
    setText(byId(errorId), `This cannot be drawn: ${error.message}`);
    return null;
  }
}

async function drawPlayground() {
  if (!byId("wishes").reportValidity()) return;
  const wish = wishes();
  const ticket = playground.drawing = {};
  const panels = await pictures("sample.png", wish, { seed: wish.seed, rows: wish.rows, columns: wish.columns, first: 0 }, "playground-error");
  if (panels && ticket === playground.drawing) showPanels(wish, panels);
}

function showPanels(wish, panels) {
  Object.assign(playground, { panels, wish, chosen: Math.min(playground.chosen, wish.rows * wish.columns - 1) });
  for (const [name, value] of [["--columns", wish.columns], ["--rows", wish.rows], ["--panels", Math.min(2, panels.length)]]) {
    byId("panels").style.setProperty(name, value);
  }
  fill(byId("panels"), panels, createPanel, (node, panel) => {
    const [canvas, buttons] = node.firstChild.children;
    paint(canvas, panel.bitmap);
    setText(node.lastChild, panelCaption(panel));
    fill(buttons, Array.from({ length: wish.rows * wish.columns }), createDigit, (button, _, i) => {
      setAttributes(button, { "aria-label": `digit ${wish.seed}:${i}`, tabindex: i === playground.chosen ? 0 : -1 });
    });
  });
  choose(playground.chosen);
}

function createPanel() {
  const buttons = element("div", { className: "digits", role: "group", ariaLabel: "Digits; arrow keys move" });
  buttons.addEventListener("click", event => {
    const i = [...buttons.children].indexOf(event.target.closest("button"));
    if (i >= 0) choose(i);
  });
  buttons.addEventListener("keydown", event => moveInDigits(event, buttons));
  return element("figure", { className: "panel" }, element("div", { className: "panel-picture" }, element("canvas"), buttons), element("figcaption"));
}

const createDigit = () => element("button", { type: "button" });

function paint(canvas, bitmap) {
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

function moveInDigits(event, buttons) {
  const { columns } = playground.wish;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const to = playground.chosen + by;
  if (!by || to < 0 || to >= buttons.children.length) return;
  event.preventDefault();
  choose(to);
  buttons.children[to].focus();
}

function choose(index) {
  const { wish, panels } = playground;
  playground.chosen = index;
  document.querySelectorAll(".digits").forEach(buttons => [...buttons.children].forEach((button, i) => {
    setAttributes(button, { tabindex: i === index ? 0 : -1, "aria-pressed": i === index });
  }));
  setText(byId("lens-name"), `${wish.seed}:${index}`);
  fill(byId("lens"), panels, () => element("figure", {}, element("canvas", { width: SIDE, height: SIDE }), element("figcaption")), (node, panel) => {
    const column = index % wish.columns, row = Math.floor(index / wish.columns);
    node.firstChild.getContext("2d").drawImage(panel.bitmap, column * SIDE, row * SIDE, SIDE, SIDE, 0, 0, SIDE, SIDE);
    setText(node.lastChild, panelTitle(panel));
  });
}

async function drawStrips() {
  if (!byId("strip-form").reportValidity()) return;
  const [from, to, frames] = ["from", "to", "frames"].map(id => byId(id).value);
  const panels = await pictures("interpolation.png", wishes(), { from, to, frames }, "strip-error");
  if (!panels) return;
  fill(byId("strips"), panels, () => element("figure", {}, element("canvas", { role: "img" }), element("figcaption")), (node, panel) => {
    paint(node.firstChild, panel.bitmap);
    setAttribute(node.firstChild, "aria-label", `${frames} digits between ${from} and ${to}`);
    node.style.setProperty("--columns", frames);
    setText(node.lastChild, panelCaption(panel));
  });
}

function drawBoth() {
  drawPlayground();
  drawStrips();
}

function sendToStrip(id) {
  if (!playground.wish) return;
  byId(id).value = byId("lens-name").textContent;
  drawStrips();
}

function drawCheckpoints() {
  const steps = runs.flatMap(run => [run.status.checkpoint, run.status.best?.step]).filter(Boolean);
  const names = ["newest", "best", ...new Set(steps.map(String))];
  fill(byId("checkpoints"), names, () => element("option"), (option, name) => setAttribute(option, "value", name));
}

function startPlayground() {
  const submit = (form, act) => byId(form).addEventListener("submit", event => { event.preventDefault(); act(); });
  submit("wishes", drawBoth);
  submit("strip-form", drawStrips);
  byId("wishes").addEventListener("change", drawBoth);
  byId("truncation").addEventListener("input", event => setText(byId("truncation-value"), Number(event.target.value).toFixed(2)));
  byId("dice").onclick = () => { byId("seed").value = Math.floor(Math.random() * 1e6); drawPlayground(); };
  byId("copy-name").onclick = event => copy(byId("lens-name").textContent, event.currentTarget);
  byId("as-from").onclick = () => sendToStrip("from");
  byId("as-to").onclick = () => sendToStrip("to");
  // Nothing is drawn for somebody who never looks here.
  new IntersectionObserver(entries => {
    playground.isSeen ||= entries.some(entry => entry.isIntersecting);
    drawPlaygroundOnce();
  }).observe(byId("playground"));
}

function drawPlaygroundOnce() {
  if (!playground.isSeen || playground.panels.length || playground.drawing || !runs.some(run => run.status.shown)) return;
  drawBoth();
}

// ---- what is read aloud, and the title

let spokenState = null, spokenEpoch = null;

function speak() {
  const state = runs.map(run => `${runs.length > 1 ? run.name + ": " : ""}${stateOf(run)[0]}. ${troublesOf(run).map(([, text]) => text).join(" ")}`).join(" ");
  const epoch = runs.map(run => run.status.epoch).join();
  const isFirst = spokenState === null;
  const text = state !== spokenState ? state : epoch !== spokenEpoch ? epochText() : null;
  spokenState = state;
  spokenEpoch = epoch;
  if (text && !isFirst) setText(byId("spoken"), text);
}

function epochText() {
  return runs.map(run => {
    const { epoch, epochs, best } = run.status;
    const quality = best ? ` Best Fréchet distance ${distance(best.value)}.` : "";
    return `${runs.length > 1 ? run.name + ": " : ""}epoch ${epoch} of ${epochs}.${quality}`;
  }).join(" ");
}

function drawTitle() {
  const names = runs.map(run => run.name).join(" and ");
  setText(byId("title"), names);
  const [run] = runs;
  const sign = troublesOf(run).length ? "⚠ " : "";
  const [word] = stateOf(run);
  const title = `${sign}${word === "Training" ? `Epoch ${run.status.epoch}/${run.status.epochs}` : word} · ${names}`;
  if (document.title !== title) document.title = title;
}

// ---- drawing, at most once a second

let drawTimer = null, drawnAt = 0;
let runs = [], headers = [], plates = [], charts = [];

function changed() {
  if (drawTimer || document.hidden) return;
  drawTimer = setTimeout(draw, Math.max(0, drawnAt + 1000 - performance.now()));
}

function draw() {
  drawTimer = null;
  drawnAt = performance.now();
  runs.forEach((run, i) => drawRunHeader(run, headers[i]));
  drawTitle();
  drawGallery();
  if (chartsAreOld) drawCharts();
  if (evaluationsAreOld) drawEvaluations();
  drawMembers();
  drawAbout();
  drawCheckpoints();
  drawPlaygroundOnce();
  speak();
}

function sleepOrWake() {
  if (document.hidden) {
    clearTimeout(drawTimer);
    drawTimer = null;
    setPlaying(false);
    runs.forEach(run => run.link.close());
  } else {
    runs.forEach(run => run.link.open());
    changed();
  }
}

function startTheme() {
  const select = byId("theme");
  select.value = keptTheme();
  select.onchange = () => setTheme(select.value);
}

function start() {
  const state = JSON.parse(byId("state").textContent);
  runs = state.runs.map((run, i) => new Run(i, run.name, state.status[i], state.grids[i]));
  document.documentElement.classList.toggle("two-runs", runs.length > 1);
  headers = runs.map(createRunHeader);
  byId("runs").replaceChildren(...headers);
  plates = runs.map(createPlate);
  charts = CHARTS.map(createChart);
  startTheme();
  startGallery();
  startCharts();
  startPlayground();
  draw();
  document.addEventListener("visibilitychange", sleepOrWake);
  window.addEventListener("online", () => runs.forEach(run => run.link.lostSince && run.link.open()));
  if (!document.hidden) runs.forEach(run => run.link.open());
}

// Until it is drawn the page is not shown, so that nothing moves.
document.addEventListener("DOMContentLoaded", () => {
  try { start(); } finally { document.documentElement.classList.remove("starting"); }
});
