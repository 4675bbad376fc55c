(function () {
  "use strict";
  document.documentElement.classList.add("js");
  function by(id) { return document.getElementById(id); }
  var lines = JSON.parse(by("lines").textContent), body = by("table").tBodies[0];
  var rows = Array.prototype.slice.call(body.rows), first = rows.slice();
  var scatter = document.querySelector('[data-chart="distances"]'), dots = {};
  if (scatter) {
    Array.prototype.forEach.call(scatter.querySelectorAll("circle"), function (dot) { dots[dot.dataset.dot] = dot; });
  }
  var place = {};
  (lines.rows || []).forEach(function (row, index) { place[row] = index; });

  // One chosen scan: its row, its point, its lines.
  var chosen = null;
  function line(name, x, y) {
    var chart = document.querySelector('[data-chart="' + name + '"]');
    if (!chart) { return; }
    var old = chart.querySelector(".chosen");
    if (old) { old.remove(); }
    if (!x) { return; }
    var axes = chart.dataset.axes.split(" ").map(Number), box = chart.viewBox.baseVal;
    var path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("class", "line chosen");
    path.setAttribute("d", x.map(function (value, i) {
      var across = box.x + (value - axes[0]) / (axes[1] - axes[0]) * box.width;
      var down = box.y + box.height - (y[i] - axes[2]) / (axes[3] - axes[2]) * box.height;
      return (i ? "L" : "M") + across.toFixed(1) + " " + down.toFixed(1);
    }).join(""));
    chart.appendChild(path);
  }
  function choose(row) {
    if (chosen) {
      chosen.classList.remove("chosen");
      if (dots[chosen.dataset.row]) { dots[chosen.dataset.row].classList.remove("chosen"); }
    }
    chosen = chosen === row ? null : row;
    var at = chosen ? place[chosen.dataset.row] : undefined;
    ["before", "after"].forEach(function (when) {
      var known = at !== undefined;
      line("histogram-" + when, known && lines.at, known && lines["histogram-" + when][at].map(function (v) { return v * lines.scale; }));
      line("profile-" + when, known && lines.ranks, known && lines["profile-" + when][at]);
    });
    if (by("chosen")) { by("chosen").textContent = chosen ? "Chosen: " + chosen.cells[0].textContent : ""; }
    if (!chosen) { return; }
    chosen.classList.add("chosen");
    var dot = dots[chosen.dataset.row];
    if (dot) { dot.classList.add("chosen"); dot.parentNode.appendChild(dot); }
  }
  function stop(row, index) {
    row.tabIndex = index;
    var link = row.querySelector("a");
    if (link) { link.tabIndex = index; }
  }
  function reach(row) {
    rows.forEach(function (each) { stop(each, -1); });
    if (row) { stop(row, 0); }
  }
  body.addEventListener("click", function (event) {
    var row = event.target.closest("tr");
    if (row && !event.target.closest("a")) { choose(row); }
  });
  // Rows are walked with the arrow keys, so that Tab does not stop a thousand times.
  body.addEventListener("keydown", function (event) {
    var row = event.target.closest("tr");
    if (!row || event.target.closest("a")) { return; }
    var next = row;
    if (event.key === "Enter" || event.key === " ") { choose(row); event.preventDefault(); return; }
    do { next = event.key === "ArrowDown" ? next.nextElementSibling : event.key === "ArrowUp" ? next.previousElementSibling : null; } while (next && next.hidden);
    if (next) { reach(next); next.focus(); event.preventDefault(); }
  });
  if (scatter) {
    scatter.addEventListener("click", function (event) {
      var dot = event.target.closest("circle");
      if (!dot) { return; }
      var row = first[Number(dot.dataset.dot)];
      if (row !== chosen) { choose(row); }
      // What is asked for is shown, whatever the filters hide.
      if (row.hidden) { ["find", "scanner", "only"].forEach(function (id) { by(id).value = ""; }); filter(); }
      row.scrollIntoView({ block: "center" });
    });
  }

  function filter() {
    var words = by("find").value.toLowerCase(), scanner = by("scanner").value, only = by("only").value, count = 0;
    rows.forEach(function (row) {
      var fits = row.cells[0].textContent.toLowerCase().indexOf(words) >= 0 &&
        (!scanner || row.cells[7].textContent === scanner) &&
        (!only || (only === "odd" ? row.classList.contains("odd") : row.cells[1].dataset.level === only));
      row.hidden = !fits;
      count += fits ? 1 : 0;
      if (dots[row.dataset.row]) { dots[row.dataset.row].classList.toggle("dim", !fits); }
    });
    by("count").textContent = count + " of " + rows.length + " scans";
    reach(Array.prototype.find.call(body.rows, function (row) { return !row.hidden; }));
  }
  ["find", "scanner", "only"].forEach(function (id) { by(id).addEventListener("input", filter); });

  function value(row, column, kind) {
    var text = row.cells[column].textContent;
    if (kind === "text") { return text.toLowerCase(); }
    var number = parseFloat(text.replace(/−/g, "-").replace(/[^0-9.e-]/g, ""));
    return isNaN(number) ? -Infinity : number;
  }
  Array.prototype.forEach.call(by("table").tHead.rows[0].cells, function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.textContent = "";
    head.appendChild(button);
    button.addEventListener("click", function () {
      var up = head.dataset.kind === "text" ? head.getAttribute("aria-sort") !== "ascending" : head.getAttribute("aria-sort") === "descending";
      Array.prototype.forEach.call(head.parentNode.cells, function (each) { each.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var keyed = rows.map(function (row) { return [value(row, column, head.dataset.kind), row]; });
      keyed.sort(function (a, b) { return (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0) * (up ? 1 : -1); });
      var all = document.createDocumentFragment();
      keyed.forEach(function (pair) { all.appendChild(pair[1]); });
      body.appendChild(all);
    });
  });
  filter();
})();
