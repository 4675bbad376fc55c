(async function () {
  "use strict";
  const by = (id) => document.getElementById(id);
  const say = (text) => { by("count").textContent = text; };
  function bytes(base64) {
    const text = atob(base64), out = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) { out[i] = text.charCodeAt(i); }
    return out;
  }
  if (typeof DecompressionStream === "undefined") {
    by("old").hidden = false;
    return;
  }
  const packed = new Blob([bytes(by("data").textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = JSON.parse(await new Response(packed).text()), scans = data.scans, total = scans.place.length;
  scans.name = scans.place.map((name) => name.slice(name.lastIndexOf("/") + 1));
  const lines = data.lines, place = new Map((lines.rows || []).map((row, index) => [row, index]));
  const words = { good: "good", caution: "look first", poor: "poor", none: "no result", "": "–" };
  document.documentElement.classList.add("js");

  function num(value) {
    if (value === null) { return "–"; }
    const text = Math.abs(value) >= 1000 ? String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f") : String(Number(value.toPrecision(4)));
    return text.replace("-", "−");
  }

  // What a reader decides: kept in this browser, saved as a table.
  const store = "blindharmony " + data.id;
  let decisions = {};
  try { decisions = JSON.parse(localStorage.getItem(store)) || {}; } catch (error) { /* a browser that keeps nothing */ }
  const decided = (i) => decisions[scans.place[i]] || {};
  function decide(i, change) {
    const now = Object.assign({}, decided(i), change);
    if (now.decision || now.note) { decisions[scans.place[i]] = now; } else { delete decisions[scans.place[i]]; }
    keep();
  }
  function keep() {
    try { localStorage.setItem(store, JSON.stringify(decisions)); } catch (error) { /* the same */ }
    const given = Object.values(decisions).filter((d) => d.decision).length;
    by("decided").textContent = given ? given + " of " + total + " scans decided" : "nothing decided yet";
    by("save").disabled = !Object.keys(decisions).length;
  }
  const cell = (text) => String(text || "").replace(/\s+/g, " ").trim() || "n/a";
  by("save").addEventListener("click", function () {
    const rows = [["scan", "decision", "note", "verdict"]];
    scans.place.forEach((name, i) => {
      const d = decisions[name];
      if (d) { rows.push([name, cell(d.decision), cell(d.note), cell(scans.level[i])]); }
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([rows.map((r) => r.join("\t")).join("\n") + "\n"], { type: "text/tab-separated-values" }));
    link.download = "decisions.tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  by("load").addEventListener("change", async function () {
    if (!this.files.length) { return; }
    const known = new Set(scans.place);
    let count = 0;
    (await this.files[0].text()).split("\n").slice(1).forEach((line) => {
      const [name, decision, note] = line.split("\t");
      if (!known.has(name)) { return; }
      decisions[name] = { decision: ["accept", "reject"].includes(decision) ? decision : "", note: note === "n/a" ? "" : note || "" };
      count += 1;
    });
    this.value = "";
    keep();
    draw(true);
    panel();
    by("decided").textContent += "; " + count + " read from the file";
  });

  // Which scans are shown, in which order.
  let order = Array.from(scans.name.keys()), shown = order, fits = new Uint8Array(total).fill(1), chosen = -1, active = 0;
  const find = by("find"), scanner = by("scanner"), only = by("only");
  data.scanners.forEach((name, i) => scanner.add(new Option(name, String(i))));
  const lower = scans.name.map((name) => name.toLowerCase());
  function filter() {
    const text = find.value.toLowerCase(), which = scanner.value, what = only.value;
    for (let i = 0; i < total; i++) {
      const d = what === "accept" || what === "reject" || what === "open" ? decided(i).decision || "open" : "";
      fits[i] = lower[i].includes(text) && (!which || scans.scanner[i] === Number(which)) &&
        (!what || (d ? d === what : what === "odd" ? scans.why[i] !== "" : scans.level[i] === what)) ? 1 : 0;
    }
    shown = order.filter((i) => fits[i]);
    active = 0;
    frame.scrollTop = 0;
    draw(true);
    points();
    say(shown.length + " of " + total + " scans");
  }
  [find, scanner, only].forEach((input) => input.addEventListener("input", filter));

  // The table: only the rows in view are there; where there are few, all are.
  const table = by("table"), body = table.tBodies[0], frame = table.parentNode, MOST = 100, MORE = 30;
  const rowHeight = () => (body.querySelector("tr[data-row]") || { offsetHeight: 0 }).offsetHeight || 33;
  let tall = 33, first = -1, last = -1;
  const cells = [
    (i) => words[scans.level[i]], (i) => scans.why[i], (i) => num(scans.before[i]), (i) => num(scans.after[i]),
    (i) => num(scans.change[i]), (i) => data.scanners[scans.scanner[i]], (i) => num(scans.excess_before[i]),
    (i) => num(scans.excess_after[i]), (i) => String(scans.warnings[i] ? scans.warnings[i].length : 0), (i) => decided(i).decision || ""
  ];
  const classes = ["level", "text", "", "", "", "name", "", "", "", "text"];
  function link(i) {
    if (!scans.report[i]) { return document.createTextNode(scans.name[i]); }
    const a = document.createElement("a");
    a.href = scans.report[i];
    a.textContent = scans.name[i];
    return a;
  }
  function row(i, at) {
    const tr = document.createElement("tr"), head = document.createElement("th");
    tr.dataset.row = i;
    tr.dataset.at = at;
    tr.setAttribute("aria-rowindex", at + 2);
    tr.className = (scans.why[i] ? "odd" : "") + (i === chosen ? " chosen" : "");
    head.scope = "row";
    head.title = scans.name[i];
    head.appendChild(link(i));
    tr.appendChild(head);
    cells.forEach((text, column) => {
      const td = tr.insertCell();
      td.textContent = text(i);
      td.className = classes[column] + (column === 0 ? " " + scans.level[i] : "");
      if (classes[column] && td.textContent) { td.title = td.textContent; }
    });
    stop(tr, at === active ? 0 : -1);
    return tr;
  }
  function stop(tr, index) {
    tr.tabIndex = index;
    const a = tr.querySelector("a");
    if (a) { a.tabIndex = index; }
  }
  function spacer(rows) {
    const tr = document.createElement("tr");
    tr.setAttribute("aria-hidden", "true");
    tr.className = "space";
    tr.style.height = rows * tall + "px";
    return tr;
  }
  function draw(anew) {
    const few = shown.length <= MOST, top = Math.floor(frame.scrollTop / tall), view = Math.ceil(frame.clientHeight / tall);
    const from = few ? 0 : Math.max(0, top - MORE), to = few ? shown.length : Math.min(shown.length, top + view + MORE);
    // A margin that is half used up is renewed.
    if (!anew && (few || (first <= Math.max(0, top - MORE / 2) && last >= Math.min(shown.length, top + view + MORE / 2)))) { return; }
    const focused = body.contains(document.activeElement);
    if (!few && (active < from || active >= to) && !focused) { active = top; }
    [first, last] = [from, to];
    const rows = shown.slice(from, to).map((i, k) => row(i, from + k));
    if (from) { rows.unshift(spacer(from)); }
    if (to < shown.length) { rows.push(spacer(shown.length - to)); }
    body.replaceChildren(...rows);
    table.setAttribute("aria-rowcount", shown.length + 1);
    if (focused) {
      const again = body.querySelector('tr[data-at="' + active + '"]');
      (again || frame).focus({ preventScroll: true });
    }
  }
  frame.addEventListener("scroll", () => draw(false), { passive: true });
  function reach(at, focus) {
    active = Math.max(0, Math.min(shown.length - 1, at));
    const head = table.tHead.offsetHeight, up = active * tall, down = up + tall + head;
    if (up < frame.scrollTop) { frame.scrollTop = up; }
    if (down > frame.scrollTop + frame.clientHeight) { frame.scrollTop = down - frame.clientHeight; }
    draw(false);
    body.querySelectorAll("tr[data-row]").forEach((tr) => stop(tr, Number(tr.dataset.at) === active ? 0 : -1));
    const tr = body.querySelector('tr[data-at="' + active + '"]');
    if (focus && tr) { tr.focus({ preventScroll: true }); }
  }
  body.addEventListener("click", (event) => {
    const tr = event.target.closest("tr[data-row]");
    if (tr && !event.target.closest("a")) { choose(Number(tr.dataset.row)); }
  });
  // Rows are walked with the arrow keys, so that Tab does not stop a thousand times.
  body.addEventListener("keydown", (event) => {
    const tr = event.target.closest("tr[data-row]");
    if (!tr || event.target.closest("a") || event.ctrlKey || event.metaKey || event.altKey) { return; }
    const page = Math.max(1, Math.floor(frame.clientHeight / tall) - 2), at = Number(tr.dataset.at), i = Number(tr.dataset.row);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: shown.length - 1 }[event.key];
    const decision = { a: "accept", r: "reject" }[event.key];
    if (to !== undefined) { reach(to, true); }
    else if (event.key === "Enter" || event.key === " ") { choose(i); }
    else if (decision) { decide(i, { decision: decided(i).decision === decision ? "" : decision }); if (chosen !== i) { choose(i); } else { panel(); } draw(true); }
    else { return; }
    event.preventDefault();
  });

  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    const button = document.createElement("button"), text = head.dataset.kind === "text";
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    const numbers = { 3: "before", 4: "after", 5: "change", 7: "excess_before", 8: "excess_after" }[column];
    const value = column === 0 ? (i) => lower[i] : numbers ? (i) => (scans[numbers][i] === null ? -Infinity : scans[numbers][i]) :
      column === 9 ? (i) => (scans.warnings[i] || []).length : (i) => cells[column - 1](i).toLowerCase();
    button.addEventListener("click", () => {
      const up = text ? head.getAttribute("aria-sort") !== "ascending" : head.getAttribute("aria-sort") === "descending";
      Array.from(head.parentNode.cells).forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keys = scans.name.map((name, i) => value(i));
      order = order.slice().sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : 0) * (up ? 1 : -1));
      filter();
    });
  });

  // One chosen scan: its row, its point, its lines, what is said of it, what the reader decides.
  function line(name, count, x0, x1, value) {
    const chart = document.querySelector('[data-chart="' + name + '"]');
    if (!chart) { return; }
    const old = chart.querySelector(".chosen");
    if (old) { old.remove(); }
    if (!value) { return; }
    const axes = chart.dataset.axes.split(" ").map(Number), box = chart.viewBox.baseVal;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    let d = "";
    for (let k = 0; k < count; k++) {
      const x = x0 + (x1 - x0) * k / (count - 1);
      d += (k ? "L" : "M") + (box.x + (x - axes[0]) / (axes[1] - axes[0]) * box.width).toFixed(1) + " " +
        (box.y + box.height - (value(k) - axes[2]) / (axes[3] - axes[2]) * box.height).toFixed(1);
    }
    path.setAttribute("class", "line chosen");
    path.setAttribute("d", d);
    chart.appendChild(path);
  }
  const unpacked = {};
  function linesOf(i) {
    const at = place.get(i);
    ["before", "after"].forEach((when) => ["histogram", "profile"].forEach((kind) => {
      const name = kind + "-" + when, about = lines[kind];
      if (!about) { return; }
      if (at === undefined) { line(name); return; }
      const values = unpacked[name] = unpacked[name] || bytes(lines[name]);
      line(name, about.count, about.from, about.to, (k) => about.low + (about.high - about.low) * values[at * about.count + k] / 255);
    }));
  }
  function choose(i) {
    chosen = chosen === i ? -1 : i;
    body.querySelectorAll("tr.chosen").forEach((tr) => tr.classList.remove("chosen"));
    const tr = body.querySelector('tr[data-row="' + chosen + '"]');
    if (tr) { tr.classList.add("chosen"); }
    linesOf(chosen);
    points();
    panel();
  }
  function panel() {
    const i = chosen, there = i >= 0;
    by("one").hidden = !there;
    by("chosen").textContent = there ? "Chosen: " + scans.name[i] : "";
    if (!there) { return; }
    by("one-name").replaceChildren(link(i));
    by("one-said").textContent = words[scans.level[i]] + (scans.after[i] === null ? "" : "; distance " + num(scans.before[i]) + " before, " + num(scans.after[i]) + " after") +
      "; scanner " + data.scanners[scans.scanner[i]] + ".";
    by("one-why").replaceChildren(...[scans.why[i], ...(scans.warnings[i] || [])].filter(Boolean).map((text) => {
      const li = document.createElement("li");
      li.textContent = text;
      return li;
    }));
    ["accept", "reject"].forEach((name) => by(name).setAttribute("aria-pressed", String(decided(i).decision === name)));
    by("note").value = decided(i).note || "";
  }
  ["accept", "reject"].forEach((name) => by(name).addEventListener("click", () => {
    decide(chosen, { decision: decided(chosen).decision === name ? "" : name });
    panel();
    draw(true);
  }));
  by("note").addEventListener("input", () => { if (chosen >= 0) { decide(chosen, { note: by("note").value }); } });

  // A point for each scan.
  const canvas = by("points"), colours = by("color"), tip = by("tip");
  let dots = [], across = [], hovered = -1;
  const groups = Array.from(data.scanners.keys()).slice(0, 8);
  function points() {
    if (!canvas) { return; }
    const svg = document.querySelector('[data-chart="distances"]'), axes = svg.dataset.axes.split(" ").map(Number);
    const box = canvas.getBoundingClientRect(), sharp = window.devicePixelRatio || 1, style = getComputedStyle(canvas);
    if (!box.width) { return; }
    const size = [Math.round(box.width * sharp), Math.round(box.height * sharp)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) { [canvas.width, canvas.height] = size; }
    const pen = canvas.getContext("2d"), colour = (name) => style.getPropertyValue(name).trim();
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    const byScanner = colours.value === "scanner", radius = total > 5000 ? 1.7 : total > 500 ? 2.6 : 4.5;
    dots = [];
    const heaps = new Map();
    for (let i = 0; i < total; i++) {
      if (scans.before[i] === null || scans.after[i] === null) { continue; }
      const x = (scans.before[i] - axes[0]) / (axes[1] - axes[0]) * box.width, y = box.height - (scans.after[i] - axes[2]) / (axes[3] - axes[2]) * box.height;
      if (fits[i]) { dots.push([i, x, y]); }
      const name = byScanner ? (scans.scanner[i] < groups.length ? "--group-" + scans.scanner[i] : "--muted") : "--" + scans.level[i], key = (fits[i] ? "1" : "0") + name;
      if (!heaps.has(key)) { heaps.set(key, []); }
      heaps.get(key).push(x, y);
    }
    Array.from(heaps.keys()).sort().forEach((key) => {
      const at = heaps.get(key);
      pen.globalAlpha = key[0] === "0" ? 0.1 : total > 5000 ? 0.6 : 0.8;
      pen.fillStyle = colour(key.slice(1)) || colour("--after");
      pen.beginPath();
      for (let k = 0; k < at.length; k += 2) { pen.moveTo(at[k] + radius, at[k + 1]); pen.arc(at[k], at[k + 1], radius, 0, 6.2832); }
      pen.fill();
    });
    pen.globalAlpha = 1;
    pen.strokeStyle = colour("--ink");
    [[chosen, 2.5], [hovered, 1.5]].forEach(([i, width]) => {
      const dot = dots.find((d) => d[0] === i);
      if (!dot) { return; }
      pen.lineWidth = width;
      pen.beginPath();
      pen.arc(dot[1], dot[2], radius + 3, 0, 6.2832);
      pen.stroke();
    });
    canvas.dataset.points = dots.length;
  }
  function label(i) {
    return scans.name[i] + " (" + words[scans.level[i]] + "): " + num(scans.before[i]) + " before, " + num(scans.after[i]) + " after; " + data.scanners[scans.scanner[i]];
  }
  function hover(i) {
    if (i === hovered) { return; }
    hovered = i;
    tip.textContent = i < 0 ? "" : label(i);
    points();
  }
  function nearest(event) {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = 144;
    dots.forEach((d) => { const far = (d[1] - x) ** 2 + (d[2] - y) ** 2; if (far < least) { [best, least] = [d[0], far]; } });
    return best;
  }
  function show(i) {
    if (i !== chosen) { choose(i); }
    reach(shown.indexOf(i), false);
    draw(true);
    frame.scrollIntoView({ block: "center" });
  }
  if (canvas) {
    colours.addEventListener("input", () => { by("by-verdict").hidden = colours.value === "scanner"; by("by-scanner").hidden = colours.value !== "scanner"; points(); });
    groups.forEach((i) => {
      const li = document.createElement("li"), mark = document.createElement("i");
      mark.className = "dot group";
      mark.style.setProperty("--dot", "var(--group-" + i + ")");
      mark.setAttribute("aria-hidden", "true");
      li.append(mark, data.scanners[i]);
      by("by-scanner").appendChild(li);
    });
    if (data.scanners.length > groups.length) { by("by-scanner").append(data.scanners.length - groups.length + " more in gray"); }
    canvas.addEventListener("pointermove", (event) => hover(nearest(event)));
    canvas.addEventListener("pointerleave", () => hover(-1));
    canvas.addEventListener("click", (event) => { const i = nearest(event); if (i >= 0) { show(i); } });
    // With the keyboard: from left to right, from bottom to top, Enter chooses.
    canvas.addEventListener("keydown", (event) => {
      const axis = { ArrowRight: [1, 1], ArrowLeft: [1, -1], ArrowUp: [2, -1], ArrowDown: [2, 1] }[event.key];
      if (axis && dots.length) {
        across = dots.slice().sort((a, b) => a[axis[0]] - b[axis[0]]);
        const at = across.findIndex((d) => d[0] === hovered);
        hover(across[at < 0 ? 0 : Math.max(0, Math.min(across.length - 1, at + axis[1]))][0]);
      } else if ((event.key === "Enter" || event.key === " ") && hovered >= 0) { show(hovered); } else { return; }
      event.preventDefault();
    });
    new ResizeObserver(points).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", points);
  }

  keep();
  filter();
  tall = rowHeight();
  draw(true);
  document.documentElement.dataset.state = "ready";
})();
